"""Takes jobs/slurm/nightshift.sbatch through a night on a real Slurm, and compares what it made with an undisturbed run.

    make test-slurm                 # Debian with slurm-wlm and munge, as root; two to three minutes
    python tests/slurm/check_slurm.py --binary target/release/nightshift

An array of four workers on one folder meets preemption, `scontrol requeue`, a task submitted twice, a node that dies, time limits and
`scancel`; then two of the four tasks are submitted again. Exits with 1 at the first thing that is not as it should be.
"""
import argparse
import collections
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cluster import Cluster, missing, wait_for

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "jobs/slurm/nightshift.sbatch"
SHARD_SIZE, WORKERS = 50, 4
# Rows that an undisturbed run makes too, with the same bytes.
COMPARED = 8 * SHARD_SIZE
# Images that a worker has in hand: those that share calls, and those that wait for the writer.
IN_HAND = 2 * (16 + 64)


class Wrong(Exception):
    pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True, help="nightshift")
    parser.add_argument("--work", type=int, default=150, help="seconds of one core that the night takes (default: %(default)s)")
    args = parser.parse_args()
    if os.geteuid() != 0 or missing():
        sys.exit(f"slurm: needs root and the packages slurm-wlm and munge; missing: {', '.join(missing()) or 'nothing'}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nightshift-slurm-") as work, Cluster(work) as cluster:
        try:
            Night(cluster, args.binary.resolve(), args.work).check()
        except (Wrong, RuntimeError) as error:
            print(f"slurm: WRONG: {error}")
            print(cluster.call("squeue", "-h", "-o", "%i %T %r"))
            for log in sorted(Path(work).glob("night-*.log")):
                print(f"--- {log.name}\n{log.read_text()[-2000:]}")
            sys.exit(1)
    print(f"slurm: all checks passed in {time.monotonic() - started:.0f} s")


class Night:
    def __init__(self, cluster, binary, work):
        self.cluster, self.binary = cluster, binary
        self.work = cluster.base
        self.out, self.alone = self.work / "out", self.work / "alone"
        self.manifest = self.work / "rows.csv"
        self.killed = 0
        seconds = self.make_alone()
        self.rows = COMPARED * max(4, round(work / seconds))
        write_rows(self.manifest, self.rows)

    def make_alone(self):
        write_rows(self.manifest, COMPARED)
        began = time.monotonic()
        subprocess.run(self.command(self.alone), check=True, capture_output=True)
        return time.monotonic() - began

    def check(self):
        array = self.submit("0-3", "--time=1", "--signal=B:USR1@30")
        self.preempt(array)
        self.requeue(array)
        self.twice(array)
        self.lose_node(array)
        self.await_time_limit(array)
        self.cancel(array)
        self.submit_two_again()
        self.compare()

    # What happens to them.

    def preempt(self, array):
        running = wait_for("two workers at work", lambda: self.at_work(array, 2), 60)
        before = self.restarts(array)
        urgent = self.cluster.call("sbatch", "--parsable", "--partition=urgent", f"--cpus-per-task={os.cpu_count()}", "--mem=50",
                                   "--output=/dev/null", "--wrap", "sleep 2", check=True).strip()
        wait_for("the preemption", lambda: any(self.restarts(array)[task] > before[task] for task in running), 60)
        wait_for("the urgent job", lambda: self.state(urgent) == "COMPLETED", 60)
        self.say("preempted: drained, back in the queue")

    def requeue(self, array):
        task = min(wait_for("a worker at work", lambda: self.at_work(array, 1), 60))
        before = self.restarts(array)
        self.cluster.call("scontrol", "requeue", f"{array}_{task}", check=True)
        wait_for("the requeue", lambda: self.restarts(array)[task] > before[task], 60)
        self.say(f"scontrol requeue of task {task}")

    def twice(self, array):
        task = min(wait_for("a worker at work", lambda: self.at_work(array, 1), 60))
        share = ["--shard", f"{task}/{WORKERS}"]
        began = time.monotonic()
        code = subprocess.run(self.command(self.out, *share), capture_output=True).returncode
        self.require(code == 11 and time.monotonic() - began < 3, f"a second worker {task}/{WORKERS} ended with {code}, not at once with 11")
        self.say(f"a second worker of share {task} ends with 11")

    def lose_node(self, array):
        running = wait_for("two workers at work", lambda: self.at_work(array, 2), 60)
        before = self.restarts(array)
        self.cluster.kill_node()
        self.killed += len(running)
        node_down = lambda: self.cluster.call("sinfo", "-h", "-o", "%T").strip().startswith("down")
        wait_for("the controller noticing that the node is gone", node_down, 90)
        wait_for("the requeue after the node's death", lambda: all(self.restarts(array)[it] > before[it] for it in running), 30)
        self.cluster.start_node()
        self.say(f"the node died with {len(running)} workers, which are back in the queue")

    def await_time_limit(self, array):
        log = lambda: "".join(path.read_text() for path in self.work.glob(f"night-{array}_*.log"))
        wait_for("a worker that comes near its time limit", lambda: "out of time: requeued" in log(), 120)
        self.say("near the time limit: drained, and requeued by the script")

    def cancel(self, array):
        wait_for("a worker at work", lambda: self.at_work(array, 1), 60)
        # Also while time runs out, when the script is about to requeue.
        self.cluster.call("scancel", "--batch", "--signal=USR1", array, check=True)
        self.cluster.call("scancel", array, check=True)
        over = lambda: all(self.state(f"{array}_{task}") in ("CANCELLED", "COMPLETED") for task in range(WORKERS))
        wait_for("the end of the cancelled workers", over, 30)
        self.require(self.cluster.call("squeue", "-h", "-j", array) == "", "a cancelled task is back in the queue")
        self.say("scancel: drained, and not back in the queue")

    def submit_two_again(self):
        before = {task: len(records_of(self.out, task)) for task in (1, 2)}
        left = self.rows - self.done()
        self.require(left > 0, "nothing was left to make after the array was cancelled: give a larger --work")
        array = self.submit("1,2", "--time=10")
        over = lambda: all(self.state(f"{array}_{task}") == "COMPLETED" for task in (1, 2))
        wait_for("the end of tasks 1 and 2", over, 240)
        for task in (1, 2):
            begun = [record for record in records_of(self.out, task)[before[task]:] if "begin" in record]
            shares = {int(key) // SHARD_SIZE % WORKERS for record in begun[:1] for key in record["begin"]["keys"]}
            self.require(shares <= {task}, f"task {task} of --array=1,2 began with shares {shares}")
        self.say(f"--array=1,2: their own shares first, then the rest of all {left} images")

    # What came of it.

    def compare(self):
        ours, theirs = hashes(self.out), hashes(self.alone)
        differ = [name for name, digest in theirs.items() if ours.get(name) != digest]
        self.require(not differ, f"{len(differ)} files differ from an undisturbed run's, such as {differ[:3]}")
        found = subprocess.run([self.binary, "verify", "--deep", self.out], capture_output=True, text=True)
        self.require(found.returncode == 0, f"verify: {found.stdout}")
        made = collections.Counter(record["done"]["key"] for record in records(self.out) if "done" in record)
        self.require(len(made) == self.rows, f"{len(made)} of {self.rows} rows were made")
        self.require(max(made.values()) == 1, "a row was written twice")
        begun = sum(len(record["begin"]["keys"]) for record in records(self.out) if "begin" in record)
        starts = sum("session" in record for record in records(self.out))
        self.require(begun - self.rows <= self.killed * IN_HAND, f"{begun - self.rows} images were begun twice, {self.killed} workers killed")
        self.say(f"every row once, {len(theirs)} files as in an undisturbed run; {starts} starts, {begun - self.rows} images begun twice")

    # Small things.

    def submit(self, tasks, *more):
        words = ["sbatch", "--parsable", f"--array={tasks}", "--gres=none", "--cpus-per-task=1", "--mem=100", *more,
                 f"--output={self.work}/night-%A_%a.log",
                 f"--export=ALL,NIGHTSHIFT_NUM_SHARDS={WORKERS},NIGHTSHIFT={self.binary}", SCRIPT]
        return self.cluster.call(*words, *self.command(self.out)[2:], check=True).strip()

    def command(self, out, *more):
        model = ROOT / "tests/fixtures/null"
        library = next((ROOT / ".ort").glob("libonnxruntime.so*"))
        return [str(self.binary), "run", str(self.manifest), "--model", str(model), "--out", str(out), "--threads", "1",
                "--shard-size", str(SHARD_SIZE), "--ort-lib", str(library), *more]

    def job(self, job):
        text = self.cluster.call("scontrol", "-o", "show", "job", job)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def state(self, job):
        return self.job(job).get("JobState")

    def restarts(self, array):
        return {task: int(self.job(f"{array}_{task}").get("Restarts", 0)) for task in range(WORKERS)}

    def at_work(self, array, least):
        """The array's tasks that make pictures right now; none where they are fewer than `least`."""
        lines = self.cluster.call("squeue", "-h", "-j", array, "-t", "RUNNING", "-o", "%i").split()
        running = {int(line.split("_")[1]) for line in lines}
        leases = {path.name for path in (self.out / ".nightshift/locks").glob("worker-*")}
        working = {task for task in running if any(name.startswith(f"worker-{task}-of-") for name in leases)}
        return working if len(working) >= least else set()

    def require(self, condition, otherwise):
        if not condition:
            raise Wrong(otherwise)

    def say(self, line):
        print(f"slurm: {line} ({self.done()} of {self.rows} images)", flush=True)

    def done(self):
        return sum("done" in record for record in records(self.out))


def write_rows(path, rows):
    with open(path, "w") as file:
        print("prompt,seed,num_inference_steps,guidance_scale,scheduler", file=file)
        for row in range(rows):
            print(f"a picture of {row},{row},{900 + row % 7},{4 - row % 2},heun", file=file)


def records_of(out, task):
    return list(records(out, f"worker-{task}-of-{WORKERS}"))


def records(out, worker="*"):
    for path in sorted((out / ".nightshift/journal").glob(f"{worker}.log")):
        for line in path.read_text().splitlines():
            record = json.loads(line.split(" ", 1)[1])
            yield record if isinstance(record, dict) else {record: None}


def hashes(out):
    files = [path for path in out.rglob("*") if path.is_file() and ".nightshift" not in path.parts]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


if __name__ == "__main__":
    main()
