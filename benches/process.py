"""A contestant as a process: how long it took from start to end and how much memory it had at most."""
import os
import subprocess
import time
from dataclasses import dataclass


class Failed(Exception):
    """A contestant that did not do its work; the text says why."""


@dataclass
class Ran:
    """What became of a process."""
    output: str
    wall: float
    peak_mb: float


def run(command, log, env=None):
    """Runs `command` to its end; its errors go to the file `log`. The peak is that of the largest process of its tree
    (the kernel's `ru_maxrss`); each contestant is one process."""
    with open(log, "wb") as errors:
        began = time.time()
        environment = {**os.environ, **(env or {}), "BENCH_STARTED": repr(began)}
        child = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=errors, env=environment)
        output = child.stdout.read().decode()
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.time() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise Failed(f"exit code {child.returncode}; see {log}")
    return Ran(output, wall, usage.ru_maxrss / 1024)
