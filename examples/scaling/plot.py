#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws the results that strong_scaling and weak_scaling write with --json.

    plot.py RESULTS.json... PICTURE.svg     one picture: speedup with the ideal line, parallel efficiency below; .png works as well
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
    for result in results:
        found = {}
        for point in result["points"]:
            found.setdefault((point["executor"], point["bind"]), []).append(point)
        for (executor, bind), points in found.items():
            label = f"{result['workload']}, {executor}, {bind}"
            if len({r["machine"] for r in results}) > 1:
                label += f" ({result['machine']})"
            yield label, sorted(points, key=lambda p: p["threads"])


def draw(results, picture):
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(7, 8), sharex=True, height_ratios=(2, 1), layout="constrained")
    most = max(p["threads"] for r in results for p in r["points"])
    above.plot([1, most], [1, most], color="grey", linestyle="--", label="ideal")
    for label, points in series(results):
        threads = [p["threads"] for p in points]
        above.plot(threads, [p["speedup"] for p in points], marker="o", label=label)
        below.plot(threads, [p["efficiency"] for p in points], marker="o")
    below.axhline(1, color="grey", linestyle="--")
    below.set(xlabel="threads", ylabel="parallel efficiency", ylim=(0, 1.1))
    modes = " and ".join(sorted({r["mode"] for r in results}))
    above.set(ylabel="speedup" if modes == "strong" else "scaled speedup",
              title=f"{modes} scaling: {', '.join(sorted({r['machine'] for r in results}))}")
    above.legend()
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else None)


def main():
    parser = argparse.ArgumentParser(description="Draws scaling curves.")
    parser.add_argument("results", type=pathlib.Path, nargs="+", help="JSON files")
    parser.add_argument("picture", type=pathlib.Path, help=".svg or .png")
    arguments = parser.parse_args()
    draw([json.loads(path.read_text()) for path in arguments.results], arguments.picture)


if __name__ == "__main__":
    main()
