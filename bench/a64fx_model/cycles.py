# SPDX-License-Identifier: Apache-2.0
"""Cycles of a loop on A64FX by static models. docs/benchmarking.md says what they leave out.

  mca     llvm-mca's model of the core as it is
  narrow  llvm-mca, narrowed to the chip's 4 instructions a cycle and 96 rename registers
  osaca   OSACA's port model: the busiest port, or the longest chain from turn to turn
  slots   slots.py: the decoder's choice of pipe and the reservation stations, which the others lack
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import slots
from loops import ROOT, stored, tool

TURNS = 500
LONGEST = 180  # instructions that OSACA is given: its search for chains takes minutes for hundreds
MODELS = ("mca", "narrow", "osaca", "slots")
JUDGED = ("mca", "narrow", "osaca")  # the slowest of these counts
WHY_NOT_SLOTS = "slots is our own reading of the manual, not compared with any other tool: it is listed beside the others and decides nothing."
NARROW = ["-dispatch=4", "-register-file-size=96"]
# OSACA's table of the core was measured in f64. Other element sizes use the same pipes for the same time (Microarchitecture Manual 1.8.1),
# so OSACA gets each loop with f64 instructions; broadcasts are replaced by contiguous loads.
TWINS = [
    (re.compile(r"\b(z\d+)\.[bhsd]\b"), r"\1.d"),
    (re.compile(r"^ld1r?[bhwd] "), "ld1d "),  # LD1R: as contiguous loads
    (re.compile(r"^st1[bhwd] "), "st1d "),
    (re.compile(r"^sdot (z\d+\.d),"), r"fmla \1, p0/m,"),
]


def total_cycles(instructions, turns, options):
    command = [tool("llvm-mca-19"), "-mtriple=aarch64", "-mcpu=a64fx", f"-iterations={turns}", *options, "-"]
    out = subprocess.run(command, input="\n".join(instructions) + "\n", check=True, text=True, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE).stdout
    return int(re.search(r"^Total Cycles:\s+(\d+)$", out, re.MULTILINE)[1])


def mca(instructions, options=()):
    """Cycles a turn, from the second half of the turns: without filling and draining the pipeline."""
    return (total_cycles(instructions, TURNS, options) - total_cycles(instructions, TURNS // 2, options)) / (TURNS - TURNS // 2)


def f64_twin(instruction):
    for pattern, to in TWINS:
        instruction = pattern.sub(to, instruction)
    return instruction


def osaca(instructions):
    """None if OSACA's table lacks an instruction of the loop."""
    twins = [f64_twin(i) for i in instructions if not i.startswith("prfm")]  # It would count a prefetch as a load.
    with tempfile.TemporaryDirectory() as folder:
        source, report = pathlib.Path(folder) / "loop.s", pathlib.Path(folder) / "loop.yml"
        source.write_text("\n".join(["// OSACA-BEGIN", *twins, "// OSACA-END"]) + "\n")
        subprocess.run([sys.executable, "-m", "osaca", "--arch", "A64FX", "--ignore-unknown", "--yaml-out", report, source],
                       check=True, stdout=subprocess.DEVNULL)
        return read_osaca(report.read_text())


def read_osaca(report):
    if re.search(r"^Warnings: \[[^\]]*Unknown", report, re.MULTILINE):
        return None
    summary = report[report.index("\nSummary:"):]
    ports = re.search(r"PortPressure: \{([^}]*)\}", summary)[1]
    return max(float(v) for v in [*re.findall(r": ([\d.]+)", ports), *re.findall(r"\bLCD: ([\d.]+)", summary)])


def analyse(loop):
    """Cycles a unit of work, by model; None if a model lacks an instruction."""
    text = loop.instructions
    is_short = len(text) <= LONGEST
    try:
        turns = {"mca": mca(text), "narrow": mca(text, NARROW), "osaca": osaca(text) if is_short else None,
                 "slots": slots.cycles(text, 120 if is_short else 16)}
    except subprocess.CalledProcessError:  # an instruction that llvm-mca lacks
        return dict.fromkeys(MODELS)
    return {model: None if cycles is None else cycles / loop.count for model, cycles in turns.items()}


def version():
    """Everything besides the loop that a stored result depends on."""
    mca_version = subprocess.run([tool("llvm-mca-19"), "--version"], check=True, text=True, stdout=subprocess.PIPE).stdout
    return mca_version + "".join((pathlib.Path(__file__).parent / f).read_text() for f in ("cycles.py", "slots.py"))


def analyse_all(found, store=ROOT / ".cache" / "a64fx_model.json"):
    """Results for every loop by name, stored between runs under the loop's text and the tools."""
    salt = version()
    before = stored(store) or {}
    kept = before.get("results", {}) if before.get("salt") == salt else {}
    keys = {name: hashlib.sha256(repr((loop.instructions, loop.count)).encode()).hexdigest() for name, loop in found.items()}
    missing = {key: found[name] for name, key in keys.items() if key not in kept}
    if missing:
        with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            fresh = dict(zip(missing, pool.map(analyse, missing.values())))
        kept |= fresh
        store.parent.mkdir(exist_ok=True)
        store.write_text(json.dumps({"salt": salt, "results": kept}))
    return {name: kept[key] for name, key in keys.items()}
