#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Run a group of bench/groups.toml and print row, value, best peer's value, target, met or not. `scripts/bench` builds and calls this.

Every program of the group runs five times (--passes, or the group's `passes` if given), one process after the other, and a row's
value is the median of the five: a slow moment of a shared machine, or an unlucky placement in memory, spoils one of five, not the row.
Where other libraries are installed (`scripts/setup peers`), they run on the problems of attention_bench and serving_bench after each pass (peers.py).
Exit status: 0 when every row that this host can run gave a value (targets missed or not); 1 when an answer was wrong or a
program failed; 2 for a group that does not exist.
"""

import argparse
import datetime
import fnmatch
import json
import os
import pathlib
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import group_rows
import peers
import results

HERE = pathlib.Path(__file__).resolve().parent
GROUPS = group_rows.PATH
PASSES = 5


def expand(group, rows, listed):
    """One dict per figure: the row's fields with one benchmark, one ISA and one thread count, and the benchmark's full name."""
    figures = []
    for row in rows:
        names = listed[row["program"]]
        for threads in row["threads"]:
            if threads == "all":
                threads = max(thread_counts(names), default=1)
            for isa in row["isa"]:
                tail = f"/{isa}/t{threads}"
                heads = [row["benchmark"]]
                if "*" in row["benchmark"]:
                    offered = [n.split("/")[0] for n in names if n.endswith(tail) or tail + "/" in n]
                    heads = fnmatch.filter(offered, row["benchmark"]) or heads
                for head in heads:
                    title = row["row"] if head == row["benchmark"] else f"{row['row']}: {head}"
                    figures.append({**row, "row": title, "group": group, "isa": isa, "threads": threads, "name": head + tail,
                                    "values": []})
    return figures


def thread_counts(names):
    return {int(m.group(1)) for name in names if (m := re.search(r"/t(\d+)(/|$)", name))}


def list_benchmarks(directory, program):
    """Full names of the benchmarks that `program` has on this host."""
    out = subprocess.run([directory / program, "--benchmark_list_tests=true"], check=True, text=True, stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL).stdout
    return out.split()


def why_not(figure, listed, host):
    """None if the figure can be measured; else (reason, whether the host lacks something, which is no error)."""
    names = listed[figure["program"]]
    if any(n == figure["name"] or n.startswith(figure["name"] + "/") for n in names):
        return None
    if figure["isa"] != "host" and not any(n.startswith(f"fma/{figure['isa']}/") for n in host):
        return f"host lacks {figure['isa']}", True
    if figure["threads"] not in thread_counts(names):
        cores = max(thread_counts(host), default=1)
        return f"host lacks {figure['threads']} cores, it offers {cores}", True
    return f"{figure['program']} has no benchmark {figure['name']}", False


def run_pass(directory, program, figures):
    """Runs the figures' benchmarks in one process; appends each value or sets figure['error']."""
    wanted = "|".join(sorted({re.escape(f["name"]) for f in figures}))
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.json"
        done = subprocess.run(
            [directory / program, f"--benchmark_filter=^({wanted})(/|$)", f"--benchmark_out={out}", "--benchmark_out_format=json"],
            text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            for f in figures:
                f["error"] = f"{program} ended with status {done.returncode}: {last}"
            return
        results = json.loads(out.read_text())["benchmarks"]
    for f in figures:
        mine = [r for r in results if r["name"] == f["name"] or r["name"].startswith(f["name"] + "/")]
        failed = [r["error_message"] for r in mine if r.get("error_occurred")]
        if failed:
            f["error"] = failed[0]
        elif len(mine) != 1 or f["counter"] not in mine[0]:
            f["error"] = f"{program} reported no {f['counter']} for {f['name']}"
        else:
            f["values"].append(mine[0][f["counter"]] * f.get("scale", 1))
            f.setdefault("memory_bound", []).append(mine[0].get("memory_bound", 0))
            f.setdefault("cores_there", []).append(mine[0].get("cores_there", 1))


ABOVE_CEILING = 1.02
LIMIT = "of its limit"  # The ceiling is multiply-adds or reading, whichever takes longer; the programs say which in `memory_bound`.


def unit_of(figure):
    """The figure's unit; for LIMIT what bounds most of its passes."""
    if figure["unit"] != LIMIT or not figure["values"]:
        return figure["unit"]
    if statistics.median(figure["memory_bound"]) >= 0.5:
        return "of read bandwidth"
    return "of bf16-dot peak" if figure["isa"] == "avx512_bf16" else "of FMA peak"


def credible(figure, values):
    """Passes whose fraction is at most ABOVE_CEILING, which allows for noise: the others measured the ceiling in a slow moment."""
    if unit_of(figure) not in results.FRACTIONS:
        return values
    return [v for v in values if v <= ABOVE_CEILING]


def credible_of_peer(figure, values):
    """The same for a peer, where the ceiling is one for every library: reading. A peer may multiply with instructions that a row's peak does
    not count, so its passes above such a peak are kept."""
    return credible(figure, values) if unit_of(figure) == "of read bandwidth" else values


def with_all_cores(values, cores_there):
    """Passes of a speedup in which the machine's own gain showed all cores; every pass if none did. Other rows: every pass."""
    return [v for v, there in zip(values, cores_there) if there] or values


def record(figure):
    """The figure's JSON; `note` if there is no value or a pass does not count, `left_out` in the second case."""
    cores_there = figure.get("cores_there", [1] * len(figure["values"]))
    counted = credible(figure, with_all_cores(figure["values"], cores_there))
    left_out = len(figure["values"]) - len(counted)
    if figure["values"] and not counted:
        figure.setdefault("error", "every pass was above its ceiling, which was measured in a slow moment")
    value = statistics.median(counted) if counted and not figure.get("error") else None
    target = figure.get("target")
    met = None
    if value is not None and target is not None:
        met = value <= target if figure.get("at_most") else value >= target
    of_peers = {name: with_all_cores(values, figure.get("peers_cores_there", {}).get(name, [1] * len(values)))
                for name, values in figure.get("peers", {}).items()}
    peer, peer_value = peers.best({**figure, "peers": of_peers}, lambda values: credible_of_peer(figure, values))
    out = {"group": figure["group"], "row": figure["row"], "isa": figure["isa"], "threads": figure["threads"], "value": value,
           "unit": unit_of(figure), "peer": peer, "peer_value": peer_value, "target": target, "met": met}
    if of_peers:  # All libraries measured: medians, and their numbers of passes.
        out["peers"] = {name: {"value": statistics.median(counts), "passes": len(counts)} for name, values in of_peers.items()
                        if (counts := credible_of_peer(figure, values))}
    if value is None:
        out["note"] = f"failed: {figure['error']}" if figure.get("error") else f"not run: {figure['absent']}"
    elif left_out:
        out["left_out"] = left_out
        why = "above their ceiling" if all(cores_there) else "not all cores there"
        out["note"] = f"{left_out} of {len(figure['values'])} passes left out: {why}"
    elif not any(cores_there):
        out["note"] = "no pass had all cores"
    return out


def table(records, markdown):
    if markdown:
        return results.markdown(records)
    lines = [results.HEAD, *map(results.cells, records)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(results.HEAD))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip() for line in lines)


def cpu_model():
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Hardware")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()


def commit():
    """The hash of the commit checked out; "+" if files were changed."""
    git = ["git", "-C", str(HERE)]
    done = subprocess.run([*git, "rev-parse", "HEAD"], text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if done.returncode != 0:
        return "unknown"
    changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], text=True, stdout=subprocess.PIPE).stdout
    return done.stdout.strip() + ("+" if changed else "")


class Others:
    """How many cores' worth of time other processes, and the hypervisor, took since this was made."""

    def __init__(self):
        self.start = (time.monotonic(), self.busy(), self.ours())

    @staticmethod
    def busy():
        try:
            fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        except OSError:
            return None
        user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def ours():
        usage = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(u.ru_utime + u.ru_stime for u in usage)

    def cores(self):
        began, busy, ours = self.start
        if busy is None:
            return 0.0
        return max(0.0, (self.busy() - busy - (self.ours() - ours)) / (time.monotonic() - began))


def say(text):
    print(text, file=sys.stderr, flush=True)


def main(arguments=None):
    groups = group_rows.load(GROUPS)
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Build and run a group of benchmarks.",
                                     epilog="groups: " + "; ".join(f"{g} - {v['about']}" for g, v in groups.items()))
    parser.add_argument("group", nargs="?", help="one of the groups below")
    parser.add_argument("--json", metavar="FILE", help="also write the rows to FILE")
    parser.add_argument("--record", metavar="HOST", help="also write the rows to results/HOST.json, by a name such as zen5-2core, and all that is made from it")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--passes", type=int, metavar="N", help="runs of every program; medians are printed (default: 5, or as the group says)")
    parser.add_argument("--no-peers", action="store_true", help="leave other libraries out, though they are installed")
    parser.add_argument("--bin", type=pathlib.Path, default=HERE.parent / "build" / "bench", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.group not in groups:
        say(f"scripts/bench: no group {args.group!r}" if args.group else "scripts/bench: name a group")
        for name, group in groups.items():
            say(f"  {name:<12} {len(group['rows']):>2} rows  {group['about']}")
        return 2

    if args.record is not None and not re.fullmatch(results.HOST, args.record):
        parser.error(f"--record is {args.record!r}, expected a name of a-z, 0-9 and -, such as zen5-2core")
    if args.passes is not None and args.passes < 1:
        parser.error(f"--passes is {args.passes}, expected 1 or more")
    if args.json:  # Now, not after half an hour.
        try:
            open(args.json, "a", encoding="utf-8").close()
        except OSError as error:
            parser.error(f"--json is {args.json!r}, which cannot be written: {error.strerror}")
    rows = groups[args.group]["rows"]
    programs = sorted({r["program"] for r in rows})
    listed = {p: list_benchmarks(args.bin, p) for p in programs}
    host = list_benchmarks(args.bin, "machine_bench")
    figures = expand(args.group, rows, listed)
    for f in figures:
        if reason := why_not(f, listed, host):
            f["absent" if reason[1] else "error"] = reason[0]
    runnable = [f for f in figures if "absent" not in f and "error" not in f]
    compared = [] if args.no_peers or not peers.pythons() else [f for f in runnable if f["program"] in peers.PROGRAMS]
    others, began, said = Others(), time.monotonic(), set()
    passes = args.passes or groups[args.group].get("passes", PASSES)
    for n in range(passes):
        say(f"pass {n + 1} of {passes}: {len({f['name'] for f in runnable})} benchmarks")
        for p in programs:
            mine = [f for f in runnable if f["program"] == p and "error" not in f]
            if mine:
                run_pass(args.bin, p, mine)
        for note in peers.run_pass(args.bin, compared):
            if note not in said:
                say(f"peers: {note}")
            said.add(note)

    records = [record(f) for f in figures]
    print(table(records, args.markdown))
    forced = "".join(f", {k}={v}" for k, v in sorted(os.environ.items()) if k.startswith("KUMIKO_"))
    what = groups[args.group].get("where") or f"{cpu_model()}, {max(thread_counts(host), default=1)} cores"
    print(f"\n{what}; medians of {passes} runs{forced}" if passes > 1 else f"\n{what}{forced}")
    taken = others.cores()
    if passes > 1 and taken > 0.05:
        print(f"The machine was not quiet: others took {taken:.1f} cores meanwhile.")
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(records, indent=1) + "\n")
    if args.record:
        results.record(args.record, args.group, {
            "cpu": cpu_model(), "cores": max(thread_counts(host), default=1), "date": datetime.date.today().isoformat(), "commit": commit(),
            "passes": passes, "minutes": round((time.monotonic() - began) / 60, 1), "others_took_cores": round(taken, 2), "rows": records})
    judged = [r for r in records if r["met"] is not None]
    failed = [r for r in records if r.get("note", "").startswith("failed")]
    say(f"scripts/bench {args.group}: {sum(r['met'] for r in judged)} of {len(judged)} targets met"
        + (f", {len(failed)} rows FAILED" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
