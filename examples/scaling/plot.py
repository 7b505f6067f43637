#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws the results that strong_scaling and weak_scaling write with --json.

    plot.py RESULTS.json... PICTURE.svg     one picture: speedup with the ideal line, parallel efficiency below; .png works as well

Results over ranks (--simulate RxDxC) make another: parallel efficiency, and for each file what the time consists of.
"""

import argparse
import json
import pathlib

import matplotlib

matplotlib.use("Agg")  # needs no display
matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
from matplotlib import pyplot  # noqa: E402


def series(results):
    """(label, points) for every executor and binding of every file."""
    modes = {result["mode"] for result in results}
    for result in results:
        found = {}
        for point in result["points"]:
            found.setdefault((point["executor"], point["bind"]), []).append(point)
        for (executor, bind), points in found.items():
            label = f"{result['workload']}, {executor}, {bind}"
            if len(modes) > 1:
                label = f"{result['mode']}, {label}"
            if len({r["machine"] for r in results}) > 1:
                label += f" ({result['machine']})"
            yield label, sorted(points, key=lambda p: p["threads"])


def efficiency_axis(results):
    """Where the axis ends: no point lies above it, not even where more threads are more than proportionally faster."""
    return max(1.1, *(1.05 * p["efficiency"] for r in results for p in r["points"]))


def draw(results, picture):
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(7, 8), sharex=True, height_ratios=(2, 1), layout="constrained")
    most = max(p["threads"] for r in results for p in r["points"])
    above.plot([1, most], [1, most], color="grey", linestyle="--", label="ideal")
    for label, points in series(results):
        threads = [p["threads"] for p in points]
        above.plot(threads, [p["speedup"] for p in points], marker="o", label=label)
        below.plot(threads, [p["efficiency"] for p in points], marker="o")
    below.axhline(1, color="grey", linestyle="--")
    below.set(xlabel="threads", ylabel="parallel efficiency", ylim=(0, efficiency_axis(results)))
    modes = " and ".join(sorted({r["mode"] for r in results}))
    above.set(ylabel="scaled speedup" if modes == "weak" else "speedup",
              title=f"{modes} scaling: {', '.join(sorted({r['machine'] for r in results}))}")
    above.legend()
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else None)


PARTS = {"compute": "#4c78a8", "imbalance": "#eeca3b", "link": "#e45756", "latency": "#72b7b2"}


def draw_ranks(results, picture):
    figure, all_axes = pyplot.subplots(1 + len(results), 1, figsize=(7, 3 + 2 * len(results)), sharex=True,
                                       height_ratios=[1.5] + [1] * len(results), layout="constrained")
    above, *below = all_axes
    for result, axes in zip(results, below):
        label = f"{result['mode']}, {result['workload']}, {result['rates']['link']}"
        ranks = [p["ranks"] for p in result["points"]]
        above.plot(ranks, [p["efficiency"] for p in result["points"]], marker="o", label=label)
        shares = [[p["parts"][part] / p["seconds"] for p in result["points"]] for part in PARTS]
        axes.stackplot(ranks, shares, colors=PARTS.values(), labels=PARTS)
        axes.set(title=label, ylabel="part of the time", ylim=(0, 1))
    above.set(ylabel="parallel efficiency", ylim=(0, efficiency_axis(results)), title=", ".join(sorted({r["machine"].split("x", 1)[1].split(" ")[0] + " cores a rank, simulated" for r in results})))
    above.set_xscale("log", base=2)
    above.legend()
    above.grid(alpha=0.3)
    below[0].legend(loc="lower left")
    below[-1].set(xlabel="ranks")
    ticks = sorted({p["ranks"] for r in results for p in r["points"]})
    below[-1].set_xticks(ticks, [str(n) for n in ticks])
    figure.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else None)


def main():
    parser = argparse.ArgumentParser(description="Draws scaling curves.")
    parser.add_argument("results", type=pathlib.Path, nargs="+", help="JSON files")
    parser.add_argument("picture", type=pathlib.Path, help=".svg or .png")
    arguments = parser.parse_args()
    results = [json.loads(path.read_text()) for path in arguments.results]
    of_ranks = [bool(result["points"]) and "ranks" in result["points"][0] for result in results]
    if any(of_ranks) != all(of_ranks):
        parser.error("results over ranks and over threads make two pictures")
    (draw_ranks if all(of_ranks) else draw)(results, arguments.picture)


if __name__ == "__main__":
    main()
