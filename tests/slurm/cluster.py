"""A Slurm of one machine for tests: Debian's slurm-wlm and munge, as root, on loopback, without systemd, cgroups or a database.

Everything lies in one folder and is started in the foreground, so that it can be stopped again by process id.
"""
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ["slurmctld", "slurmd", "munged", "sbatch", "scontrol", "scancel", "squeue", "sinfo"]

# KillWait: from SIGTERM to SIGKILL. SlurmdTimeout: until a silent node counts as dead. cred_expire: how long a requeued job waits.
CONF = """
ClusterName=nightshift
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={socket},cred_expire=5
CredType=cred/munge
SlurmctldPort=26817
SlurmdPort=26818
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd.pid
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
ReturnToService=2
MpiDefault=none
JobRequeue=1
KillWait=15
SlurmdTimeout=8
MinJobAge=600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=night Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=100 PreemptMode=OFF
"""


def missing():
    """The programs that are not here."""
    path = os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


class Cluster:
    def __init__(self, base):
        self.base = Path(base)
        self.host = socket.gethostname().split(".")[0]
        self.socket = self.base / "munge/munge.sock"
        self.daemons = {}
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "NIGHTSHIFT_"))}
        self.environment["SLURM_CONF"] = str(self.base / "slurm.conf")
        self.environment["PATH"] += ":/usr/sbin:/usr/local/sbin"

    def __enter__(self):
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_):
        self.down()

    def up(self):
        for name in ["munge", "state", "spool"]:
            (self.base / name).mkdir()
        # munged wants its folder for itself, and to be found by everyone.
        self.base.chmod(0o755)
        key = self.base / "munge/munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        shutil.chown(key, "munge", "munge")
        shutil.chown(key.parent, "munge", "munge")
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        (self.base / "slurm.conf").write_text(CONF.format(
            host=self.host, socket=self.socket, base=self.base, cpus=os.cpu_count(), memory=memory * 4 // 5))
        self.start("munged", "runuser", "-u", "munge", "--", "munged", "--foreground", f"--key-file={key}", f"--socket={self.socket}",
                   f"--pid-file={key.parent}/munged.pid", f"--log-file={key.parent}/munged.log", f"--seed-file={key.parent}/seed")
        wait_for("munged", self.socket.exists, 10)
        self.start("slurmctld", "slurmctld", "-D")
        self.start_node()

    def start_node(self):
        self.start("slurmd", "slurmd", "-D", "-N", self.host)
        wait_for("the node", lambda: self.call("sinfo", "-h", "-o", "%T").strip() in ("idle", "mixed", "allocated"), 40)

    def start(self, name, *command):
        with open(self.base / f"{name}.out", "ab") as out:
            self.daemons[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                                  env=self.environment, start_new_session=True)

    def call(self, *command, check=False):
        words = [str(word) for word in command]
        result = subprocess.run(words, env=self.environment, capture_output=True, text=True, cwd=self.base)
        if check and result.returncode != 0:
            raise RuntimeError(f"{' '.join(words)} ended with {result.returncode}: {result.stderr.strip()}")
        return result.stdout

    def kill_node(self):
        """The node is gone at once: slurmd, its step daemons, and all that its jobs had started."""
        slurmd = self.daemons.pop("slurmd")
        for pid in [slurmd.pid, *self.on_the_node()]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        slurmd.wait()

    def on_the_node(self):
        """The processes of jobs and the step daemons above them, by what only these have in their environment."""
        ours = f"SLURM_CONF={self.environment['SLURM_CONF']}".encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if ours in variables and (command.startswith(b"slurmstepd") or any(it.startswith(b"SLURM_JOB_ID=") for it in variables)):
                yield int(entry.name)

    def down(self):
        self.call("scancel", "-u", "root")
        for name in ["slurmd", "slurmctld", "munged"]:
            daemon = self.daemons.pop(name, None)
            if daemon is None:
                continue
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def wait_for(what, condition, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise RuntimeError(f"{what}: not within {seconds} s")
