"""What the results were made on."""
import datetime
import os
import platform
import subprocess
from pathlib import Path

FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8")


def facts(binary):
    """Processor, memory, system, versions of the project, date."""
    cpu = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        cpu.setdefault(name.strip(), value.strip())
    kilobytes = int(Path("/proc/meminfo").read_text().split()[1])
    present = set(cpu.get("flags", "").split())
    return {
        "processor": cpu.get("model name", platform.machine()), "cores": cores(),
        "flags": [flag for flag in FLAGS if flag in present], "memory_gb": round(kilobytes / 1e6, 1),
        "system": f"{platform.system()} {platform.release()}", "python": platform.python_version(),
        "nightshift": said([binary, "--version"]),
        "commit": said(["git", "-C", Path(__file__).parent, "describe", "--always", "--dirty"]),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), "load": os.getloadavg()[0]}


def said(command):
    """What a command prints, in one line."""
    try:
        return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
