"""Where and with what a number was computed."""

import json
import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sslbench import registry
from sslbench.hashing import digest, file_sha256

CODE = ("sslbench", "methods", "tasks", "pyproject.toml")  # what may not differ from the commit
SNAPSHOT = "snapshot.json"  # in a copy of the package: the commit that it was made from
PACKAGES = (
    "sslbench",
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "tokenizers",
    "numpy",
    "scipy",
    "scikit-learn",
)


def _git(*words: str) -> str | None:
    """Output of a git command in the folder of the code, None outside its own checkout."""
    tracked = _ask_git("ls-files", "--error-unmatch", Path(__file__).name)
    return None if tracked is None else _ask_git(*words)


@cache
def _ask_git(*words: str) -> str | None:
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} × {names[0]}" if names else platform.processor()


@cache
def code_hash() -> str:
    """Hash of the Python files of this package and of the plugin folders, as they are on disk."""
    roots = [Path(__file__).parent]
    for kind in registry.KINDS:
        roots += [Path(p) for p in import_module(f"sslbench.{kind}").__path__]
    for kind in (*registry.KINDS, "datasets"):  # what a snapshot takes of a plugin folder
        roots += [folder / kind for folder in registry.plugin_folders()]
    files = {path for root in roots for path in root.rglob("*.py")}
    return digest(sorted(file_sha256(path) for path in files))


def commit() -> dict[str, Any]:
    """The commit of the code, and whether the files differ from it; None where nobody knows."""
    copied = Path(__file__).parent / SNAPSHOT
    if copied.exists():
        return dict(json.loads(copied.read_text(encoding="utf-8")))
    status = _git("status", "--porcelain", "--", *(f":/{name}" for name in CODE))
    dirty = None if status is None else bool(status)
    return {"git_commit": _git("rev-parse", "HEAD"), "git_dirty": dirty}


def provenance(seconds: float, device: str = "cpu") -> dict[str, Any]:
    """The fields of `sslbench.records.Provenance`.

    Args:
        seconds: that the work took.
        device: where it was done.
    """
    import torch

    from sslbench import distributed

    hardware = torch.cuda.get_device_name(device) if device.startswith("cuda") else _cpu()
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **commit(),
        "code": code_hash(),
        "versions": {
            "python": platform.python_version(),
            "cuda": torch.version.cuda or "none",
            **{name: version(name) for name in PACKAGES},
        },
        "hardware": hardware,
        "threads": torch.get_num_threads(),
        "world_size": distributed.world(),
        "seconds": round(seconds, 3),
        "peak_memory_mb": round(peak_mb(), 1),
    }


def peak_mb() -> float:
    """The most memory that this process has held so far, in MB.

    Not `ru_maxrss` where there is better: on Linux it begins at what the parent held.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1024 if sys.platform == "linux" else 1024**2)
