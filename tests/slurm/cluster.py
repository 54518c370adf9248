"""A real SLURM on loopback, whose machines are sets of Linux namespaces on this one.

Needs root, the packages `PACKAGES` of Debian, and a kernel that allows namespaces.
"""

import os
import random
import secrets
import shlex
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "slurmdbd", "mariadb-server-core")
NAMESPACES = ("unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
LONGEST_FOLDER = 70  # characters; the longest path of a unix socket has 107
SQUEUE = {"id": "%i", "state": "%T", "reason": "%r", "node": "%N", "partition": "%P", "name": "%j"}
SACCT = {"id": "JobID", "state": "State", "exit": "ExitCode", "node": "NodeList",
         "partition": "Partition", "name": "JobName"}  # fmt: skip

T = TypeVar("T")


class Host:
    """A virtual machine: a hostname, processes and an /etc/hosts of its own, ruled by a shell.

    The shell is process 1 of a PID namespace: when it ends, the kernel ends everything in it. It
    ends when switched off, and when the process that holds the other end of its input dies.

    Args:
        name: its hostname.
        hosts: the file that it sees as /etc/hosts.
        log: the file for errors of the shell.
        env: the environment of its daemons.

    Raises:
        RuntimeError: the shell has ended, at once if this machine allows no namespaces.
    """

    def __init__(self, name: str, hosts: Path, log: Path, env: dict[str, str]) -> None:
        self._log = log
        with log.open("a") as errors:
            self._shell = subprocess.Popen(
                [*NAMESPACES, "bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=errors, text=True, env=env, start_new_session=True,
            )  # fmt: skip
        # Job control, or the daemons would ignore SIGINT.
        self._run(f"hostname {name} && mount --bind {hosts} /etc/hosts && set -m || exit")

    def start(self, daemon: str, command: str, log: Path) -> None:
        """Run a command in the background, to be known by the name of the daemon."""
        self._run(f"{command} </dev/null >>{log} 2>&1 & {daemon}=$!")

    def stop(self, daemon: str, signal: str) -> None:
        """Signal a daemon and return when it has ended; its children are left alone."""
        self._run(f"kill -{signal} ${daemon}; wait ${daemon}")

    def runs(self, daemon: str) -> bool:
        """Whether a daemon that was started is alive."""
        return self._run(f"kill -0 ${daemon}") == 0

    def off(self) -> None:
        """Cut the power: return when no process of this host is left."""
        self._shell.communicate()

    def _run(self, command: str) -> int:
        """The exit status of a line of bash that prints nothing."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        with suppress(BrokenPipeError):
            print(command, "echo $?", sep="\n", file=self._shell.stdin, flush=True)
        status = self._shell.stdout.readline()
        if not status:
            self.off()
            raise RuntimeError(f"the host is off: {self._log.read_text()}")
        return int(status)


class Cluster:
    """SLURM with one controller (host `ctl`) and several nodes (`n1`, `n2`, …).

    Jobs of partition `gpu`, the default, preempt those of `low`, which are then requeued. GPUs are
    character devices that do nothing. Process ids inside a node differ from those outside.

    Args:
        folder: a folder of its own, which `up` fills and `down` empties but for `log/`.
        nodes: number of them.
        gpus: of each node.
        cpus: of each node, whatever this machine has.
        memory_mb: of each node.
        accounting: run slurmdbd and MariaDB, without which sacct knows nothing.
        extra: lines for slurm.conf.
        max_array_size: one more than the largest index of an array.
        grace_seconds: from a preempted job's signal to its end.

    Attributes:
        env: what a client needs in its environment.
        nodes: the nodes' names.

    Raises:
        ValueError: the folder's path is too long for unix sockets.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int = 2,
        gpus: int = 2,
        cpus: int = 8,
        memory_mb: int = 16000,
        accounting: bool = True,
        extra: str = "",
        *,
        max_array_size: int = 1001,
        grace_seconds: int = 20,
    ) -> None:
        if len(str(folder.absolute())) > LONGEST_FOLDER:
            raise ValueError(f"{folder.absolute()} is longer than {LONGEST_FOLDER} characters")
        self.folder = folder.absolute()
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self.gpus = gpus
        self.cpus = cpus
        self.memory_mb = memory_mb
        self.accounting = accounting
        self.extra = extra
        self.max_array_size = max_array_size
        self.grace_seconds = grace_seconds
        self.env = {
            "SLURM_CONF": str(self.folder / "etc/slurm.conf"),
            "PATH": os.environ.get("PATH", os.defpath),
        }
        self._hosts: dict[str, Host] = {}
        self._ports: dict[str, int] = {}

    def up(self) -> None:
        """Start everything; returns when all nodes are ready for jobs.

        Raises:
            RuntimeError: it is up already, or a daemon ended.
            TimeoutError: a daemon does not answer.
        """
        if self._hosts:
            raise RuntimeError(f"the cluster in {self.folder} is up already")
        servers = ["ctl", "dbd", *self.nodes]
        self._ports = dict(zip(servers, _free_ports(len(servers)), strict=True))
        self._clear()
        self._configure()
        try:
            self._boot("ctl")
            self._start_munged()
            if self.accounting:
                self._start_database()
                self.start_accounting()
            self._start_controller()
            for name in self.nodes:
                self.start_node(name)
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """End all daemons and jobs, and remove everything but the logs."""
        while self._hosts:
            self._hosts.popitem()[1].off()
        self._clear()

    def kill_node(self, name: str, *, jobs: bool = False) -> None:
        """Kill a node's slurmd, which its jobs survive, or with `jobs` all that runs on the node.

        The controller notices that jobs are gone when the node is started again (but not with those
        younger than about 10 seconds), or 30 seconds after the node's last answer.
        """
        if jobs:
            self._hosts.pop(name).off()
        else:
            self._hosts[name].stop("slurmd", "KILL")

    def start_node(self, name: str) -> None:
        """Bring back what `kill_node` took away; returns when the controller knows the node."""
        if name not in self._hosts:
            self._boot(name)
        self._start(name, "slurmd", f"slurmd -D -N {name}", lambda: self._registered(name))

    def restart_controller(self, *, kill: bool = True) -> None:
        """End slurmctld and start it again.

        Args:
            kill: let it save nothing. It writes its state within 5 seconds of a change, so what
                happened later than that is lost.
        """
        self._hosts["ctl"].stop("slurmctld", "KILL" if kill else "TERM")
        self._start_controller()

    def stop_accounting(self) -> None:
        """End slurmdbd: sacct fails, and the controller keeps what it has to tell."""
        self._hosts["ctl"].stop("slurmdbd", "TERM")

    def start_accounting(self) -> None:
        """Start slurmdbd."""
        self._start("ctl", "slurmdbd", "slurmdbd -D", lambda: self._listens("dbd"))

    def squeue(self, *options: str) -> list[dict[str, str]]:
        """Pending and running jobs (with `--states=all` others, too), one row per array element."""
        fields = "|".join(SQUEUE.values())
        text = self.run("squeue", "--noheader", "--array", f"--format={fields}", *options)
        return [dict(zip(SQUEUE, line.split("|"), strict=True)) for line in text.splitlines()]

    def sacct(self, *options: str) -> list[dict[str, str]]:
        """Jobs of the last day; with `--duplicates` one row for each time that a job ran."""
        fields = ",".join(SACCT.values())
        text = self.run(
            "sacct", "--noheader", "--parsable2", "--allocations", "--allusers",
            "--starttime=now-1day", f"--format={fields}", *options,
        )  # fmt: skip
        return [dict(zip(SACCT, line.split("|"), strict=True)) for line in text.splitlines()]

    def run(self, *command: str) -> str:
        """What a client prints.

        Raises:
            RuntimeError: it failed; the message has its errors.
        """
        done = subprocess.run(
            command, env=os.environ | self.env, capture_output=True, text=True, timeout=120
        )
        if done.returncode:
            raise RuntimeError(f"{shlex.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def wait(self, condition: Callable[[], T], seconds: float = 60) -> T:
        """The first true value of `condition`.

        Raises:
            TimeoutError: there was none in so many seconds; the message has the queue.
        """
        end = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > end:
                queue = "no answer from squeue"
                with suppress(RuntimeError, subprocess.TimeoutExpired):
                    queue = self.run("squeue", "--states=all")
                raise TimeoutError(f"not so after {seconds} s; logs in {self.folder}/log\n{queue}")
            time.sleep(0.1)
        return value

    def _clear(self) -> None:
        for path in self.folder.glob("*"):
            if path.name != "log":
                shutil.rmtree(path)

    def _boot(self, name: str) -> None:
        env = {
            "SLURM_CONF": self.env["SLURM_CONF"],
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "MYSQL_UNIX_PORT": f"{self.folder}/run/mysql.sock",  # where slurmdbd looks for MariaDB
        }
        log = self.folder / f"log/{name}.log"
        self._hosts[name] = Host(name, self.folder / "etc/hosts", log, env)

    def _start(self, name: str, daemon: str, command: str, ready: Callable[[], bool]) -> None:
        host = self._hosts[name]
        log = self.folder / f"log/{name}-{daemon}.log"
        host.start(daemon, command, log)
        self.wait(lambda: ready() or not host.runs(daemon), 120)
        if not host.runs(daemon):
            raise RuntimeError(f"{daemon} of {name} ended:\n{log.read_text()[-2000:]}")

    def _start_munged(self) -> None:
        run = self.folder / "run"
        # --force: the folder may be closed to others, who have no business here.
        command = (
            f"munged --foreground --force --key-file={self.folder}/etc/munge.key"
            f" --socket={run}/munge.sock --pid-file={run}/munged.pid --seed-file={run}/munged.seed"
        )
        self._start("ctl", "munged", command, (run / "munge.sock").exists)

    def _start_database(self) -> None:
        """Make a database that trusts root on its unix socket and writes to disk when it likes."""
        options = [
            "--no-defaults", "--user=root", f"--datadir={self.folder}/mysql",
            f"--tmpdir={self.folder}/tmp",  # when starting it removes others' files in /tmp
            "--lc-messages-dir=/usr/share/mysql", "--skip-networking", "--skip-log-bin",
            "--innodb-log-file-size=16M", "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=nosync", "--innodb-doublewrite=0",
        ]  # fmt: skip
        tables = [
            Path(f"/usr/share/mysql/mysql_system_tables{part}.sql").read_text()
            for part in ("", "_data")
        ]
        schema = "CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\n"
        with (self.folder / "log/bootstrap.log").open("a") as log:
            subprocess.run(
                ["mariadbd", *options, "--bootstrap"], input=schema + "\n".join(tables), text=True,
                stdout=log, stderr=log, check=True,
            )  # fmt: skip
        sock = self.folder / "run/mysql.sock"
        command = shlex.join(["mariadbd", *options, f"--socket={sock}"])
        self._start("ctl", "mariadbd", command, sock.exists)

    def _start_controller(self) -> None:
        self._start("ctl", "slurmctld", "slurmctld -D", lambda: self._listens("ctl"))

    def _registered(self, name: str) -> bool:
        if not self._listens(name):
            return False
        states = self.run("sinfo", "--noheader", "--Node", f"--nodes={name}", "--format=%T").split()
        return not any("*" in state or state in ("down", "unknown") for state in states)

    def _listens(self, name: str) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self._ports[name])) == 0

    def _configure(self) -> None:
        """Write the folder: configuration, key and devices."""
        spools = [f"spool/{name}" for name in self.nodes]
        for name in ("etc", "run", "log", "state", "dev", "tmp", "mysql", *spools):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        etc = self.folder / "etc"
        names = " ".join(["ctl", *self.nodes])
        (etc / "hosts").write_text(f"127.0.0.1 {names}\n" + Path("/etc/hosts").read_text())
        (etc / "slurm.conf").write_text(self._slurm_conf())
        (etc / "gres.conf").write_text(self._gres_conf())
        for name, content in (
            ("slurmdbd.conf", self._slurmdbd_conf().encode()),
            ("munge.key", secrets.token_bytes(128)),
        ):
            (etc / name).touch(mode=0o600)
            (etc / name).write_bytes(content)
        for number in range(self.gpus):  # as /dev/null
            path = self.folder / f"dev/nvidia{number}"
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))

    def _slurm_conf(self) -> str:
        munge = f"{self.folder}/run/munge.sock"
        gres = f"Gres=gpu:{self.gpus}" if self.gpus else ""
        nodes = "\n".join(
            f"NodeName={name} NodeAddr=127.0.0.1 Port={self._ports[name]}" for name in self.nodes
        )
        accounting = f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={self._ports["dbd"]}
AccountingStoragePass={munge}
AccountingStorageTRES=gres/gpu
"""
        return f"""\
ClusterName=test
SlurmctldHost=ctl(127.0.0.1)
SlurmctldPort={self._ports["ctl"]}
SlurmUser=root
# A requeued job starts no sooner than its credential has expired.
AuthInfo=socket={munge},cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={self.folder}/state
SlurmdSpoolDir={self.folder}/spool/%n
SlurmctldPidFile={self.folder}/run/slurmctld.pid
SlurmdPidFile={self.folder}/run/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU={self.memory_mb // self.cpus}
MaxArraySize={self.max_array_size}
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
KillWait=5
BatchStartTimeout=1
MessageTimeout=5
SlurmdTimeout=30
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
{accounting if self.accounting else ""}
NodeName=DEFAULT CPUs={self.cpus} RealMemory={self.memory_mb} {gres} State=UNKNOWN
{nodes}
PartitionName=DEFAULT Nodes={",".join(self.nodes)} DefaultTime=10 State=UP
PartitionName=gpu Default=YES PriorityTier=10 PreemptMode=OFF
PartitionName=low PriorityTier=1 PreemptMode=REQUEUE GraceTime={self.grace_seconds}
{self.extra}
"""

    def _gres_conf(self) -> str:
        files = [
            f"NodeName={','.join(self.nodes)} Name=gpu File={self.folder}/dev/nvidia{number}\n"
            for number in range(self.gpus)
        ]
        return "AutoDetect=off\n" + "".join(files)

    def _slurmdbd_conf(self) -> str:
        return f"""\
AuthInfo=socket={self.folder}/run/munge.sock
DbdHost=ctl
DbdAddr=127.0.0.1
DbdPort={self._ports["dbd"]}
CommunicationParameters=NoInAddrAny
SlurmUser=root
PidFile={self.folder}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
"""


def _free_ports(number: int) -> list[int]:
    """Ports that nothing uses, below those that the kernel gives to clients.

    A client's own port could otherwise be that of a daemon that is being restarted. The choice
    depends on no seed, which another cluster could share.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = range(10_000, max(first, 20_000))
    ports = []
    for port in random.SystemRandom().sample(candidates, len(candidates)):
        with socket.socket() as server, suppress(OSError):
            server.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == number:
            return ports
    raise RuntimeError(f"of the ports {candidates}, fewer than {number} are free")
