#!/usr/bin/env python3
"""Measures nightshift beside diffusers, optimum-onnx and stable-diffusion.cpp; writes benches/RESULTS.md.

    make bench                                                            everything, as published
    python benches/bench.py --cases C1,C2 --contestants nightshift,diffusers --rounds 3
    python benches/bench.py --variant plain='--optimize none'             also `nightshift plain`, with these flags
    python benches/bench.py --smoke                                       does the harness work? tiny models, no publication
    python benches/bench.py --render                                      RESULTS.md again, from results.json

Every contestant is a process of its own in each case and round, one after the other, with the same number of threads. In
every second round they come in the opposite order. What is known is saved after each of them.
"""
import argparse
import json
import subprocess
import sys
from pathlib import Path

import contestants
import encoding
import machine
import pictures
import render
from cases import CASES

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = "nightshift,diffusers,optimum,sdcpp"
PUBLISHED = Path(__file__).resolve().parent / "RESULTS.md"
# Cases that exist to time nightshift's own parts.
OURS = ("U1", "U1b")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = ROOT / "target"
    parser.add_argument("--cases", default=",".join([*CASES, "C5"]), help="names with commas between (all)")
    parser.add_argument("--contestants", default=DEFAULT, help=f"names with commas between ({DEFAULT}); also "
                        "`diffusers nchw`, `diffusers compiled`, and `nightshift NAME` of each --variant")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="of every contestant (the machine's cores)")
    parser.add_argument("--variant", action="append", default=[], metavar="NAME=FLAGS", type=variant)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--work", type=Path, default=target / "bench", help="models and pictures (target/bench)")
    parser.add_argument("--binary", type=Path, default=target / "release/nightshift")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="the Python that has diffusers (this one)")
    parser.add_argument("--optimum-python", type=Path, default=target / "bench-optimum-venv/bin/python")
    parser.add_argument("--sdcpp-python", type=Path, default=target / "bench-sdcpp-venv/bin/python")
    parser.add_argument("--out", type=Path, help="the report (benches/RESULTS.md; with --smoke, in the work folder)")
    args = parser.parse_args()
    args.threads = args.threads or machine.cores()
    args.out = args.out or (args.work / "smoke.md" if args.smoke else PUBLISHED)
    return args


def variant(text):
    name, _, flags = text.partition("=")
    return name, flags


def picked(text, known):
    """The names in `text` in their order; an unknown one ends the program."""
    names = text.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"error: unknown {unknown}; there are {', '.join(known)}")
    return names


class Bench:
    """The whole run, and the file that keeps it."""

    def __init__(self, args):
        self.args = args
        self.known = contestants.everyone(args)
        self.names = picked(args.contestants, self.known)
        self.names += [f"nightshift {name}" for name, _ in args.variant if f"nightshift {name}" not in self.names]
        self.cases = picked(args.cases, [*CASES, "C5"])
        self.file = args.work / ("smoke.json" if args.smoke else "results.json")
        self.results = {"machine": machine.facts(args.binary), "threads": args.threads, "smoke": args.smoke, "rounds": [],
                        "agreement": {}}

    def case(self, name):
        return CASES[name].small() if self.args.smoke else CASES[name]

    def folder(self, name):
        return self.args.work / ("smoke" if self.args.smoke else "out") / name

    def save(self):
        self.file.write_text(json.dumps(self.results, indent=1))
        self.args.out.write_text(render.report(self.results), encoding="utf-8")

    def matmul(self):
        script = Path(__file__).with_name("matmul.py")
        told = subprocess.run([self.args.python, script, str(self.args.threads)], capture_output=True, text=True, check=True)
        return json.loads(told.stdout)

    def round(self, number):
        taken = {"matmul": [self.matmul()], "cases": {}}
        self.results["rounds"].append(taken)
        for name in self.cases:
            if name in CASES:
                taken["cases"][name] = {}
                self.run_case(name, taken["cases"][name], number)
                taken["matmul"].append(self.matmul())
        if "C5" in self.cases:
            taken["encoding"] = encoding.measure(self.args)
        self.save()

    def run_case(self, name, taken, number):
        names = [n for n in self.names if n.startswith("nightshift") or name not in OURS]
        names = [n for n in names if number == 0 or (name, n) not in contestants.ONCE]
        for contestant in names if number % 2 == 0 else names[::-1]:
            took = contestants.run(self.known[contestant], self.case(name), self.folder(name), self.args.threads)
            taken[contestant] = took
            print(f"round {number + 1}  {name:4} {contestant:20} {render.brief(took)}", flush=True)
            self.save()
        if number == 0 and name not in OURS:
            self.results["agreement"][name] = self.agreement(name)

    def agreement(self, name):
        """How alike the pictures are to those of diffusers."""
        listed = {n: self.known[n].pictures(self.folder(name) / n.replace(" ", "-")) for n in self.names}
        reference = listed.get("diffusers")
        if not reference:
            return {}
        return {"contrast": pictures.contrast(reference),
                **{n: pictures.compare(ours, reference) for n, ours in listed.items() if n != "diffusers" and ours}}

    def against_itself(self):
        """nightshift's files of C1, and the same rows in one lane on one thread."""
        plain = contestants.Nightshift("plain", self.args.binary, self.args.work, ("--lanes", "1"))
        took = contestants.run(plain, self.case("C1"), self.folder("C1"), 1)
        usual = self.known["nightshift"].pictures(self.folder("C1") / "nightshift")
        self.results["same_bytes"] = "steady" in took and pictures.same_bytes(plain.pictures(self.folder("C1") / "plain"), usual)
        self.save()

    def all(self):
        for number in range(self.args.rounds):
            self.round(number)
        if "C1" in self.cases and "nightshift" in self.names:
            self.against_itself()


def main():
    args = arguments()
    bench = Bench(args)
    if args.render:
        bench.results = json.loads(bench.file.read_text())
        bench.save()
    else:
        bench.all()
    print(f"{args.out}: written")


if __name__ == "__main__":
    main()
