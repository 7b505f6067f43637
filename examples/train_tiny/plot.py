#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws the losses that train_tiny writes with --json.

    plot.py LOSSES.json PICTURE.svg     .png works as well
"""

import argparse
import json
import pathlib

import matplotlib

matplotlib.use("Agg")  # needs no display
matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
matplotlib.rcParams["svg.hashsalt"] = "train_tiny"  # the same file for the same losses
from matplotlib import pyplot  # noqa: E402

SMOOTHED = 20  # steps of a mean


def means(losses):
    """(step, mean) of each group of steps, at its middle; the last group may be shorter."""
    groups = [(i, losses[i:i + SMOOTHED]) for i in range(0, len(losses), SMOOTHED)]
    return [(i + len(group) / 2, sum(group) / len(group)) for i, group in groups]


def draw(result, picture):
    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    points = means(result["losses"])
    axes.plot(*zip(*points, strict=True), marker="o" if len(points) == 1 else None, label=f"loss of the batches, mean of {SMOOTHED}")
    axes.axhline(result["held_out"], color="grey", linestyle="--", label=f"text not trained on, at the end: {result['held_out']:.2f}")
    axes.set(xlabel=f"steps of {result['tokens_a_step']} bytes", ylabel="nats a byte", ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("losses", type=pathlib.Path)
    parser.add_argument("picture", type=pathlib.Path)
    args = parser.parse_args()
    draw(json.loads(args.losses.read_text()), args.picture)


if __name__ == "__main__":
    main()
