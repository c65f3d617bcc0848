"""Checks what jobs/ shows, with the real programs: Kubernetes' schema, Snakemake, GNU parallel, a shell.

    make test-jobs                               # builds, makes the environment, runs this
    python tests/jobs/check_jobs.py --binary target/release/nightshift

Exits with 1 at the first thing that is not as it should be. GNU parallel is a package of the system: without it that check is left out.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "jobs/kubernetes"


class Wrong(Exception):
    pass


def require(condition, otherwise):
    if not condition:
        raise Wrong(otherwise)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True, help="nightshift")
    binary = parser.parse_args().binary.resolve()
    with tempfile.TemporaryDirectory(prefix="nightshift-jobs-") as work:
        shell = Shell(binary, Path(work))
        try:
            for check in [kubernetes_schema, kubernetes_policy, kubernetes_flags, snakemake, gnu_parallel, until_done]:
                print(f"jobs: {check(shell)}", flush=True)
        except Wrong as wrong:
            print(f"jobs: WRONG: {wrong}")
            sys.exit(1)
    print("jobs: all checks passed")


class Shell:
    """Runs lines of the documentation as they stand there, from the repository's root, with `nightshift` on the PATH."""

    def __init__(self, binary, work):
        self.work = work
        os.symlink(binary, work / "nightshift")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTSHIFT_")}
        self.environment["PATH"] = f"{work}:{Path(sys.executable).parent}:{self.environment['PATH']}"
        self.environment["ORT_DYLIB_PATH"] = str(ROOT / ".ort")

    def run(self, line, code=0):
        result = subprocess.run(["bash", "-c", line], cwd=ROOT, env=self.environment, capture_output=True, text=True)
        require(result.returncode == code, f"`{line}` ended with {result.returncode}:\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
        return result.stdout + result.stderr

    def complete(self, out, pictures):
        found = sorted(out.glob("images/*/*.png"))
        require(len(found) == pictures, f"{len(found)} pictures in {out}, not {pictures}")
        self.run(f"nightshift verify --deep {out}")


def kubernetes_schema(_):
    files = sorted(KUBERNETES.glob("*.yaml"))
    versions = ["1.33.0", kubernetes_validate.latest_version()]
    for file in files:
        for document in yaml.safe_load_all(file.read_text()):
            for version in versions:
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    raise Wrong(f"{file.name}: {error}") from error
    wrong = yaml.safe_load((KUBERNETES / "job.yaml").read_text())
    wrong["spec"]["backoffLimitPerIndexes"] = wrong["spec"].pop("backoffLimitPerIndex")
    try:
        kubernetes_validate.validate(wrong, versions[-1], strict=True)
    except kubernetes_validate.ValidationError:
        return f"kubernetes: {len(files)} files follow the schemas of {' and '.join(versions)}"
    raise Wrong("the schema finds nothing, whatever it is given")


def kubernetes_policy(shell):
    """The job's answers to exit codes are those of the table in its README, and every code of ours has one."""
    job = yaml.safe_load((KUBERNETES / "job.yaml").read_text())
    spec = job["spec"]
    answers = {}
    for rule in spec["podFailurePolicy"]["rules"]:
        for code in rule.get("onExitCodes", {}).get("values", []):
            answers.setdefault(code, rule["action"])
    require(spec["podFailurePolicy"]["rules"][0]["onPodConditions"][0]["type"] == "DisruptionTarget", "disruptions come first")
    require(answers == {75: "Ignore", 14: "Ignore", 2: "FailJob", 10: "FailJob", 12: "FailJob", 3: "FailIndex"}, f"{answers}")
    readme = (KUBERNETES / "README.md").read_text()
    for code, action in answers.items():
        row = next((line for line in readme.splitlines() if re.search(rf"^\|[^|]*\b{code}\b.*`{action}`", line)), None)
        require(row, f"README.md says nothing of {code} and {action}")
    ours = {int(code) for code in re.findall(r"(?m)(?:^| )(\d+) [A-Za-z]", shell.run("nightshift --help").split("Exit codes:")[1])}
    ours |= {130}
    counted = {0, 1, 11, 13, 130}
    require(ours == set(answers) | counted, f"codes of nightshift {sorted(ours)}, of the policy {sorted(set(answers) | counted)}")
    pod = spec["template"]["spec"]
    require(pod["restartPolicy"] == "Never", "podFailurePolicy needs restartPolicy Never")
    return "kubernetes: every exit code has its answer, as the README says"


def kubernetes_flags(shell):
    """The pod's command is one that nightshift takes, and the number of workers is the same in both places."""
    spec = yaml.safe_load((KUBERNETES / "job.yaml").read_text())["spec"]
    container = spec["template"]["spec"]["containers"][0]
    environment = {it["name"]: it["value"] for it in container["env"]}
    require(environment["NIGHTSHIFT_NUM_SHARDS"] == str(spec["completions"]), "completions and NIGHTSHIFT_NUM_SHARDS differ")
    drain = int(next(arg for arg in container["args"] if arg.startswith("--drain-timeout"))[len("--drain-timeout="):-1])
    require(drain + 5 <= spec["template"]["spec"]["terminationGracePeriodSeconds"], "no time to drain")
    args = [arg.replace("/data/cats.csv", "jobs/demo.csv").replace("/data/models/sdxl", "tests/fixtures/null") for arg in container["args"]]
    args = [arg.replace("/data/out", str(shell.work / "pod")).replace("=cuda", "=cpu") for arg in args]
    index = spec["completions"] - 1
    variables = " ".join(f"{name}={value}" for name, value in {**environment, "JOB_COMPLETION_INDEX": index}.items())
    said = shell.run(f"{variables} nightshift {' '.join(args)} --shard-size 3 --steps 2")
    require(f"{index}" in str(list((shell.work / "pod").rglob("worker-*.log"))), said)
    return f"kubernetes: the pod's command works as index {index}"


def snakemake(shell):
    out = shell.work / "snakemake"
    where = f"--directory {shell.work} --config out={out} manifest={ROOT}/jobs/demo.csv model={ROOT}/onnx/tiny-shapes"
    line = f"snakemake --snakefile jobs/snakemake/Snakefile --cores 2 --quiet all {where}"
    # Stopped early: the rule tries four times, fails, and what was made stays.
    shell.run(f"{line} 'flags=--steps 4 --limit 5'", code=1)
    shell.complete(out, 20)
    shell.run(f"{line} 'flags=--steps 4'")
    shell.complete(out, 26)
    require("Nothing to be done" in shell.run(f"{line.replace('--quiet all ', '')} 'flags=--steps 4'"), "snakemake made it again")
    return "snakemake: a try that stopped early fails and keeps its pictures, the next one makes the rest"


def gnu_parallel(shell):
    if shutil.which("parallel") is None:
        return "GNU parallel is not here: left out"
    line = example("seq 0 3")
    out = shell.work / "parallel"
    joblog = shell.work / "parallel.tsv"
    shell.run(line.replace("out/parallel.tsv", str(joblog)).replace("out/parallel", str(out)).replace("--shard-size 5", "--shard-size 5 --steps 4"))
    shell.complete(out, 26)
    codes = [row.split("\t")[6] for row in joblog.read_text().splitlines()[1:]]
    require(codes == ["0"] * 4, f"exit codes {codes}")
    devices = shell.run("seq 0 3 | parallel --jobs 4 'sleep 1; echo cuda:{= $_ = slot() - 1 =}'").split()
    require(sorted(devices) == [f"cuda:{n}" for n in range(4)], f"{devices}")
    return "GNU parallel: four workers, one folder"


def until_done(shell):
    line = example("until nightshift")
    out = shell.work / "until"
    line = line.replace("cats.csv", "jobs/demo.csv").replace("--model sdxl", "--model onnx/tiny-shapes --steps 30 --max-runtime 1s --threads 1")
    line = line.replace("out/cats", str(out)).replace("sleep 60", "echo again")
    said = shell.run(line)
    shell.complete(out, 26)
    return f"a shell: done after {said.count('again') + 1} starts"


def example(start):
    """The line of jobs/README.md that begins so, with those that continue it."""
    text = (ROOT / "jobs/README.md").read_text()
    found = re.search(rf"^{re.escape(start)}(?:.*\\\n)*.*$", text, re.M)
    require(found, f"jobs/README.md has no line that begins with `{start}`")
    return found.group()


if __name__ == "__main__":
    main()
