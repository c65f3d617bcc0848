"""RESULTS.md from what bench.py saved."""
import math
from statistics import median

from cases import CASES

# The bars: least ratio of pictures per hour to each contestant's, largest ratio of memory.
SPEED = {
    "C1": {"diffusers": 1.5, "optimum": 1.1, "sdcpp": 2}, "C1b": {"diffusers": 1.4, "optimum": 1.4, "sdcpp": 2},
    "C2": {"diffusers": 2.5, "optimum": 2, "sdcpp": 3}, "C4": {"diffusers": 1.7, "optimum": 1.3, "sdcpp": 2},
    "C6": {"diffusers": 3, "optimum": 3},
}
MEMORY = {"C1b": {"diffusers": 0.85, "optimum": 0.65, "sdcpp": 1.3}}
OUTSIDE = {"C1": 0.02, "C6": 0.25}
UNET_SHARE, PSNR = 1.05, 50
# TFLOP of the UNet of Stable Diffusion 1.5 for one row, by size.
UNET = {256: 0.180, 512: 0.803}
# A case, and the same with fewer steps: the difference is UNet calls alone.
DIFFERENCES = {"C1": "U1", "C1b": "U1b"}
LONG = {"diffusers": "diffusers", "optimum": "optimum-onnx", "sdcpp": "stable-diffusion.cpp"}
HEADER = """# Measured: nightshift beside others

Written by `make bench` (`benches/bench.py`); how, and what was tried and dropped, is in [NOTES.md](NOTES.md). Every contestant is a
process of its own in each case and round, all on this machine one after the other, with equal threads, weights, prompts, noise,
steps and sizes, and PNG files written by each. "Steady" is the time after everything is loaded (the others had one small
picture to warm up, nightshift none). Ratios are of steady times within one round: above 1, nightshift is faster. Figures are
medians; the least and the largest are in brackets.
"""


def brief(took):
    """One line about a process, for the terminal."""
    if "steady" in took:
        return f"{took['steady']:8.2f} s steady  {took['load']:6.2f} s load  {took['peak_mb']:7.0f} MB"
    return took.get("failed") or f"left out: {took['left_out']}"


def report(results):
    """The whole of RESULTS.md."""
    parts = [HEADER, machine(results), bars(results)]
    parts += [case_table(results, name) for name in CASES if measured(results, name)]
    parts += [own_rate(results), stages(results), encoding(results), versions(results)]
    return "\n".join(part for part in parts if part)


def table(head, lines):
    """A table in Markdown."""
    shown = [f"| {' | '.join(map(str, line))} |" for line in lines]
    return "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *shown]) + "\n"


def measured(results, case):
    return any(case in taken["cases"] for taken in results["rounds"])


def by_round(results, case, contestant, name):
    """A number of each round in which the contestant came through, by the round."""
    took = {i: taken["cases"].get(case, {}).get(contestant, {}) for i, taken in enumerate(results["rounds"])}
    return {i: one[name] for i, one in took.items() if name in one}


def ratios(results, case, contestant, name, ours="nightshift"):
    """The other's number over ours, round by round."""
    mine, theirs = by_round(results, case, ours, name), by_round(results, case, contestant, name)
    return [theirs[i] / mine[i] for i in mine if i in theirs]


def spread(values, form="{:.2f}"):
    """`median (least to largest)`."""
    if not values:
        return "–"
    shown = form.format(median(values))
    return shown if len(values) == 1 else f"{shown} ({form.format(min(values))} to {form.format(max(values))})"


def machine(results):
    m = results["machine"]
    lines = [
        ("processor", f"{m['processor']}, {m['cores']} cores; {' '.join(m['flags'])}"), ("memory", f"{m['memory_gb']} GB"),
        ("system", f"{m['system']}, Python {m['python']}"), ("threads of every contestant", results["threads"]),
        ("nightshift", f"{m['nightshift']}, commit {m['commit']}"), ("date", m["date"]), ("rounds", len(results["rounds"])),
        ("others' work on the machine at the start", f"load average {m['load']:.2f}"),
        ("2048³ product in float32, GFLOP/s", "; ".join(
            f"{kind} {spread([one[kind] for taken in results['rounds'] for one in taken['matmul']], '{:.0f}')}"
            for kind in ("torch", "onnxruntime"))),
    ]
    note = "**A trial of the harness with tiny models: these numbers say nothing.**\n\n" if results["smoke"] else ""
    return f"{note}## The machine\n\n{table(('what', 'value'), lines)}"


def bars(results):
    """What was wanted beside what came out."""
    lines = []
    for case, wanted in SPEED.items():
        for contestant, bar in wanted.items():
            got = ratios(results, case, contestant, "steady")
            lines.append((f"{case}, pictures an hour against {LONG[contestant]}", f"≥ {bar}", spread(got),
                          verdict(got and median(got), lambda value: value >= bar)))
    for case, wanted in MEMORY.items():
        for contestant, bar in wanted.items():
            got = [1 / ratio for ratio in ratios(results, case, contestant, "peak_mb")]
            lines.append((f"{case}, peak memory against {LONG[contestant]}", f"≤ {bar}", spread(got),
                          verdict(got and median(got), lambda value: value <= bar)))
    for case in DIFFERENCES:
        got = unet_shares(results, case)
        lines.append((f"UNet's rate at {CASES[case].rows[0].size}² over the machine's 2048³ product", f"≥ {UNET_SHARE}",
                      spread(got), verdict(got and median(got), lambda value: value >= UNET_SHARE)))
    for case, bar in OUTSIDE.items():
        got = outside(results, case)
        lines.append((f"{case}, time outside the graphs", f"≤ {bar:.0%}", spread(got, "{:.1%}"),
                      verdict(got and median(got), lambda value: value <= bar)))
    least = [one["nightshift"]["least"] for one in results["agreement"].values() if one.get("nightshift")]
    lines.append(("PSNR against diffusers, least of any picture", f"> {PSNR} dB", decibels(min(least)) if least else "–",
                  verdict(min(least) if least else None, lambda value: value > PSNR)))
    same = results.get("same_bytes")
    lines.append(("C1's files beside those of one lane on one thread", "same bytes", {True: "same bytes", False: "differ"}.get(
        same, "–"), verdict(same, bool)))
    return f"## Bars\n\n{table(('what', 'bar', 'came out', ''), lines)}"


def verdict(value, test):
    """`met`, `missed`, or nothing where nothing was measured."""
    if value is None or value == []:
        return "not measured"
    return "met" if test(value) else "**missed**"


def decibels(value):
    return "equal" if math.isinf(value) else f"{value:.1f} dB"


def case_table(results, name):
    """All contestants of a case."""
    case = CASES[name]
    contestants = list(dict.fromkeys(c for taken in results["rounds"] for c in taken["cases"].get(name, {})))
    contestants.sort(key=lambda c: (not c.startswith("nightshift"), c))
    agreement = results["agreement"].get(name, {})
    lines = []
    for contestant in contestants:
        get = lambda what: list(by_round(results, name, contestant, what).values())
        if not get("steady"):
            lines.append((LONG.get(contestant, contestant), why_not(results, name, contestant), *[""] * 7))
            continue
        count = len(case.small().rows) if results["smoke"] else len(case.rows)
        like = agreement.get(contestant)
        batch = by_round(results, name, contestant, "batch")
        lines.append((
            LONG.get(contestant, contestant), spread(get("steady")), f"{count * 3600 / median(get('steady')):.0f}",
            spread(get("load"), "{:.1f}"), spread(get("wall"), "{:.1f}"), spread(get("peak_mb"), "{:.0f}"),
            "" if contestant == "nightshift" else spread(ratios(results, name, contestant, "steady")),
            decibels(like["least"]) if like else "", next(iter(batch.values()), "")))
    head = ("contestant", "steady, s", "pictures an hour", "load, s", "whole, s", "peak, MB", "nightshift is … times as fast",
            "least PSNR against diffusers", "batch")
    contrast = agreement.get("contrast")
    seen = f"\nContrast of diffusers' pictures (standard deviation): at least {contrast:.0f} of 255.\n" if contrast else ""
    return f"## {name}: {case.what}\n\n{table(head, lines)}{seen}"


def why_not(results, case, contestant):
    """Why a contestant has no times."""
    for taken in results["rounds"]:
        took = taken["cases"].get(case, {}).get(contestant, {})
        if "failed" in took or "left_out" in took:
            return took.get("failed") or took["left_out"]
    return "not run"


def unet_rates(results, case):
    """GFLOP/s of nightshift's UNet by round: what more steps took more."""
    full, short = CASES[case], CASES[DIFFERENCES[case]]
    work = (full.unet_rows() - short.unet_rows()) * UNET[full.rows[0].size] * 1e3
    long = by_round(results, case, "nightshift", "summary")
    brief_ones = by_round(results, short.name, "nightshift", "summary")
    generate = lambda summary: summary["stages"]["generate"]
    return {i: work / (generate(long[i]) - generate(brief_ones[i])) for i in long if i in brief_ones}


def unet_shares(results, case):
    """The UNet's rate over the machine's own, measured in the same round with the same library."""
    if results["smoke"]:
        return []
    own = {i: median(one["onnxruntime"] for one in taken["matmul"]) for i, taken in enumerate(results["rounds"])}
    return [rate / own[i] for i, rate in unet_rates(results, case).items()]


def own_rate(results):
    lines = [(f"{CASES[case].rows[0].size}²", spread(list(unet_rates(results, case).values()), "{:.0f}"),
              spread(unet_shares(results, case))) for case in DIFFERENCES if not results["smoke"]]
    return "" if not lines else (
        "## nightshift's UNet\n\nFrom what more steps took more (C1 less U1, C1b less U1b), and the arithmetic of one row: 0.180 TFLOP at "
        f"256², 0.803 at 512².\n\n{table(('size', 'GFLOP/s', 'over 2048³ product of ONNX Runtime'), lines)}")


def outside(results, case):
    """The share of nightshift's time after loading in which no graph was at work: planning, schedulers, guidance, copies, encoding,
    writing, journal. The start of the process is part of loading, as it is with the others."""
    def share(summary):
        took = summary["stages"]
        steady = summary["seconds"] - took["load"] - took["hash"]
        return 1 - (took["generate"] - took["outside"]) / steady
    return [share(summary) for summary in by_round(results, case, "nightshift", "summary").values()]


def stages(results):
    """nightshift's own account of its time."""
    lines = []
    for case in CASES:
        summaries = by_round(results, case, "nightshift", "summary").values()
        told = [summary["stages"] for summary in summaries]
        if told:
            lines.append((case, ", ".join(f"{name} {median([one[name] for one in told]):.2f}" for name in told[0])))
    return "" if not lines else (
        "## nightshift's stages, seconds\n\nAs `run --json` tells them; from `write` to `outside` they are parts of "
        "`generate`, side by side.\n\n" + table(("case", "medians"), lines))


def encoding(results):
    """C5."""
    taken = [one["encoding"] for one in results["rounds"] if "encoding" in one]
    if not taken:
        return ""
    lines = []
    for program in ("nightshift", "pillow"):
        for form in taken[0][program]:
            get = lambda what: [one[program][form][what] for one in taken]
            kilobytes = median(get("bytes")) / taken[0]["pictures"] / 1e3
            lines.append((program, form, spread(get("encode"), "{:.3f}"), spread(get("both"), "{:.3f}"), f"{kilobytes:.0f}"))
    return (f"## C5: encoding and writing alone\n\n{taken[0]['pictures']} pictures of 512², seconds. nightshift's have their parameters in "
            "them, and are synced to the disk; Pillow's are not.\n\n"
            + table(("program", "format", "encode, s", "encode and write, s", "KB a picture"), lines))


def versions(results):
    """What the contestants said that they are."""
    told = {}
    for taken in results["rounds"]:
        for case in taken["cases"].values():
            told.update({LONG.get(name, name): took["versions"] for name, took in case.items() if "versions" in took})
    lines = [(name, ", ".join(f"{package} {number}" for package, number in packages.items())) for name, packages in told.items()]
    return f"## Versions\n\n{table(('contestant', 'packages'), lines)}" if lines else ""
