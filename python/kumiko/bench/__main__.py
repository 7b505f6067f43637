# SPDX-License-Identifier: Apache-2.0
"""Times Kumiko beside PyTorch's SDPA, ONNX Runtime and OpenVINO, those that are installed: one process, one clock, the same threads, in turns.

Every answer is first checked against fp64. A ratio is the other library's time over Kumiko's in the same round; the table has its median and
quartiles. The exit status is 1 if an answer of Kumiko's is wrong or a file cannot be written, and 2 if an option is wrong.
"""

import argparse
import importlib.util
import json
import os
import platform
import sys
from typing import Any

from . import report
from .cases import DTYPES, MOST_DIM, Case, built_in
from .files import why_not_written, write_whole
from .libraries import PEERS, Kumiko
from .measure import hold, measure

SHAPE = ("batch", "q_heads", "kv_heads", "q_len", "kv_len", "head_dim")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m kumiko.bench", description=__doc__)
    shape = parser.add_argument_group("a shape of your own, in place of the built-in list")
    for name in SHAPE:
        of = {"kv_heads": "that of --q-heads", "kv_len": "that of --q-len"}.get(name, getattr(Case(), name))
        shape.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=f"default {of}, if another of these is given")
    shape.add_argument("--causal", action="store_true", help="to the last key")
    parser.add_argument("--dtype", choices=DTYPES, help="default f32 for a shape of your own; of the built-in list, only this type")
    parser.add_argument("--threads", type=int, metavar="N", help="of each library, on the first N CPUs; default all")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="default 9")
    parser.add_argument("--window", type=float, default=0.1, metavar="SECONDS", help="of calls of each library in a round; default 0.1")
    parser.add_argument("--models", action="store_true", help="whole models of transformers, on eager attention, SDPA and Kumiko")
    parser.add_argument("--lengths", type=int, nargs="+", metavar="N", help="tokens of their prompts; default 4096 16384")
    parser.add_argument("--json", metavar="FILE", help="all times; - for standard output, in place of the table")
    parser.add_argument("--plot", metavar="FILE", help="by matplotlib: .svg, .png, .pdf")
    found = parser.parse_args(arguments)
    if found.rounds < 1:
        parser.error(f"--rounds is {found.rounds}, expected at least 1")
    if not 0 < found.window <= 60:
        parser.error(f"--window is {found.window}, expected more than 0 and at most 60")
    check_files(parser, found)
    given = {name: getattr(found, name) for name in SHAPE if getattr(found, name) is not None}
    if found.lengths is not None and not found.models:
        parser.error(f"--lengths is {found.lengths}, expected none without --models")
    if found.models:
        for name in [*given, *(name for name in ("causal", "dtype") if getattr(found, name))]:
            parser.error(f"--{name.replace('_', '-')} is given, expected no shape or type with --models")
        found.lengths = found.lengths or [4096, 16384]
        for package in ("torch", "transformers"):
            if importlib.util.find_spec(package) is None:
                parser.error(f"--models is given, and {package} is not installed")
        if found.plot:
            parser.error(f"--plot is {found.plot}, expected none with --models")
        if min(found.lengths) < 1:
            parser.error(f"--lengths is {found.lengths}, expected each at least 1")
    for name, value in given.items():
        if value < 1:
            parser.error(f"--{name.replace('_', '-')} is {value}, expected at least 1")
    if given or found.causal:
        found.cases = [Case(**{"kv_heads": given.get("q_heads", 8), "kv_len": given.get("q_len", 4096), **given},
                            causal=found.causal, dtype=found.dtype or "f32")]
        if found.cases[0].q_heads % found.cases[0].kv_heads:
            parser.error(f"--q-heads is {found.cases[0].q_heads}, expected a multiple of --kv-heads {found.cases[0].kv_heads}")
        if found.cases[0].head_dim > MOST_DIM:
            parser.error(f"--head-dim is {found.cases[0].head_dim}, expected at most {MOST_DIM}")
        needed, most = found.cases[0].least_bytes, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needed > most:
            parser.error(f"the shape takes at least {needed / 2**30:.0f} GiB of memory, expected at most the machine's {most / 2**30:.0f} GiB")
    else:
        found.cases = [case for case in built_in() if found.dtype in (None, case.dtype)]
    return found


def check_files(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Before anything is measured, which takes minutes."""
    if options.plot:
        if importlib.util.find_spec("matplotlib") is None:
            parser.error(f"--plot is {options.plot}, and matplotlib is not installed")
        endings = report.plot_endings()
        if os.path.splitext(options.plot)[1] not in endings:
            parser.error(f"--plot is {options.plot}, expected a name with one of the endings {' '.join(endings)}")
    for name, path in ("--json", None if options.json == "-" else options.json), ("--plot", options.plot):
        if path and (why := why_not_written(path)):
            parser.error(f"{name} is {path}, expected a file that can be written: {why}")


def load(threads: int) -> tuple[list[Any], list[str]]:
    """Kumiko and the peers that load, and a sentence for each that does not."""
    libraries, missing = [Kumiko(threads)], []
    for peer in PEERS:
        try:
            libraries.append(peer(threads))
        except ImportError as error:
            missing.append(f"{peer.package} is not measured: {error}")
    return libraries, missing


def run_models(options: argparse.Namespace, threads: int) -> int:
    from . import models
    rows = []
    makers = models.models(tuple(options.lengths))
    for i, make in enumerate(makers):
        say(f"{i + 1} of {len(makers)} models")
        rows.append(models.measure_model(make, threads, options.rounds))
        say(f"  {rows[-1]['model']}: {models.says(rows[-1])}")
    write(options, {"threads": threads, "models": rows}, models.model_table(rows))
    wrong = [row for row in rows if not row["error"] <= models.BOUND]
    for row in wrong:
        say(f"{row['model']}: Kumiko's output differs from that of {row['compared_with']} attention by {row['error']:.2g} of the largest, expected {models.BOUND:g}")
    return 1 if wrong else 0


def write(options: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    as_json = json.dumps(result, indent=1)
    print(as_json if options.json == "-" else text, flush=True)  # First: it may have taken hours.
    if options.json and options.json != "-":
        write_whole(options.json, as_json.encode())


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        threads = hold(options.threads)
    except ValueError as error:
        say(f"python -m kumiko.bench: {error}")
        return 2
    try:
        return run_models(options, threads) if options.models else run_cases(options, threads)
    except OSError as error:
        say(f"python -m kumiko.bench: {error}")
        return 1


def run_cases(options: argparse.Namespace, threads: int) -> int:
    libraries, missing = load(threads)
    for line in missing:
        say(line)
    cases = options.cases
    if any(case.dtype == "bf16" for case in cases) and importlib.util.find_spec("ml_dtypes") is None:
        missing.append("bf16 is not measured: ml_dtypes is not installed")
        say(missing[-1])
        cases = [case for case in cases if case.dtype != "bf16"]
    rows = []
    for i, case in enumerate(cases):
        say(f"{i + 1} of {len(cases)}: {case.name}")
        rows.append(measure(case, libraries, options.rounds, options.window))
        ratio = report.best_ratio(rows[-1])
        for line in [*rows[-1]["notes"], *([f"the fastest other library takes {ratio:.2f} times as long"] if ratio else [])]:
            say(f"  {line}")
    result = {"machine": platform.machine(), "cpus": os.cpu_count(), "threads": threads, "libraries": [x.name for x in libraries],
              "missing": missing, "context": libraries[0].context.describe(), "rows": rows}
    write(options, result, report.table(rows))
    if options.plot:
        report.plot(rows, options.plot)
    return 1 if any(row["kumiko"] not in row["results"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
