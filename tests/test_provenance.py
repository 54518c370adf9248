"""Where numbers come from."""

import subprocess
import sys

import numpy as np
import pytest

from sslbench.provenance import peak_mb


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system says no more")
def test_the_peak_of_memory_is_not_that_of_the_parent() -> None:
    before = peak_mb()
    held = np.ones(10**8, np.uint8).repeat(4)  # 400 MB
    assert held.nbytes / 1024**2 < peak_mb() <= before + 1000
    command = "from sslbench.provenance import peak_mb; print(peak_mb())"
    child = subprocess.run([sys.executable, "-c", command], capture_output=True, check=True)
    assert 1 < float(child.stdout) < 200
