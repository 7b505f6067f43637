# SPDX-License-Identifier: Apache-2.0
"""Results as a table and as a plot."""

import io
import math
import os
from typing import Any

from .files import write_whole


def _ratio(result: dict[str, Any]) -> str:
    ratio = result["ratio"]
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"


def best_ratio(row: dict[str, Any]) -> float | None:
    """How many times as long as Kumiko the fastest other library takes; None if there is none."""
    return min((x["ratio"]["median"] for x in row["results"].values() if "ratio" in x), default=None)


def table(rows: list[dict[str, Any]]) -> str:
    """One line a case, then the geometric means over the fastest other library."""
    names = list(dict.fromkeys(name for row in rows for name, x in row["results"].items() if "ratio" in x))
    lines = [["case", "Kumiko", *names]]
    for row in rows:
        own = row["results"].get(row["kumiko"])
        cells = [_ratio(row["results"][name]) if name in row["results"] and own else "-" for name in names]
        lines.append([row["case"], f"{own['seconds'] * 1e3:.3f} ms" if own else "wrong", *cells])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    for kind in ("prefill", "decode"):
        ratios = [ratio for row in rows if row["kind"] == kind and (ratio := best_ratio(row))]
        if ratios:
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            ahead = sum(ratio > 1 for ratio in ratios)
            text.append(f"{kind}: the fastest other library takes {mean:.2f} times as long (geometric mean); Kumiko is ahead in {ahead} of {len(ratios)}")
    return "\n".join(text)


def plot_endings() -> list[str]:
    from matplotlib.backend_bases import FigureCanvasBase
    return [f".{name}" for name in FigureCanvasBase.get_supported_filetypes()]


def plot(rows: list[dict[str, Any]], path: str) -> None:
    """Bars of the ratios with their quartiles; the format is that of the file's ending."""
    from matplotlib.figure import Figure
    names = list(dict.fromkeys(name for row in rows for name, x in row["results"].items() if "ratio" in x))
    figure = Figure(figsize=(9, 1.5 + 0.22 * len(rows) * max(len(names), 1)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / max(len(names), 1)
    for i, name in enumerate(names):
        found = [(at, row["results"][name]["ratio"]) for at, row in enumerate(rows) if name in row["results"]]
        middle = [ratio["median"] for _, ratio in found]
        errors = [[ratio["median"] - ratio["low"] for _, ratio in found], [ratio["high"] - ratio["median"] for _, ratio in found]]
        axes.barh([at + i * height for at, _ in found], middle, height, xerr=errors, label=name, error_kw={"linewidth": 0.8})
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks([at + 0.4 - height / 2 for at in range(len(rows))], [row["case"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("time / Kumiko's time (median and quartiles)")
    if names:
        axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format=os.path.splitext(path)[1][1:])
    write_whole(path, picture.getvalue())
