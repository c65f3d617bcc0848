"""The binary: runs of the null model, whole, stopped or killed."""
import os
import re
import signal
import subprocess
from pathlib import Path

import expect

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests/fixtures/null"
LAYOUTS = ["imagefolder", "webdataset", "parquet"]


class Nightshift:
    def __init__(self, binary):
        self.binary = binary

    def image_formats(self):
        """The formats of pictures that `run --help` lists; only PNG where it has no such option."""
        text = subprocess.run([self.binary, "run", "--help"], capture_output=True, text=True, check=True).stdout
        option = re.search(r"\n\s+--image-format .*?(?=\n\s+--[a-z])", text, re.S)
        known = ["png", "jpeg", "webp"]
        return [name for name in known if re.search(rf"\b{name}\b", option.group())] if option else ["png"]

    def start(self, manifest, out, layout, *more):
        command = [self.binary, "run", manifest, "--model", MODEL, "--out", out, "--format", layout, *more]
        command += ["--guidance-scale", "3", "--threads", "2"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTSHIFT_")}
        return Process(subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment))

    def run(self, *args, code):
        self.start(*args).ends_with(code)

    def verify(self, out):
        found = subprocess.run([self.binary, "verify", "--deep", out], capture_output=True, text=True)
        expect.true(f"nightshift verify ended with {found.returncode}:\n{found.stdout}{found.stderr}", found.returncode == 0)


class Process:
    """A run on its way. What it prints must fit into a pipe."""

    def __init__(self, child):
        self.child = child

    def is_over(self):
        return self.child.poll() is not None

    def signal(self, number):
        self.child.send_signal(number)
        if number == signal.SIGSTOP:
            # It has stopped only when it says so.
            os.waitid(os.P_PID, self.child.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def ends_with(self, *codes):
        output, _ = self.child.communicate(timeout=300)
        code = self.child.returncode
        expect.true(f"nightshift ended with {code}, not with one of {codes}:\n{output}", code in codes)
        return code

    def discard(self):
        if not self.is_over():
            self.child.kill()
        self.child.wait()
