"""What is installed is what is in the tree, and only under `sslbench`."""

import ast
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names of the files in the wheel, built from a copy of what git would ship."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    names = ["pyproject.toml", "README.md", "LICENSE", "sslbench", "methods", "tasks"]
    tree.mkdir()
    subprocess.run(["cp", "-r", *(ROOT / name for name in names), tree], check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", folder, tree],
        check=True, capture_output=True,
    )  # fmt: skip
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path).namelist()


def test_the_wheel_has_only_sslbench_at_its_top(wheel):
    tops = {name.split("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sslbench"}


def test_every_file_of_the_tree_is_in_the_wheel(wheel):
    for folder, inside in (("sslbench", "sslbench"), ("methods", "sslbench/methods"),
                           ("tasks", "sslbench/tasks")):  # fmt: skip
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"{inside}/{path.relative_to(ROOT / folder)}" in wheel


OPTIONAL = {  # a page is opened where there is a browser; the peer has an environment of its own
    ("publish.py", "playwright"),
    ("lightly_peer.py", "lightly"),
}


def test_every_import_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["onnx"], *extras["open_clip"]]
    declared = {line.split(">")[0].split(";")[0].strip() for line in lines}
    modules = {"sklearn": "scikit-learn", "PIL": "pillow", "faiss": "faiss-gpu"}
    modules |= {"google": "protobuf"}
    for folder in ("sslbench", "methods", "tasks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                for name in (n.split(".")[0] for n in names):
                    if name in sys.stdlib_module_names or name == "sslbench":
                        continue
                    if (path.name, name) not in OPTIONAL:
                        assert modules.get(name, name) in declared, f"{path}: {name}"


def test_the_core_names_no_method_and_no_task():
    for path in (ROOT / "sslbench").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith(("sslbench.methods", "sslbench.tasks"))
