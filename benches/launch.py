"""Runs a command and writes what it took, as JSON, into a file: `launch.py FILE COMMAND...`.

A process counts as its own peak what its parent held when it was started, so the parent of each contestant is this small
program and not the benchmark. Nothing but what it needs is imported.
"""
import json
import os
import resource
import subprocess
import sys
import time


def main():
    report, *command = sys.argv[1:]
    began = time.time()
    code = subprocess.call(command, env={**os.environ, "BENCH_STARTED": repr(began)})
    wall = time.time() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    with open(report, "w") as file:
        json.dump({"code": code, "wall": wall, "peak_mb": peak}, file)


if __name__ == "__main__":
    main()
