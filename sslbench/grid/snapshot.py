"""The code of a submission, copied where no edit of the checkout reaches it."""

import shutil
from importlib import import_module
from pathlib import Path

from sslbench import registry
from sslbench.provenance import SNAPSHOT, code_hash, commit
from sslbench.storage import folder_atomic, write_json

_IGNORED = shutil.ignore_patterns("__pycache__", ".*")


def snapshot(folder: Path) -> Path:
    """Copy the package and the plugins into `folder`/HASH, unless they are there.

    Returns:
        The copy: the package is what `PYTHONPATH` finds in it, plugins are in `plugins/NUMBER`.
    """
    place = folder / code_hash()
    if not place.exists():
        with folder_atomic(place) as temporary:
            package = temporary / "sslbench"
            shutil.copytree(Path(__file__).parent.parent, package, ignore=_IGNORED)
            for kind in registry.KINDS:
                (source,) = import_module(f"sslbench.{kind}").__path__
                shutil.copytree(source, package / kind, ignore=_IGNORED, dirs_exist_ok=True)
            for number, plugins in enumerate(registry.plugin_folders()):
                for kind in ("methods", "tasks", "datasets"):
                    if (plugins / kind).is_dir():
                        copy = temporary / "plugins" / str(number) / kind
                        shutil.copytree(plugins / kind, copy, ignore=_IGNORED)
            write_json(package / SNAPSHOT, commit())
    return place
