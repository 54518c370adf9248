"""Where and with what a number was computed."""

import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("sslbench", "torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn")


@cache
def _git(*words: str) -> str | None:
    """Output of a git command in the folder of the code, None outside a checkout."""
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


def provenance(seconds: float, code: str | None = None) -> dict[str, Any]:
    """The fields of `sslbench.records.Provenance`.

    Args:
        seconds: that the work took.
        code: hash of the snapshot of the code that ran, None for a checkout.
    """
    import torch

    from sslbench import distributed

    status = _git("status", "--porcelain", "--untracked-files=no", ".")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": None if status is None else bool(status),
        "code": code,
        "versions": {
            "python": platform.python_version(),
            "cuda": torch.version.cuda or "none",
            **{name: version(name) for name in PACKAGES},
        },
        "hardware": ", ".join(gpus) or _cpu(),
        "threads": torch.get_num_threads(),
        "world_size": distributed.world(),
        "seconds": round(seconds, 3),
        "peak_memory_mb": round(peak / (1024 if sys.platform == "linux" else 1024**2), 1),
    }
