"""Who takes part, and how each is run as its good users would."""
import json
import shlex
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import process
from cases import CASES, write_manifest

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
# Pictures that a pipeline takes at once, where more than one pays; see NOTES.md.
BATCH = {
    "diffusers": {"C1": 4, "C2": 4, "C4": 4, "C6": 25},
    "optimum": {"C1": 4, "C2": 4, "C4": 4, "C6": 25},
}
# Who takes so long that it does its cases in the first round alone.
ONCE = {(case, "sdcpp") for case in CASES}


@dataclass(frozen=True)
class Nightshift:
    """nightshift, with flags of its own for a variant."""
    name: str
    binary: Path
    models: Path
    flags: tuple = ()

    def missing(self, case):
        """Why it cannot take part in `case`, or None."""
        return None if self.binary.is_file() else f"{self.binary} is not there"

    def run(self, case, out, threads):
        """Makes the pictures of `case` in the folder `out`; returns what it took."""
        model = self.models / "sd15/onnx" if case.model == "sd15" else ROOT / "onnx/tiny-shapes"
        manifest = out.with_suffix(".csv")
        write_manifest(case, manifest)
        ran = process.run([self.binary, "run", manifest, "--model", model, "--out", out, "--threads", threads, "--json",
                           *self.flags], out.with_suffix(".log"))
        summary = json.loads(ran.output)
        if summary["made"] != len(case.rows):
            raise process.Failed(f"{summary['made']} of {len(case.rows)} pictures were made")
        # Reading the weights for their hash is loading, as reading them for torch is.
        load = summary["stages"]["load"] + summary["stages"]["hash"]
        keep = ("stages", "copied", "lane_occupancy", "unet_calls", "seconds")
        return {"wall": ran.wall, "load": load, "steady": ran.wall - load, "peak_mb": ran.peak_mb,
                "summary": {name: summary[name] for name in keep if name in summary}}

    def pictures(self, out):
        return {path.stem: path for path in out.glob("images/*/*.png")}


@dataclass(frozen=True)
class Script:
    """A contestant that a script of this folder runs, in a Python of its own."""
    name: str
    python: Path
    script: str
    sources: dict
    batch: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)

    def missing(self, case):
        if not self.python.exists():
            return f"{self.python} is not there"
        return None if case.model in self.sources else "has no such model"

    def run(self, case, out, threads):
        job = {"model": str(self.sources[case.model]), "rows": [asdict(row) for row in case.rows], "threads": threads,
               "batch": self.batch.get(case.name, 1), "out": str(out), "options": self.options}
        path = out.with_suffix(".json")
        path.write_text(json.dumps(job))
        few = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        ran = process.run([self.python, HERE / self.script, path], out.with_suffix(".log"), {**few, "HF_HUB_OFFLINE": "1"})
        told = json.loads(ran.output.splitlines()[-1])
        return {**told, "wall": ran.wall, "peak_mb": ran.peak_mb, "batch": job["batch"]}

    def pictures(self, out):
        return {path.stem: path for path in out.glob("*.png")}


def pipelines(models, python, optimum_python):
    """The contestants with diffusers' interface, by name."""
    torch_models = {"sd15": models / "sd15/diffusers", "tiny": models / "tiny/diffusers"}
    graphs = {"sd15": models / "sd15/onnx", "tiny": ROOT / "onnx/tiny-shapes"}
    with_torch = lambda name, **options: Script(name, python, "run_diffusers.py", torch_models, BATCH["diffusers"], options)
    return {contestant.name: contestant for contestant in (
        with_torch("diffusers", channels_last=True),
        with_torch("diffusers nchw"),
        with_torch("diffusers compiled", channels_last=True, compile=True),
        Script("optimum", optimum_python, "run_optimum.py", graphs, BATCH["optimum"]))}


def everyone(args):
    """All contestants by name; `args` are those of bench.py."""
    checkpoint = {"sd15": args.work / "sd15/sd15.safetensors"}
    ours = [Nightshift("nightshift", args.binary, args.work)]
    ours += [Nightshift(f"nightshift {name}", args.binary, args.work, tuple(shlex.split(flags))) for name, flags in args.variant]
    others = pipelines(args.work, args.python, args.optimum_python)
    sdcpp = Script("sdcpp", args.sdcpp_python, "run_sdcpp.py", checkpoint)
    return {**{contestant.name: contestant for contestant in ours}, **others, "sdcpp": sdcpp}


def run(contestant, case, folder, threads):
    """One contestant's part in one case and round; what became of it, be it a failure."""
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / contestant.name.replace(" ", "-")
    shutil.rmtree(out, ignore_errors=True)
    reason = contestant.missing(case)
    if reason:
        return {"left_out": reason}
    try:
        return contestant.run(case, out, threads)
    except process.Failed as failure:
        return {"failed": str(failure)}
