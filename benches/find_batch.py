#!/usr/bin/env python3
"""Finds the batch in which diffusers and optimum-onnx do a case best; the table BATCH in contestants.py has what it found.

    python benches/find_batch.py C6 8,20,50,100 [--rows 100]
"""
import argparse
import sys
from dataclasses import replace
from pathlib import Path

import contestants
import machine
import render
from cases import CASES

TARGET = Path(__file__).resolve().parents[1] / "target"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("batches", type=lambda text: [int(number) for number in text.split(",")])
    parser.add_argument("--rows", type=int, default=100, help="of the case, the first (100)")
    parser.add_argument("--work", type=Path, default=TARGET / "bench")
    parser.add_argument("--python", type=Path, default=Path(sys.executable))
    parser.add_argument("--optimum-python", type=Path, default=TARGET / "bench-optimum-venv/bin/python")
    args = parser.parse_args()
    case = replace(CASES[args.case], rows=CASES[args.case].rows[:args.rows])
    pipelines = contestants.pipelines(args.work, args.python, args.optimum_python)
    for batch in args.batches:
        for name in ("diffusers", "optimum"):
            took = contestants.run(replace(pipelines[name], batch={case.name: batch}), case, args.work / "out/batches",
                                   machine.cores())
            print(f"{name:10} batch {batch:4}  {render.brief(took)}", flush=True)


if __name__ == "__main__":
    main()
