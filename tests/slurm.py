"""A sweep on a real Slurm of one node, with two kinds of requeue. No part of the suite.

    apt-get install slurmctld slurmd slurm-client munge    # Debian, as root
    .venv/bin/python -m tests.slurm

As root it starts munged, slurmctld and slurmd with a configuration of its own in a temporary folder
and hands a sweep of two small meta-trainings to it. It requeues one job while it trains (`scontrol
requeue`, as an administrator or a pre-emption does), and gives both so little time that Slurm's
notice of the time limit comes, after which submitit requeues them. Then it carries out the same
sweep without Slurm and compares: every weight has to be the same, to the bit. It takes about ten
minutes.
"""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from experiments.sweeps import plan

SECONDS = 1_200
SWEEP = [
    "--set=recipe=lstm-quadratic",
    "--set=num_epochs=40",
    "--set=episodes_per_epoch=100",
    "--over=learning_rate=0.003,0.01",
]
NUM_UNITS = 2
SECONDS_TO_PUT_AWAY = 15
# The notice comes 60 seconds before the end, and up to a minute earlier.
LIMITS = "--slurm=timeout_min=3,slurm_signal_delay_s=60,cpus_per_task=1"
CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=30
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def slurm(folder: pathlib.Path) -> Iterator[dict[str, str]]:
    """A Slurm of one node; gives the environment in which its commands find it."""
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(folder=folder, host=host, cpus=os.cpu_count()).lstrip()
    )
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    munged = ["munged", "--foreground", "--force", f"--key-file={key}"]
    munged += [f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid"]
    munged += [f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed"]
    daemons = []
    try:
        for command in (munged, ["slurmctld", "-D"], ["slurmd", "-D", "-N", host]):
            with open(folder / f"{command[0]}.out", "wb") as log:
                daemon = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            daemons.append(daemon)
            time.sleep(2)
            if daemon.poll() is not None:
                sys.exit(f"{command[0]} did not start: {(folder / log.name).read_text()}")
        wait_for(lambda: "idle" in said(environment, "sinfo", "--noheader"), 60)
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()


def said(environment: dict[str, str], *command: str) -> str:
    """What a command prints."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def wait_for(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Waits until a condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            sys.exit("it took too long.")
        time.sleep(0.5)


def sweep(environment: dict[str, str], workdir: pathlib.Path, *given: str) -> None:
    """Runs `experiments.sweep`."""
    command = [sys.executable, "-m", "experiments.sweep", f"--workdir={workdir}", *given]
    subprocess.run(command, env=environment, check=True)


def digests(workdir: pathlib.Path) -> dict[str, str]:
    """Of every unit's weights."""
    found = {}
    for unit in (workdir / "units").iterdir():
        card = json.loads((unit / "results" / "optimizer.json").read_text())
        found[unit.name] = card["sha256"]
    return found


def trains(workdir: pathlib.Path, name: str) -> bool:
    """Whether a unit has saved a part of its training."""
    return any((workdir / "work" / name).glob("results/meta_training/checkpoints/*/*"))


def requeue_one(environment: dict[str, str], workdir: pathlib.Path) -> str:
    """Requeues the first job when it has saved a part of its training; returns the array."""
    first = plan.read(str(workdir)).units[0].name
    wait_for(lambda: trains(workdir, first))
    queue = said(environment, "squeue", "--noheader", "--format=%F", "--states=R")
    array = queue.split()[0]
    print(said(environment, "squeue"))
    print(f"scontrol requeue {array}_0", said(environment, "scontrol", "requeue", f"{array}_0"))
    return array


def is_done(environment: dict[str, str], workdir: pathlib.Path) -> bool:
    """Whether all units are done; meanwhile lets jobs go on soon that would wait for minutes."""
    for line in said(environment, "squeue", "--noheader", "--format=%i %T").splitlines():
        job, _, state = line.partition(" ")
        if state == "PENDING":
            # What was requeued waits for two minutes: where the node has not yet put away the last
            # start of a job, it refuses the next one, and the job is lost.
            time.sleep(SECONDS_TO_PUT_AWAY)
            said(environment, "scontrol", "update", f"JobId={job}", "StartTime=now")
    units = workdir / "units"
    return units.exists() and len(os.listdir(units)) == NUM_UNITS


def num_restarts(environment: dict[str, str], array: str) -> list[int]:
    """How often Slurm has started each job again."""
    words = said(environment, "scontrol", "show", "job", array).split()
    counts = [word.partition("=")[2] for word in words if word.startswith("Restarts=")]
    return [int(count) for count in counts]


def num_saved(workdir: pathlib.Path) -> int:
    """How often programs have left with their state saved."""
    logs = [path.read_text() for path in workdir.glob("units/*/log.txt")]
    return sum(log.count("meta-training stopped on signal") for log in logs)


def show_notices(workdir: pathlib.Path) -> None:
    """Prints what jobs and programs have said of signals."""
    logs = [*workdir.glob("jobs/*.err"), *workdir.glob("units/*/log.txt")]
    for path in sorted(logs):
        for line in path.read_text().replace("\r", "\n").splitlines():
            if "signal" in line or "equeue" in line:
                print(f"{path.relative_to(workdir)}: {line}")


def main() -> None:
    """Runs it."""
    with tempfile.TemporaryDirectory(prefix="learned-opt-slurm-") as temporary:
        folder = pathlib.Path(temporary)
        # What was compiled once is read by a job that starts again.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
        by_slurm, by_hand = folder / "by_slurm", folder / "by_hand"
        with slurm(folder) as environment:
            print(said(environment, "sinfo"))
            sweep(environment, by_slurm, *SWEEP, "--executor=slurm", LIMITS)
            array = requeue_one(environment, by_slurm)
            wait_for(lambda: is_done(environment, by_slurm))
            wait_for(lambda: not said(environment, "squeue", "--noheader").strip(), 120)
            restarts = num_restarts(environment, array)
            sweep(environment, by_slurm, "--status")
        show_notices(by_slurm)
        print(f"Slurm has started the jobs again {restarts} times.")
        sweep(dict(os.environ), by_hand, *SWEEP, "--jobs=2")
        # One by hand, and each by its limit. None of it is a failure, and all states were saved.
        assert len(restarts) == NUM_UNITS, restarts
        assert min(restarts) >= 1, restarts
        assert sum(restarts) > NUM_UNITS, restarts
        assert num_saved(by_slurm) == sum(restarts)
        assert not list(by_slurm.glob("units/*/failures.json"))
        assert digests(by_slurm) == digests(by_hand)
        print("All weights are those of a sweep without Slurm, to the bit.")


if __name__ == "__main__":
    main()
