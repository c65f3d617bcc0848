"""A contestant as a process: how long it took from start to end and how much memory it had at most."""
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

LAUNCH = Path(__file__).with_name("launch.py")


class Failed(Exception):
    """A contestant that did not do its work; the text says why."""


@dataclass
class Ran:
    """What became of a process. The peak is that of the largest process of its tree; each contestant is one process."""
    output: str
    wall: float
    peak_mb: float


def run(command, log, env=None):
    """Runs `command` to its end; its errors go to the file `log`."""
    report = log.with_suffix(".took")
    with open(log, "wb") as errors:
        launcher = [sys.executable, "-I", "-S", LAUNCH, report, *command]
        output = subprocess.run([str(part) for part in launcher], stdout=subprocess.PIPE, stderr=errors, check=True,
                                env={**os.environ, **(env or {})}).stdout.decode()
    took = json.loads(report.read_text())
    if took["code"] != 0:
        raise Failed(f"exit code {took['code']}; see {log}")
    return Ran(output, took["wall"], took["peak_mb"])
