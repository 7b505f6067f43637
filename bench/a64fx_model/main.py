#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Estimates the library's speed on A64FX: cycles of the assembly's inner loops, and of whole calls from what they execute under the emulator.

    a64fx_model                  prints the tables: loops, calls, and the loops of the calls
    a64fx_model --only REGEX     only the calls whose names match
    a64fx_model --benchmark_...  takes the flags of Google Benchmark, for bench/run_groups.py

Nothing runs on the chip: blocks are counted by executed.py and timed by the models of cycles.py. Needs the packages of
scripts/packages-arm64.txt and scripts/requirements.txt, and the program that scripts/bench a64fx builds.
"""

import argparse
import json
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import calls  # noqa: E402
import cycles  # noqa: E402
import executed  # noqa: E402
import loops  # noqa: E402
import regions  # noqa: E402

WORTH_A_ROW = 0.01  # of a call's cycles: loops that take less are not listed

# GEMM families, whose best rows are found among these loops.
FAMILIES = {
    "f32": r"gemm_f32_.*",
    "f16": r"gemm_f16_.*",
    "i8": r"int8_.*",
}


def loop_counters(loop, by_model):
    known = {model: c for model, c in by_model.items() if c is not None}
    slowest = max(c for model, c in known.items() if model in cycles.JUDGED)
    counters = {**{f"cycles_{model}": c for model, c in known.items()}, "cycles": slowest, "cycles_slowest": max(known.values())}
    if loop.unit == "k":
        counters |= {"bound": loop.bound, "over_bound": slowest / loop.bound, "peak_fraction": loop.bound / slowest}
    return counters


def gather():
    """Counters of the marked loops by name."""
    found = loops.find()
    analysed = cycles.analyse_all(found)
    rows = {name: loop_counters(loop, analysed[name]) for name, loop in found.items()}
    best = {}
    for family, pattern in FAMILIES.items():
        members = {name: c for name, c in rows.items() if re.fullmatch(pattern, name) and "bound" in c}
        if members:
            best[f"best_{family}"] = min(members.values(), key=lambda c: c["over_bound"])
    if {"best_f16", "best_i8"} <= best.keys():  # SDOT multiplies 64 pairs of elements, FMLA of f16 32
        best["int8_over_f16"] = {"rate": 64 / best["best_i8"]["over_bound"] / (32 / best["best_f16"]["over_bound"])}
    return found, {**rows, **best}


def call_counters(estimate):
    counters = {"peak_fraction": estimate.fraction, "covered": estimate.covered, "cycles": estimate.total, "instructions": estimate.instructions,
                "traffic_fraction": estimate.traffic / estimate.cycles}
    return counters | ({"over_traffic": estimate.over_traffic} if estimate.case.memory_bytes else {})


def loops_of_calls(estimates, by_model):
    """Loops that take WORTH_A_ROW or more of a call's cycles: counters by name, with the largest share and the call that has it. The name of a loop
    has the address where it begins, which tells the loops of one function apart."""
    found = {}
    for estimate in estimates:
        for region in estimate.regions:
            turn, bound = estimate.turn[region.name], regions.bound(region.instructions)
            share = region.turns * turn / estimate.cycles
            if share < WORTH_A_ROW or share < found.get(region.name, {"share": 0})["share"]:
                continue
            models = {f"cycles_{model}": c for model, c in by_model[region.instructions].items() if c is not None}
            found[region.name] = {**models, "cycles": turn, "share": share, "call": estimate.case.name}
            if bound:
                found[region.name] |= {"bound": bound, "over_bound": turn / bound}
    return found


def show_loops(found, rows):
    form = "{:<34} {:>4} {:>6} " + " {:>7}" * len(cycles.MODELS) + " {:>7}"
    print(form.format("loop", "unit", "bound", *cycles.MODELS, "% peak"))
    for name, loop in found.items():
        c = rows[name]
        cells = [f"{c[key]:.3f}" if (key := f"cycles_{model}") in c else "-" for model in cycles.MODELS]
        bound, peak = (f"{c['bound']:.2f}", f"{100 * c['peak_fraction']:.1f}") if "bound" in c else ("-", "-")
        print(form.format(name, loop.unit, bound, *cells, peak))
    print("\nCycles a step of k (unit k), an element (e) or a tile of C (t); bound: the multiply-adds alone. % peak: by the slowest of "
          f"{', '.join(cycles.JUDGED)};\n{cycles.WHY_NOT_SLOTS}")


def show_calls(estimates):
    """f32 and half side by side."""
    pairs = {}
    for e in estimates:
        name, precision = e.case.name.rsplit("_", 1)
        pairs.setdefault(re.sub(r"_m\d+", "", name) if "_m12_" not in name else name, {})[precision] = e
    form = "{:<36}" + " |{:>8} {:>7} {:>7} {:>7} {:>8}" * 2
    print("\n" + form.format("call, one core", *["% peak", "target", "covered", "traffic", "Mcycles"] * 2))
    for name, pair in pairs.items():
        cells = []
        for precision in calls.PEAK:
            e = pair.get(precision)
            cells += [f"{100 * e.fraction:.1f}", f"{100 * e.case.target:.0f}" if e.case.target else "-", f"{100 * e.covered:.2f}",
                      f"{e.traffic / e.cycles:.2f}", f"{e.total / 1e6:.2f}"] if e else ["-"] * 5
        print(form.format(name, *cells))
    print("\nLeft f32, right half. " + assumptions())
    for how in dict.fromkeys(e.case.executed for e in estimates):
        print(f"  executed: {how}: " + ", ".join(e.case.name for e in estimates if e.case.executed == how))


def assumptions():
    """The assumptions that come from no model and no execution, in words."""
    return (f"Peak: {calls.PEAK['f32']} and {calls.PEAK['half']} FLOP a cycle. covered: % of the executed instructions in blocks with a "
            f"model, the others take a cycle each.\nA visit of a loop of {regions.LONG} turns or more takes START = {regions.START} cycles besides "
            "(first loads 11, last multiply-adds 9, its end mispredicted\n"
            f"about 20). traffic: {calls.L2_RATE} bytes a cycle between L2 and L1 and {calls.MEMORY_RATE} from memory, over the instructions' "
            "cycles; they overlap, so\nthe longer of the two counts.")


def show_loops_of_calls(found):
    form = "{:<44} {:>7} {:>8} {:>6}  {:>6}  {}"
    print("\n" + form.format("loop of a call", "bound", "cycles", "over", "share", "of"))
    for name, c in sorted(found.items(), key=lambda item: -item[1]["share"]):
        bound, over = (f"{c['bound']:.2f}", f"{c['over_bound']:.2f}") if "bound" in c else ("-", "-")
        print(form.format(name, bound, f"{c['cycles']:.2f}", over, f"{c['share']:.3f}", c["call"]))
    print(f"\nCycles a turn by the slowest of {', '.join(cycles.JUDGED)}. bound: {slots_bound()}. Loops of {WORTH_A_ROW:.0%} of a call or more.")


def slots_bound():
    return "4 instructions a cycle, two floating-point pipes, one of them alone for shuffles, comparisons and stores, two load pipes"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark_list_tests", choices=["true", "false"], default="false", help=argparse.SUPPRESS)
    parser.add_argument("--benchmark_filter", default=".", help=argparse.SUPPRESS)
    parser.add_argument("--benchmark_out", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--benchmark_out_format", help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", help="a regular expression: only the calls whose names match")
    args = parser.parse_args()
    try:
        found, rows = gather()
        estimates, by_model = calls.gather(lambda name: re.search(args.only, name))
    except (loops.ToolMissing, executed.CallFailed) as problem:
        sys.exit(f"a64fx_model: {problem}")
    # Code that runs once a tile is not a row in the groups.
    names = {f"{'once_' if name in found and found[name].unit == 't' else ''}{name}/sve512/t1": counters for name, counters in rows.items()}
    executed_loops = loops_of_calls(estimates, by_model)
    names |= {f"{e.case.name}/sve512/t1": call_counters(e) for e in estimates}
    names |= {f"executed_{name}/sve512/t1": {k: v for k, v in c.items() if k != "call"} for name, c in executed_loops.items()}
    if args.benchmark_list_tests == "true":
        print("\n".join(names))
    elif args.benchmark_out:
        results = [{"name": n, **counters} for n, counters in names.items() if re.search(args.benchmark_filter, n)]
        args.benchmark_out.write_text(json.dumps({"benchmarks": results}))
    else:
        show_loops(found, rows)
        show_calls(estimates)
        show_loops_of_calls(executed_loops)


if __name__ == "__main__":
    main()
