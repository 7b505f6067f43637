#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Static estimate of the SVE kernels on A64FX: cycles of every inner loop, and of the pipelines made of them.

    a64fx_model                  prints both tables
    a64fx_model --benchmark_...  takes the flags of Google Benchmark, for bench/run_groups.py

Nothing is run: the loops are assembled, disassembled and timed by the models of cycles.py. Needs the packages of
scripts/packages-arm64.txt and scripts/requirements.txt.
"""

import argparse
import json
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import cycles  # noqa: E402
import loops  # noqa: E402
import pipelines  # noqa: E402

# GEMM families, whose best rows are found among these loops.
FAMILIES = {
    "f32": r"panel_f32_.*",
    "f16_blocked": r"panel_f16_(?!.*noepi).*",
    "f16": r"panel_f16_.*noepi.*",
    "i8": r"panel_i8_.*",
    "attention": r"gemm_f32_.*",
}


def loop_counters(loop, by_model):
    known = {model: c for model, c in by_model.items() if c is not None}
    slowest = max(c for model, c in known.items() if model in cycles.JUDGED)
    counters = {**{f"cycles_{model}": c for model, c in known.items()}, "cycles": slowest, "cycles_slowest": max(known.values())}
    if loop.unit == "k":
        counters |= {"bound": loop.bound, "over_bound": slowest / loop.bound, "peak_fraction": loop.bound / slowest}
    return counters


def gather():
    """Counters by benchmark."""
    found = loops.find()
    analysed = cycles.analyse_all(found)
    rows = {name: loop_counters(loop, analysed[name]) for name, loop in found.items()}
    best = {}
    for family, pattern in FAMILIES.items():
        members = {name: c for name, c in rows.items() if re.fullmatch(pattern, name) and "bound" in c}
        if members:
            best[f"best_{family}"] = min(members.values(), key=lambda c: c["over_bound"])
    estimates = pipelines.estimates({name: c["cycles"] for name, c in rows.items()})
    for name, row in pipelines.estimates({name: c["cycles_slowest"] for name, c in rows.items()}).items():
        estimates[name]["peak_fraction_slots"] = row["peak_fraction"]
    return found, {**rows, **best, **estimates}


def show(found, rows):
    form = "{:<34} {:>4} {:>6} " + " {:>7}" * len(cycles.MODELS) + " {:>7}"
    print(form.format("loop", "unit", "bound", *cycles.MODELS, "% peak"))
    for name, loop in found.items():
        c = rows[name]
        cells = [f"{c[key]:.3f}" if (key := f"cycles_{model}") in c else "-" for model in cycles.MODELS]
        bound, peak = (f"{c['bound']:.2f}", f"{100 * c['peak_fraction']:.1f}") if "bound" in c else ("-", "-")
        print(form.format(name, loop.unit, bound, *cells, peak))
    print("\nCycles a step of k (unit k), an element (e) or a tile of C (t); bound: the multiply-adds alone. % peak: by the slowest of "
          f"{', '.join(cycles.JUDGED)};\n{cycles.WHY_NOT_SLOTS}")
    pipelines.show(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark_list_tests", choices=["true", "false"], default="false", help=argparse.SUPPRESS)
    parser.add_argument("--benchmark_filter", default=".", help=argparse.SUPPRESS)
    parser.add_argument("--benchmark_out", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--benchmark_out_format", help=argparse.SUPPRESS)
    args = parser.parse_args()
    try:
        found, rows = gather()
    except loops.ToolMissing as missing:
        sys.exit(f"a64fx_model: {missing}")
    # Code that runs once a tile is not a row in the groups.
    names = {f"{'once_' if name in found and found[name].unit == 't' else ''}{name}/sve512/t1": counters for name, counters in rows.items()}
    if args.benchmark_list_tests == "true":
        print("\n".join(names))
    elif args.benchmark_out:
        results = [{"name": n, **counters} for n, counters in names.items() if re.search(args.benchmark_filter, n)]
        args.benchmark_out.write_text(json.dumps({"benchmarks": results}))
    else:
        show(found, rows)


if __name__ == "__main__":
    main()
