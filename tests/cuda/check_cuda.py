#!/usr/bin/env python3
"""Takes nightshift through ONNX Runtime's real CUDA provider without a GPU, on libraries in place of NVIDIA's that compute nothing.

    make test-cuda                               # fetches the provider, builds, runs this
    python tests/cuda/check_cuda.py --binary target/release/nightshift --ort target/cuda/ort --work target/cuda

What a network computes is zeros. Real are: the provider's own code, which parses options, places nodes, allocates, binds inputs,
records calls and reports errors; and all of nightshift. Needs a C compiler and `nm`. Exits with 1 at the first thing that is not as it should be.
"""
import argparse
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

HERE, ROOT = Path(__file__).resolve().parent, Path(__file__).resolve().parents[2]
TINY, NULL = ROOT / "onnx/tiny-shapes", ROOT / "tests/fixtures/null"
MODELS = [TINY, *sorted(ROOT.glob("tests/fixtures/optimum/*/")), *sorted(ROOT.glob("tests/golden/families/*/model/"))]
# Libraries, what their functions begin with, and what of them is more than a name.
LIBRARIES = {"libcudart.so.13": (r"(__)?cuda", "cudart.c"), "libcublas.so.13": r"cublas(?!Lt)", "libcublasLt.so.13": r"cublasLt",
             "libcurand.so.10": r"curand", "libnvrtc.so.13": r"nvrtc", "libcuda.so.1": r"cu[A-Z]"}
PACKAGES = {"libcudnn.so.9": "nvidia-cudnn-cu13", "libcublas.so.13": "nvidia-cublas"}


class Wrong(Exception):
    pass


def require(condition, otherwise):
    if not condition:
        raise Wrong(otherwise)


def build(provider, to):
    """Libraries that have every function which `provider` asks for."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    asked = subprocess.run(["nm", "-D", "--undefined-only", provider], capture_output=True, text=True, check=True).stdout
    asked = {line.split()[-1].split("@")[0] for line in asked.splitlines()}
    for name, kind in LIBRARIES.items():
        pattern, source = kind if isinstance(kind, tuple) else (kind, None)
        library(to / name, {symbol for symbol in asked if re.match(pattern, symbol)}, source, versioned=True)
    # cuDNN's are looked up by name while it runs.
    named = {name.decode() for name in re.findall(rb"\0(cudnn[A-Z]\w+)(?=\0)", provider.read_bytes())}
    library(to / "libcudnn.so.9", named, "cudnn.c")
    library(to / "libnvidia-ml.so.1", set(), "nvml.c")


def library(path, symbols, source, versioned=False):
    """A library in which `source` says what some functions do, and all others do nothing and succeed."""
    sources = [HERE / source] if source else []
    said = set(re.findall(r"^[\w *]*?\*?(\w+)\(", (HERE / source).read_text(), re.M)) if source else set()
    said |= {f"cudnnCreate{what}Descriptor" for what in re.findall(r"CREATE\((\w+)\)", (HERE / source).read_text())} if source else set()
    rest, map_ = path.with_suffix(".rest.c"), path.with_suffix(".map")
    rest.write_text("".join(f"int {symbol}() {{ return 0; }}\n" for symbol in sorted(symbols - said)) + "static int unused;\n")
    map_.write_text(f"{path.name} {{ global: *; }};\n")
    flags = [f"-Wl,--version-script={map_}"] if versioned else []
    subprocess.run(["cc", "-w", "-O1", "-shared", "-fPIC", f"-Wl,-soname,{path.name}", *flags, "-o", path, rest, *sources], check=True)


class Shell:
    """Runs nightshift on what was built."""

    def __init__(self, binary, ort, libraries, work):
        self.binary, self.libraries, self.work, self.runs = binary, libraries, work, 0
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(("NIGHTSHIFT_", "CUDA_", "FAKE_"))}
        self.environment |= {"NIGHTSHIFT_ORT_LIB": str(next(ort.glob("libonnxruntime.so.*"))), "LD_LIBRARY_PATH": str(libraries)}

    def run(self, *arguments, code=0, libraries=None, **fakes):
        self.log = self.work / "log"
        self.log.unlink(missing_ok=True)
        fakes = {f"FAKE_CUDA_{name.upper()}": str(value) for name, value in fakes.items()}
        environment = self.environment | fakes | {"FAKE_CUDA_LOG": str(self.log), "NIGHTSHIFT_CUDA_LIBS": str(libraries or self.libraries)}
        done = subprocess.run([self.binary, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300)
        self.stdout, said = done.stdout, done.stdout + done.stderr
        require(done.returncode == code, f"`{' '.join(map(str, arguments))}` ({fakes}) ended with {done.returncode}, not {code}:\n{said[-3000:]}")
        return said

    def make(self, rows, *arguments, model=TINY, out=None, **how):
        """A run of so many rows; returns its summary, or what it said where it was to fail."""
        self.runs += 1
        manifest = self.work / "rows.csv"
        lines = [f"r{row},a red heart on a blue background,{row},{4 + row % 3},{64 + 32 * (row % 2)},64" for row in range(rows)]
        manifest.write_text("\n".join(["id,prompt,seed,num_inference_steps,width,height", *lines]) + "\n")
        self.out = out or self.work / f"out{self.runs}"
        said = self.run("run", manifest, "--model", model, "--out", self.out, *arguments, "--json", **how)
        return json.loads(done) if (done := self.stdout).startswith("{") else said

    def logged(self, what, device=0):
        """What the libraries say of a device."""
        return max(int(line.split()[2]) for line in self.log.read_text().splitlines() if line.startswith(f"{device} {what} "))


def doctor(shell):
    said = shell.run("doctor")
    for word in ("Fake GPU", "580.00", str(shell.libraries / "libcudnn.so.9")):
        require(word in said, f"`doctor` does not say {word}:\n{said}")
    for name, package in PACKAGES.items():
        some = shell.work / "some"
        shutil.copytree(shell.libraries, some, ignore=lambda _, names, left_out=name: [one for one in names if one == left_out], dirs_exist_ok=False)
        shell.environment["LD_LIBRARY_PATH"] = str(some)
        said = shell.run("run", ROOT / "jobs/demo.csv", "--model", TINY, "--out", shell.work / "none", "--device", "cuda:0", code=10, libraries=some)
        shell.environment["LD_LIBRARY_PATH"] = str(shell.libraries)
        shutil.rmtree(some)
        require(name in said and package in said, f"without {name}, not told where to get it:\n{said}")
    return "`doctor` finds libraries and GPU; a missing library is named with its package"


def placement(shell):
    manifest = shell.work / "one.csv"
    manifest.write_text("prompt,width,height\na red heart,64,64\n")
    for model in MODELS:
        shell.run("prepare", manifest, "--model", model, "--device", "cuda:0", "--lanes", 2)
        require(shell.logged("kernels") > 10, f"{model}: only {shell.logged('kernels')} kernels were launched")
    return f"{len(MODELS)} models of all families are placed on the GPU and called, with nothing left to the processor that counts"


def options(shell):
    source = (ROOT / "src/onnx/gpu_options.rs").read_text()
    known = re.findall(r'\("(\w+)", Values::(\w+)', source[source.index("const CUDA:"):source.index("const TENSORRT:")])
    value = {"Switch": "1", "Bytes": "2g", "Flags": "flash|cudnn"}
    first = {name: values.split('"')[1] for name, values in re.findall(r'\("(\w+)", Values::Names\(&\[([^\]]*)', source)}
    # With `prefer_nhwc` the arithmetic of shapes runs on the GPU too, where it comes to nothing here.
    for name, kind in known:
        flag = f"{name}={first.get(name) or value[kind]}"
        shell.run("prepare", ROOT / "jobs/demo.csv", "--model", NULL, "--device", "cuda:0", "--lanes", 2, "--cuda-option", flag)
    known = [(name, kind) for name, kind in known if name != "prefer_nhwc"]
    flags = [part for name, kind in known for part in ("--cuda-option", f"{name}={first.get(name) or value[kind]}")]
    summary = shell.make(2, "--device", "cuda:0", "--lanes", 2, *flags)
    require(summary["made"] == 2, f"with all options, {summary['made']} of 2 images were made")
    return f"the provider takes all {len(known) + 1} options that may be given"


def a_night(shell):
    summary = shell.make(12, "--device", "cuda:0", "--lanes", 4)
    require(summary["made"] == 12, f"{summary['made']} of 12 images were made")
    state = json.dumps(summary)
    require("Fake GPU" in state and "power cap" in state, f"the summary does not tell of the GPU: {state}")
    return "12 images of two sizes on one GPU; the summary tells of it"


def other_kinds(shell):
    """Pictures to start from, masks, and a UNet that is cut in two."""
    picture = shell.work / "picture.png"
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    lines = zlib.compress((b"\0" + bytes([200]) * 3 * 64) * 64)
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)) + chunk(b"IDAT", lines)
                        + chunk(b"IEND", b""))
    families = ROOT / "tests/golden/families"
    kinds = [(families / "sd15/model", f"image\n{picture}"), (families / "sd15/model", f"image,mask_image\n{picture},{picture}"),
             (families / "ip2p/model", f"image\n{picture}"), (families / "inpaint9/model", f"image,mask_image\n{picture},{picture}"),
             (families / "sdxl-refiner/model", f"image\n{picture}"), (TINY, "cache_interval\n2")]
    for number, (model, rest) in enumerate(kinds):
        manifest, out = shell.work / "kind.csv", shell.work / f"kind{number}"
        header, values = rest.split("\n")
        manifest.write_text(f"prompt,width,height,num_inference_steps,{header}\na red heart,64,64,8,{values}\n")
        shell.run("run", manifest, "--model", model, "--out", out, "--device", "cuda:0", "--lanes", 4)
    return f"{len(kinds)} kinds of pictures made of pictures, with masks, and with inner blocks kept"


def recorded(shell):
    sizes = 2
    summary = shell.make(12, "--device", "cuda:0", "--lanes", 4, "--cuda-graphs", model=NULL)
    require(summary["made"] == 12, f"{summary['made']} of 12 images were made")
    recordings, replays = shell.logged("recordings"), shell.logged("replays")
    require(recordings >= sizes and replays > 3 * recordings, f"{recordings} calls were recorded, {replays} played back")
    said = shell.make(2, "--device", "cuda:0", "--lanes", 4, "--cuda-graphs", code=10)
    require("--optimize cuda" in said, f"a graph that cannot be recorded is not told how to become one that can:\n{said}")
    shell.make(2, "--device", "cpu", "--cuda-graphs", code=2)
    return f"{recordings} calls were recorded, {replays} times they were played back; what cannot be recorded is refused"


def two_devices(shell):
    both = ["--device", "cuda", "--lanes", 4]
    summary = shell.make(40, *both, devices=2)
    require(summary["made"] == 40 and min(shell.logged("kernels", device) for device in (0, 1)) > 500, "the devices did not share the work")
    summary = shell.make(40, *both, devices=2, dies="1:4000")
    require(summary["made"] == 40 and summary["failed"] == 0, f"with a device that dies, {summary['made']} of 40 images were made")
    summary = shell.make(40, *both, devices=2, dies="1:1")
    require(summary["made"] == 40 and summary["failed"] == 0, f"with a device that is dead from the start, {summary['made']} of 40 images were made")
    said = shell.make(40, *both, devices=2, dies="0:4000,1:4000", code=14)
    require("no device is left" in said and "illegal memory access" in said, f"not told that no device is left:\n{said}")
    summary = shell.make(40, *both, devices=2, out=shell.out)
    require(summary["made"] + summary["skipped"] == 40 and summary["failed"] == 0, f"the resumed run ended so: {summary}")
    return "two GPUs share the work; one dies and the other makes all; both die (14), and the next start makes the rest"


def little_memory(shell):
    model = ["--device", "cuda:0"]
    shell.make(8, *model, "--lanes", 2)
    least = shell.logged("peak")
    shell.make(8, *model, "--lanes", 16)
    small = (least + shell.logged("peak")) // 2
    summary = shell.make(8, *model, "--lanes", 16, memory=small)
    require(summary["made"] == 8 and shell.logged("peak") <= small, f"with {small} bytes, {summary['made']} of 8 images were made")
    summary = shell.make(40, *model, memory=small)
    require(summary["made"] == 40, f"with `--lanes auto`, {summary['made']} of 40 images were made")
    learnt = json.loads((shell.out / ".nightshift/limits.json").read_text())
    refusals, lanes = shell.log.read_text().count("refused"), learnt["lanes"][0]["lanes"]
    require(lanes > 2 and not learnt["limits"] and refusals == 1, f"{lanes} lanes were found, {refusals} times memory ran out: {learnt}")
    return f"memory for some 8 of 16 lanes: calls get smaller; `--lanes auto` finds {lanes}, which do all night"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True, help="nightshift")
    parser.add_argument("--ort", type=Path, required=True, help="folder of ONNX Runtime's library for GPUs")
    parser.add_argument("--only", help="the name of one check")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nightshift-cuda-") as work:
        work = Path(work)
        build(args.ort.resolve() / "libonnxruntime_providers_cuda.so", work / "libraries")
        shell = Shell(args.binary.resolve(), args.ort.resolve(), work / "libraries", work)
        try:
            for check in [doctor, placement, options, a_night, other_kinds, recorded, two_devices, little_memory]:
                if args.only in (None, check.__name__):
                    print(f"cuda: {check(shell)}", flush=True)
        except Wrong as wrong:
            print(f"cuda: WRONG: {wrong}")
            sys.exit(1)
    print("cuda: all checks passed")


if __name__ == "__main__":
    main()
