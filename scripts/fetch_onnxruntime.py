#!/usr/bin/env python3
"""Puts ONNX Runtime's shared library into a folder, where nightshift finds it.

    python3 scripts/fetch_onnxruntime.py --dest .ort            # for CPU
    python3 scripts/fetch_onnxruntime.py --gpu --dest .ort      # for CUDA and TensorRT, and CPU
    python3 scripts/fetch_onnxruntime.py --wheel FILE.whl       # from a wheel that was carried to a machine without network

The library comes out of the pinned wheel, which pip downloads (with its own settings: proxies, mirrors, certificates).
Needs Python 3.9 and pip, nothing else. A second call returns at once; the folder is replaced whole or not at all.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VERSION = "1.31.1"
# The library does not care about Python; this is the oldest Python that the wheels are made for.
PYTHON = ("3.11", "cp311")
NOTE = "fetched.txt"


class Failure(Exception):
    """What went wrong, and how to fix it."""

    def __init__(self, message, hint):
        super().__init__(message)
        self.hint = hint


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true", help="the library with CUDA and TensorRT")
    parser.add_argument("--dest", type=Path, default=Path(".ort"), help="folder to put it into (default: .ort)")
    parser.add_argument("--wheel", type=Path, help="take it from this wheel instead of downloading one")
    args = parser.parse_args()
    package = "onnxruntime-gpu" if args.gpu else "onnxruntime"
    try:
        fetch(package, args.dest, args.wheel)
    except Failure as failure:
        sys.exit(f"error: {failure}\nhint: {failure.hint}")
    except OSError as error:
        sys.exit(f"error: cannot write {args.dest}: {error}")


def fetch(package, dest, wheel):
    note = f"{package} {VERSION}\n" if wheel is None else note_of(wheel)
    if is_there(dest, note):
        print(f"{note.strip()} is in {dest}")
        return
    dest.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that renaming stays on one file system.
    with tempfile.TemporaryDirectory(prefix=f"{dest.name}.new-", dir=dest.parent) as work:
        new = Path(work) / "new"
        new.mkdir()
        unpack(wheel or download(package, Path(work)), new)
        (new / NOTE).write_text(note, encoding="utf-8")
        replace(dest, new, Path(work) / "old")
    print(f"{note.strip()} is now in {dest}")


def note_of(wheel):
    """`onnxruntime_gpu-1.31.1-cp311-….whl` is `onnxruntime-gpu 1.31.1`, as if it had been downloaded."""
    name, _, rest = wheel.name.partition("-")
    return f"{name.replace('_', '-')} {rest.partition('-')[0]}\n"


def is_there(dest, note):
    try:
        same = (dest / NOTE).read_text(encoding="utf-8") == note
    except OSError:
        return False
    return same and any(is_library(path.name) for path in dest.iterdir())


def download(package, work):
    requirement = f"{package}=={VERSION}"
    version, abi = PYTHON
    print(f"downloading {requirement} ...", flush=True)
    command = [*pip(), "download", "--no-deps", "--only-binary=:all:", "--python-version", version,
               "--implementation", "cp", "--abi", abi, "--disable-pip-version-check", "--dest", str(work), requirement]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wheels = list(work.glob("*.whl"))
    if result.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    said = "\n".join(result.stdout.strip().splitlines()[-4:])
    elsewhere = f"`pip download --no-deps {requirement}` elsewhere, copy the wheel here and give it with --wheel"
    if "No matching distribution" in said and "versions: none" not in said:
        raise Failure(f"pip finds no {requirement} for this machine:\n{said}",
                      "the wheels are for Linux with glibc 2.28 or newer (x86_64, aarch64), macOS and Windows")
    raise Failure(f"pip cannot download {requirement}:\n{said}",
                  f"check the network and pip's settings (`pip config list`); without a network, run {elsewhere}")


def pip():
    """The command that is pip here."""
    candidates = [[sys.executable, "-m", "pip"], ["pip3"], ["pip"]]
    for command in candidates:
        if shutil.which(command[0]) is None:
            continue
        works = subprocess.run([*command, "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if works.returncode == 0:
            return command
    raise Failure(f"{sys.executable} has no pip", "install it (`apt install python3-pip`, or `python3 -m ensurepip`), or give "
                  "a wheel that you downloaded elsewhere with --wheel")


def unpack(wheel, folder):
    """Writes the libraries and licenses of `wheel` into `folder`, without its folders."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.infolist():
                name = Path(entry.filename).name
                if is_library(name) or name.startswith(("onnxruntime_providers", "libonnxruntime")) or is_legal(name):
                    with archive.open(entry) as source, open(folder / name, "wb") as target:
                        shutil.copyfileobj(source, target)
                        target.flush()
                        os.fsync(target.fileno())
    except (zipfile.BadZipFile, FileNotFoundError) as error:
        raise Failure(f"{wheel} is not a wheel: {error}", "download it again") from error
    if not any(is_library(path.name) for path in folder.iterdir()):
        raise Failure(f"{wheel} holds no ONNX Runtime library", f"use a wheel of onnxruntime or onnxruntime-gpu {VERSION}")


def is_library(name):
    """Whether `name` is the library itself, on Linux, macOS or Windows."""
    plain = name in ("libonnxruntime.so", "libonnxruntime.dylib", "onnxruntime.dll")
    versioned = name.startswith("libonnxruntime.so.") or (name.startswith("libonnxruntime.") and name.endswith(".dylib"))
    return plain or versioned


def is_legal(name):
    return name in ("LICENSE", "ThirdPartyNotices.txt")


def replace(dest, new, old):
    """Puts `new` in the place of `dest`. Another call may have done the same in the meantime: then its result stays."""
    if dest.exists():
        os.rename(dest, old)
    try:
        os.rename(new, dest)
    except OSError:
        if not any(is_library(path.name) for path in dest.iterdir()):
            raise


if __name__ == "__main__":
    main()
