"""What `sslbench run --executor slurm` says."""

from pathlib import Path

from sslbench.grid import slurm
from sslbench.grid.arrange import Array
from sslbench.grid.run import Launch
from sslbench.provenance import code_hash


def scripts(found: Launch, folder: Path) -> str:
    """The script of every array, and what they would take."""
    code = (folder / "code" / code_hash()).resolve()
    out = []
    for number, array in enumerate(found.arrays, 1):
        parent = array.after
        dependency = None
        if isinstance(parent, int):
            kind = "aftercorr" if len(array.jobs) > 1 else "afterok"
            dependency = f"{kind}:<job of array {parent + 1}>"
        elif parent is not None:
            dependency = f"afterany:{parent}"
        name = f"{slurm.prefix(folder)}{number:05d}"
        out.append(f"# array {number}: {_line(array)}")
        out.append(slurm.script(array, name, folder, code, dependency))
    if found.known is None:
        out.append("# no SLURM answers here: limits and partitions were not checked")
    return "\n".join([*out, _summary(found)])


def submitted(array: Array, job: str) -> None:
    """One line when an array was submitted."""
    print(f"job {job}: {_line(array)}")


def launched(found: Launch, grid: Path) -> str:
    """What was submitted, and what to do next."""
    lines = [_summary(found)]
    if found.waiting:
        jobs = sum(len(array.jobs) for array in found.waiting)
        lines.append(
            f"{jobs} jobs wait: the limit of queued jobs is reached; run the same command again "
            "when some have ended"
        )
    if found.arrays:
        lines.append(f"nothing has to stay alive here; look with: sslbench status {grid}")
    return "\n".join(lines)


def _line(array: Array) -> str:
    cells = sum(len(work.cells) for job in array.jobs for work in job)
    runs = sum(len(job) for job in array.jobs)
    what = f"{runs} pretraining runs" if array.stage == "pretrain" else f"{cells} cells"
    return f"{what} in {len(array.jobs)} jobs, {_hours(array):.1f} {_unit(array)}-hours expected"


def _unit(array: Array) -> str:
    return "GPU" if array.resources.gpus else "CPU"


def _hours(array: Array) -> float:
    """GPU-hours of an array, or CPU-hours where it takes no GPU."""
    nodes, tasks = slurm.processes(array)
    each = array.resources.gpus * nodes or array.resources.cpus * nodes * tasks
    return array.seconds / 3600 * each


def _summary(found: Launch) -> str:
    if not found.arrays:
        return f"nothing to submit; {found.flying} cells are on their way"
    sent = [array for array in found.arrays if array not in found.waiting]
    gpu, cpu = (sum(_hours(a) for a in sent if _unit(a) == unit) for unit in ("GPU", "CPU"))
    cells = sum(
        len(work.cells) for a in sent if a.stage == "evaluate" for job in a.jobs for work in job
    )
    return (
        f"{cells} cells in {sum(len(array.jobs) for array in sent)} jobs, {len(sent)} calls of "
        f"sbatch, {gpu:.1f} GPU-hours and {cpu:.1f} CPU-hours expected; "
        f"{found.flying} cells were on their way"
    )
