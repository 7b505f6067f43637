#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tables and the plot from results/HOST.json, written by `scripts/bench GROUP --record HOST`:

    results.py          writes docs/results.md, docs/results.svg and the text between the markers of README.md and docs/serving.md
    results.py --check  names those that differ from results/*.json, and exits with 1 if one does

README shows the run of the group `limits` with the most instruction sets, of several the newest; docs/serving.md the runs of the
group `serving`, a line for each kind of row; docs/results.md has every row of every run. The plot needs matplotlib.
"""

import argparse
import io
import json
import pathlib
import re
import statistics
import sys
import textwrap

ROOT = pathlib.Path(__file__).resolve().parent.parent
HOST = r"[a-z0-9]+(-[a-z0-9]+)*"
GROUP = "limits"  # For README and the plot.
BEGIN, END = "<!-- results: bench/results.py writes what is between these lines -->", "<!-- end of results -->"
HEAD = ["row", "isa", "threads", "value", "best peer", "target", "met"]
FRACTIONS = {"of FMA peak": "FMA peak", "of bf16-dot peak": "bf16-dot peak", "of read bandwidth": "read bandwidth"}
# The rows of the short table, by title, on the best instruction set that has them.
SHORT = ("dense prefill, D128, 8 heads, 4096", "causal prefill, D128, 8 heads, 4096", "window of 512, causal, D128, 8 heads, 8192",
         "boolean mask, half of the 64 x 64 squares hidden, D128, 8 heads, 4096", "bf16 dense prefill, D128, 8 heads, 4096",
         "decode, D128, GQA 32/8, 16384 keys", "bf16 decode, D128, GQA 32/8, 16384 keys", "f16 decode, D128, GQA 32/8, 16384 keys",
         "embedding model: batch 8, 12 heads, 128 x 128, D32")
# The lines of the table of the group `serving`: what a row's title holds, and the unit of its value.
KINDS = (
    ("decode of 64 sequences, pages of 16", r"decode of 64.*pages of 16 .*: speed over dense", "of dense"),
    ("decode of 64 sequences, pages of 128", r"decode of 64.*pages of 128 .*: speed over dense", "of dense"),
    ("decode of 64 sequences, keys in tiles", r"decode of 64.*in tiles: speed over the same in rows", "of rows"),
    ("a chunk of 512 and 63 decodes in one call", r"and 63 decodes: speed over its two parts", "of the parts"),
    ("16 sequences that share 4096 of 4608 keys", r"shared.*: speed over pages of their own", "of unshared"),
    ("half of the 64 x 64 key blocks listed, a visible pair", r"key blocks listed", "of dense"),
    ("window of 512 of 32768 keys in pages, a visible pair", r"window of 512", "of dense"),
    ("tree of 64 speculative tokens over 4096 keys", r"speculative", "of FMA peak"),
    ("the same in pairs of bf16", r"speculative", "of bf16-dot peak"),
    ("MLA decode, 128 heads, 4096 latents", r"MLA decode, 128 heads.*dense$", "of FMA peak"),
    ("the same in pairs of bf16", r"MLA decode, 128 heads.*dense$", "of bf16-dot peak"),
    ("new keys, values and queries of 64 decodes, f32", r"^f32 keys, values and queries of 64 decodes", "of copy bandwidth"),
    ("the same in bf16", r"^bf16 keys, values and queries of 64 decodes", "of copy bandwidth"),
    ("those of a chunk of 512, f32", r"^f32 keys, values and queries of a chunk", "of copy bandwidth"),
    ("the same in bf16", r"^bf16 keys, values and queries of a chunk", "of copy bandwidth"),
)
BEST_FIRST = ("avx512_bf16", "avx512", "avx2", "sve512", "neon", "reference")


def number(value):
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def cells(r):
    note = r.get("note", "")
    value = note if r["value"] is None else f"{number(r['value'])} {r['unit']}" + (f" ({note})" if note else "")
    peer = "-" if r["peer"] is None else f"{number(r['peer_value'])} {r['peer']}"
    target = "-" if r["target"] is None else number(r["target"])
    met = "-" if r["met"] is None else "yes" if r["met"] else "no"
    return [r["row"], r["isa"], str(r["threads"]), value, peer, target, met]


def markdown(rows, head=HEAD, line=cells):
    return "\n".join("| " + " | ".join(texts) + " |" for texts in [head, ["---"] * len(head), *map(line, rows)])


def load(folder):
    """{host: {group: run}}, hosts by name."""
    return {path.stem: json.loads(path.read_text())["groups"] for path in sorted(folder.glob("*.json"))}


def record(host, group, run, root=ROOT):
    """Replaces the run of `group` in results/HOST.json and writes the files made from it."""
    path = root / "results" / f"{host}.json"
    groups = json.loads(path.read_text())["groups"] if path.exists() else {}
    groups[group] = run
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"host": host, "groups": groups}, indent=1) + "\n")
    write(root)


def best_isa(rows):
    """Each row and thread count once, on its best instruction set; only rows with a value."""
    chosen = {}
    for r in rows:
        if r["value"] is None:
            continue
        key = r["row"], r["threads"]
        if key not in chosen or BEST_FIRST.index(r["isa"]) < BEST_FIRST.index(chosen[key]["isa"]):
            chosen[key] = r
    return list(chosen.values())


def span(values):
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def where(host, run):
    passes = "one pass" if run["passes"] == 1 else f"medians of {run['passes']} passes"
    made = f"{host} ({run['cpu']}, {run['cores']} cores), {run['date']}, commit {run['commit'][:7]}, {passes}"
    if run.get("others_took_cores", 0) > 0.05:
        made += f", while others took {run['others_took_cores']} cores"
    return made


def claims(rows):
    """A summary of the rows in a sentence or two."""
    said = []
    for unit, what in FRACTIONS.items():
        for threads in sorted({r["threads"] for r in rows if r["unit"] == unit}):
            values = [r["value"] for r in rows if r["unit"] == unit and r["threads"] == threads and r["value"] is not None]
            if values:
                said.append(f"{span(values)} of {what} on {threads} thread{'s' if threads > 1 else ''} ({len(values)} rows)")
    pairs = [r for r in rows if r["value"] is not None and r["peer_value"] is not None]
    ahead = sum(r["value"] > r["peer_value"] for r in pairs)
    judged = [r for r in rows if r["met"] is not None]
    met = f"{sum(r['met'] for r in judged)} of {len(judged)} targets met." if judged else "No row has a target."
    if pairs:
        met = f"Ahead of the best peer in {ahead} of {len(pairs)} rows that one was measured on; {met}"
    return f"All rows: {'; '.join(said)}. {met}" if said else met


def title(row):
    """A title short enough to fit beside figures."""
    return row["row"].replace("boolean mask, half of the 64 x 64 squares hidden", "block mask")


def shown(hosts):
    """(host, run) of GROUP that README and the plot show: the one with the most instruction sets, of several the newest; None without one."""
    def rank(entry):
        run = entry[1]
        return len({r["isa"] for r in run["rows"] if r["value"] is not None}), run["date"]
    return max(((host, groups[GROUP]) for host, groups in hosts.items() if GROUP in groups), key=rank, default=None)


def short(hosts):
    """The text between README's markers."""
    host, run = shown(hosts)
    rows = [r for r in best_isa(run["rows"]) if r["row"] in SHORT]

    def line(r):
        peer = "-" if r["peer"] is None else f"{number(r['peer_value'])} {r['peer']}"
        return [title(r), r["isa"], str(r["threads"]), f"{number(r['value'])} {r['unit']}", peer]
    said = (f"`scripts/bench {GROUP}` on {where(host, run)}. A figure is a fraction of the peak of multiply-adds or of the read bandwidth, "
            f"whichever bounds the row, measured beside it. {claims(run['rows'])} [What stops the others](docs/limits.md). {run.get('note', '')}").strip()
    return "\n".join([
        "![Kumiko and the best other library, as fractions of what the machine can do](docs/results.svg)", "",
        markdown(rows, ["row", "isa", "threads", "Kumiko", "best peer"], line), "", textwrap.fill(said, 118)])


def serving(hosts):
    """The text between the markers of docs/serving.md: for each kind of row and each host the least and the largest value."""
    runs = {host: groups["serving"] for host, groups in hosts.items() if "serving" in groups}
    columns = [(host, threads) for host in runs for threads in (1, 2)]

    def values(host, threads, pattern, unit):
        return [r["value"] for r in runs[host]["rows"]
                if r["threads"] == threads and r["unit"] == unit and r["value"] is not None and re.search(pattern, r["row"])]

    def times_peer(host, threads):
        rows = [r for r in runs[host]["rows"] if r["threads"] == threads and r["value"] is not None and r["peer_value"]]
        return [r["value"] / r["peer_value"] for r in rows]

    def line(name, unit, of_column):
        return [name, unit, *(span(found) if (found := of_column(*column)) else "-" for column in columns)]
    lines = [line(name, unit, lambda *column, kind=(pattern, unit): values(*column, *kind)) for name, pattern, unit in KINDS]
    lines.append(line("what vLLM's kernel can run", "times its speed", times_peer))
    lines.append(line("geometric mean of these rows", "times its speed", lambda *column: [statistics.geometric_mean(t)] if (t := times_peer(*column)) else []))
    head = ["work", "value", *(f"{host}, {threads}" for host, threads in columns)]
    made = " ".join(f"{where(host, run)}." for host, run in runs.items())
    return "\n".join([markdown(lines, head, lambda texts: texts), "", textwrap.fill(made, 150)])


def page(hosts):
    """docs/results.md."""
    parts = ["# Results", "", "Written by bench/results.py from results/*.json: do not edit. [benchmarking.md](benchmarking.md) says how a row is made, and",
             "`scripts/bench GROUP --record HOST` makes all of them anew. A value of FMA peak, bf16-dot peak (multiply-adds of bf16 pairs) or read",
             "bandwidth is a fraction of what the host does in that, measured beside the row. [limits.md](limits.md) says what stops rows below their target.", "",
             *(f"- [{host}: `scripts/bench {group}`](#{host}-scriptsbench-{group})" for host, groups in hosts.items() for group in groups), "",
             "![Kumiko and the best other library](results.svg)"]
    for host, groups in hosts.items():
        for group, run in groups.items():
            parts += ["", f"## {host}: `scripts/bench {group}`", "", f"{where(host, run)}.", claims(run["rows"])]
            parts += ["", run["note"]] if "note" in run else []
            parts += ["", markdown(run["rows"])]
    return "\n".join(parts) + "\n"


def plot(hosts):
    """SVG of the run shown: a line a row, ours and the best peer's fraction of the ceiling."""
    import matplotlib
    matplotlib.use("svg")
    from matplotlib import pyplot
    host, run = shown(hosts)
    rows = [r for r in best_isa(run["rows"]) if r["unit"] in FRACTIONS]
    with matplotlib.rc_context({"svg.hashsalt": "kumiko", "svg.fonttype": "none", "font.size": 8}):
        figure, axes = pyplot.subplots(figsize=(9, 0.22 * len(rows) + 1.1), layout="constrained")
        at = [-n for n in range(len(rows))]
        titles = [f"{title(r)}{'' if r['threads'] == 1 else ', ' + str(r['threads']) + ' threads'} [{r['isa']}]" for r in rows]
        with_peer = [(y, r) for y, r in zip(at, rows) if r["peer_value"] is not None]
        axes.hlines([y for y, _ in with_peer], [r["peer_value"] for _, r in with_peer], [r["value"] for _, r in with_peer], color="#bbbbbb", lw=2)
        axes.plot([r["peer_value"] for _, r in with_peer], [y for y, _ in with_peer], "o", color="#d95f02", label="best other library")
        axes.plot([r["value"] for r in rows], at, "o", color="#1b6ca8", label="Kumiko")
        axes.axvline(1, color="black", lw=0.8, ls=":")
        axes.set(yticks=at, yticklabels=titles, xlim=(0, 1.05), xlabel=f"{host}: fraction of what bounds it, FMA or bf16-dot peak or read bandwidth")
        axes.grid(axis="x", alpha=0.3)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
    return out.getvalue().decode()


def between_markers(path, made):
    """The text of `path` with `made` between its markers; None if it has no markers."""
    text = path.read_text() if path.exists() else ""
    if BEGIN not in text and END not in text:
        return None
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{path.name}: expected one line {BEGIN!r} and after it one line {END!r}")
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}"


def generated(root):
    """The expected content of each file, by path."""
    hosts = load(root / "results")
    docs = root / "docs"
    files = {docs / "results.md": page(hosts)}
    if shown(hosts):
        files[docs / "results.svg"] = plot(hosts)
        files[root / "README.md"] = between_markers(root / "README.md", short(hosts))
    if any("serving" in groups for groups in hosts.values()):
        files[docs / "serving.md"] = between_markers(docs / "serving.md", serving(hosts))
    return {path: text for path, text in files.items() if text is not None}


def write(root=ROOT):
    for path, text in generated(root).items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def stale(root=ROOT):
    """The files that differ from those made from results/*.json."""
    return [str(path.relative_to(root)) for path, text in generated(root).items() if not path.exists() or path.read_text() != text]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        return write()
    for path in (differing := stale()):
        print(f"{path} differs from results/*.json: run bench/results.py", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
