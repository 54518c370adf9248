"""The cluster, for the tests of this folder, which all have the marker `slurm`."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.slurm.cluster import NAMESPACES, PACKAGES, Cluster

HERE = Path(__file__).parent
POLICY = Path("/usr/sbin/policy-rc.d")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("slurm")
            item.add_marker(pytest.mark.xdist_group("slurm"))


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of two nodes, which is the one that SLURM's commands talk to while it is in use."""
    _check_machine()
    _install([name for name in PACKAGES if not _installed(name)])
    cluster = Cluster(
        tmp_path_factory.mktemp("slurm"), extra="AccountingStorageEnforce=associations"
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("SLURM_CONF", cluster.env["SLURM_CONF"])
        cluster.up()
        yield cluster
        cluster.down()


def _check_machine() -> None:
    if os.geteuid() != 0:
        pytest.skip("the daemons of SLURM and their devices need root")
    for command in ("unshare", "dpkg-query", "apt-get"):
        if shutil.which(command) is None:
            pytest.skip(f"the cluster is made for Debian: there is no {command}")
    tried = subprocess.run([*NAMESPACES, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"each node is a set of Linux namespaces: {tried.stderr.strip()}")


def _installed(package: str) -> bool:
    query = ["dpkg-query", "--show", "--showformat=${Status}", package]
    done = subprocess.run(query, capture_output=True, text=True)
    return done.stdout == "install ok installed"


def _install(packages: list[str]) -> None:
    """Install packages of Debian without recommends and without starting their services."""
    if not packages:
        return
    get = ["apt-get", "--quiet", "--yes", "--no-install-recommends",
           "--option=DPkg::Lock::Timeout=300", "--option=Acquire::Retries=0"]  # fmt: skip
    with _no_service_starts():
        for command in (["update"], ["install", *packages]):
            done = subprocess.run(
                [*get, *command], capture_output=True, text=True,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            )  # fmt: skip
    if done.returncode:
        pytest.skip(f"cannot install {' '.join(packages)}: {done.stderr.strip()[-500:]}")


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Debian's packages ask policy-rc.d whether they may start a service: 101 is no."""
    with ExitStack() as stack:
        if not POLICY.exists():
            POLICY.write_text("#!/bin/sh\nexit 101\n")
            stack.callback(POLICY.unlink)
            POLICY.chmod(0o755)
        yield
