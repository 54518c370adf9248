"""The cluster does what SLURM does, as far as other tests rely on it."""

from pathlib import Path

import pytest

from tests.slurm.cluster import LONGEST_FOLDER, Cluster

SECONDS = 90  # on a busy machine

HANG = "sleep 600 & while kill -0 $!; do wait $!; done"  # as `sleep 600`, but traps run at once


def submit(cluster, script, *options):
    return cluster.run(
        "sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={script}"
    ).strip()


@pytest.fixture(autouse=True)
def _empty_queue(cluster):
    """What a failed test leaves in the queue must not be in the way of the next."""
    yield
    cluster.run("scancel", "--user=root")
    cluster.wait(lambda: not cluster.squeue(), SECONDS)


def states(cluster, job):
    rows = cluster.squeue("--states=all", f"--jobs={job}")
    return {row["id"]: row["state"] for row in rows}


def wait_for(cluster, job, state):
    cluster.wait(lambda: set(states(cluster, job).values()) == {state}, SECONDS)


def wait_for_age(cluster, job, seconds):
    """Until a job has run for at least so many seconds, below 60, and the controller knows it."""
    clock = f"0:{seconds:02}"
    cluster.wait(lambda: cluster.run("squeue", "-h", "-o%M", f"-j{job}") >= clock, SECONDS)


def processes(cluster):
    """Ids of the processes that have the cluster's configuration in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = path.read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if f"SLURM_CONF={cluster.env['SLURM_CONF']}".encode() in variables:
            found.append(int(path.parent.name))
    return found


def test_a_job_runs_on_a_node_and_sees_its_gpus(cluster, tmp_path):
    script = f"echo $(hostname) $CUDA_VISIBLE_DEVICES > {tmp_path}/out"
    job = submit(cluster, script, "--nodelist=n2", "--gpus-per-node=2")
    wait_for(cluster, job, "COMPLETED")
    assert (tmp_path / "out").read_text() == "n2 0,1\n"


def test_an_array_follows_another_element_by_element(cluster, tmp_path):
    # Element 2 of the parent ends only when element 0 of the child has run; element 1 fails.
    parent = submit(
        cluster,
        f"case $SLURM_ARRAY_TASK_ID in 1) exit 1;; 2) until [ -e {tmp_path}/0 ]; do :; done;; esac",
        "--array=0-2",
    )
    child = submit(
        cluster,
        f"touch {tmp_path}/$SLURM_ARRAY_TASK_ID",
        "--array=0-2",
        f"--dependency=aftercorr:{parent}",
        "--kill-on-invalid-dep=yes",
    )
    expected = {f"{child}_0": "COMPLETED", f"{child}_1": "CANCELLED", f"{child}_2": "COMPLETED"}
    cluster.wait(lambda: states(cluster, child) == expected, SECONDS)
    assert states(cluster, parent)[f"{parent}_1"] == "FAILED"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "2"]


def test_a_requeued_job_runs_again_and_knows_it(cluster, tmp_path):
    log = tmp_path / "log"
    script = f"echo run $SLURM_RESTART_COUNT >> {log}; [ $SLURM_RESTART_COUNT ] || sleep 600"
    job = submit(cluster, script)
    cluster.wait(log.exists, SECONDS)
    cluster.run("scontrol", "requeue", job)
    wait_for(cluster, job, "COMPLETED")
    assert log.read_text() == "run\nrun 1\n"


def test_a_preempted_job_is_signalled_and_runs_again(cluster, tmp_path):
    log, other = tmp_path / "log", tmp_path / "other"
    script = f"""
        trap 'echo USR2 >> {log}; scontrol requeue $SLURM_JOB_ID' USR2
        trap 'echo TERM >> {log}' TERM
        echo run $SLURM_RESTART_COUNT >> {log}
        [ $SLURM_RESTART_COUNT ] || {{ {HANG}; }}
    """
    low = submit(cluster, script, "--partition=low", "--signal=B:USR2@30", "--nodes=1")
    cluster.wait(log.exists, SECONDS)
    high = submit(cluster, f"touch {other}", "--partition=gpu", "--nodes=2", "--exclusive")
    wait_for(cluster, high, "COMPLETED")
    wait_for(cluster, low, "COMPLETED")
    assert log.read_text() == "run\nUSR2\nTERM\nrun 1\n"


def test_a_job_survives_the_daemons_of_its_node_and_of_the_cluster(cluster, tmp_path):
    log, end = tmp_path / "log", tmp_path / "end"
    script = f"echo run >> {log}; until [ -e {end} ]; do sleep 0.2; done"
    job = submit(cluster, script, "--nodelist=n1", "--no-requeue")
    wait_for_age(cluster, job, 10)  # by then the controller has saved that it runs
    cluster.kill_node("n1")
    cluster.restart_controller(kill=True)
    cluster.start_node("n1")
    assert states(cluster, job) == {job: "RUNNING"}
    end.touch()
    wait_for(cluster, job, "COMPLETED")
    assert log.read_text() == "run\n"


def test_a_job_of_a_dead_node_runs_again(cluster, tmp_path):
    log = tmp_path / "log"
    script = f"echo run $SLURM_RESTART_COUNT >> {log}; [ $SLURM_RESTART_COUNT ] || sleep 600"
    job = submit(cluster, script, "--nodelist=n1")
    wait_for_age(cluster, job, 10)  # a younger one would be missed late
    cluster.kill_node("n1", jobs=True)
    cluster.start_node("n1")
    wait_for(cluster, job, "COMPLETED")
    assert log.read_text() == "run\nrun 1\n"


def test_the_queue_needs_no_accounting(cluster):
    cluster.stop_accounting()
    job = submit(cluster, "true")
    wait_for(cluster, job, "COMPLETED")
    with pytest.raises(RuntimeError, match=r"sacct.*Connection refused"):
        cluster.sacct()
    cluster.start_accounting()
    rows = cluster.wait(lambda: [row for row in cluster.sacct() if row["id"] == job], SECONDS)
    assert rows == [
        {"id": job, "state": "COMPLETED", "exit": "0:0", "node": rows[0]["node"],
         "partition": "gpu", "name": "wrap"}
    ]  # fmt: skip


def test_nothing_is_left_of_a_cluster_and_it_comes_up_again(cluster, tmp_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("second")  # tmp_path is too long
    second = Cluster(folder, nodes=1, gpus=0, accounting=False, max_array_size=5)
    for _ in range(2):
        second.up()
        with pytest.raises(RuntimeError, match="Invalid job array specification"):
            submit(second, "true", "--array=5")
        job = submit(second, f"setsid sleep 600 & touch {tmp_path}/run; wait")
        second.wait((tmp_path / "run").exists, SECONDS)
        assert len(processes(second)) > 5
        second.down()
        assert not processes(second)
        assert [path.name for path in folder.iterdir()] == ["log"]
        assert job == "1"  # it remembers nothing
        (tmp_path / "run").unlink()
    cluster.squeue()


def test_a_folder_with_a_long_path_is_refused():
    with pytest.raises(ValueError, match=str(LONGEST_FOLDER)):
        Cluster(Path("/tmp") / ("x" * LONGEST_FOLDER))
