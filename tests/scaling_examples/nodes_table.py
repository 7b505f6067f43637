# SPDX-License-Identifier: Apache-2.0
"""The tables between the markers of docs/scaling.md are what strong_scaling predicts over ranks.

    nodes_table.py STRONG PAGE            exit status 1 if they differ
    nodes_table.py STRONG PAGE --write    writes them there
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

BEGIN, END = "<!-- nodes_table -->\n", "<!-- end of nodes_table -->\n"
RANKS = (1, 4, 8, 16, 64, 256, 1024, 4096)
# Tiles differ between ISAs, and with them a node's predicted time.
ENVIRONMENT = os.environ | {"KUMIKO_ISA": "avx2"}


def points(program, *options):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "points.json"
        command = [program, "--simulate", "4096x4x12", "--tokens", "1048576", "--json", path, "--ranks", ",".join(map(str, RANKS)), *options]
        subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT)
        return {point["ranks"]: point for point in json.loads(path.read_text())["points"]}


def cell(point):
    """Efficiency, and what takes most of the rest."""
    losses = {part: seconds for part, seconds in point["parts"].items() if part != "compute"}
    worst = max(losses, key=losses.get)
    text = f"{point['efficiency']:.2f}"
    return text if losses[worst] < 0.01 * point["seconds"] else f"{text} {worst}"


def table(heads, columns):
    lines = ["| nodes | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
    lines += [f"| {n} | " + " | ".join(cell(column[n]) for column in columns) + " |" for n in RANKS]
    return "\n".join(lines) + "\n"


def fresh(program):
    cases = [(workload, link) for workload in ("prefill", "decode") for link in ("tofu-d", "ethernet-100g")]
    text = table([f"{w}, {link}" for w, link in cases], [points(program, "--workload", w, "--link", link) for w, link in cases])
    rows = ("contiguous", "zigzag", "cyclic")
    text += "\nPrefill by blocks alone (`--link tofu-d --algorithm broadcast`), by `--distribution`:\n\n"
    return text + table(rows, [points(program, "--algorithm", "broadcast", "--distribution", row) for row in rows])


def main():
    program, page = sys.argv[1], Path(sys.argv[2])
    tables = fresh(program)
    before, rest = page.read_text().split(BEGIN)
    found, after = rest.split(END)
    if sys.argv[3:] == ["--write"]:
        page.write_text(before + BEGIN + tables + END + after)
    elif found != tables:
        sys.exit(f"the tables of {page} are stale: {' '.join(sys.argv)} --write makes them anew. They should be\n{tables}")


if __name__ == "__main__":
    main()
