# SPDX-License-Identifier: Apache-2.0
"""Tries the mutants of AVX-512's kernels in one guest of bochs (docs/emulation.md), for a machine that lacks AVX-512."""

import pathlib
import re
import shutil
import sys

from mutants import ROOT

sys.path.insert(0, str(ROOT / "tests/emulated_x86"))
import guest  # noqa: E402
from mutation_build import Worker, result_of  # noqa: E402

BOOT = ROOT / ".cache/guest/root"
LIMIT = 600
# The names after NAME=VALUE are the command's: an endless loop ends after so many of the guest's seconds.
ENVIRONMENT = ["KUMIKO_ISA=avx512", "KUMIKO_TEST_THINNED=2", "KUMIKO_TEST_PROCESSOR=bochs", "GTEST_COLOR=no", "GTEST_FAIL_FAST=1", "timeout", str(LIMIT)]


def program_of(mutant):
    """The one with the rows of its own test's and of avx512_bf16 without that instruction set, which bochs lacks."""
    return f"tests/vdpbf16ps_replaced/vdpbf16ps_replaced_{pathlib.Path(mutant.test[0]).name}"


def try_mutants(build, mutants):
    """Yields for each its result and what there is to say about it, as Worker.try_mutant does."""
    if lacking := guest.missing(BOOT):
        sys.exit(f"not found: {', '.join(lacking)}; scripts/setup emulated installs them")
    worker, programs = Worker(build, 0), build.folder / "guest_programs"
    shutil.rmtree(programs, ignore_errors=True)
    programs.mkdir()
    jobs = {}
    for program in sorted({program_of(m) for m in mutants}):
        tests = sorted({m.test[1] for m in mutants if program_of(m) == program})
        shutil.copy(build.build / program, programs)
        jobs[pathlib.Path(program).name] = ":".join(tests)
    for mutant in mutants:
        if error := worker.link_mutant(mutant, program_of(mutant)):
            yield mutant, "does not compile", f":\n{error[-2000:]}"
        else:
            shutil.copy(worker.folder / program_of(mutant), programs / mutant.id)
            jobs[mutant.id] = mutant.test[1]
    work = build.folder / "guest"
    shutil.rmtree(work, ignore_errors=True)
    (work / "iso").mkdir(parents=True)
    guest.make_initrd(work, BOOT, [f"{programs / name} --gtest_filter={filter_}" for name, filter_ in jobs.items()], ENVIRONMENT)
    guest.make_iso(work, BOOT)
    text = guest.run(work, LIMIT * len(jobs))
    for mutant in mutants:
        if mutant.id in jobs:
            unchanged, changed = (ended(text, name) for name in (pathlib.Path(program_of(mutant)).name, mutant.id))
            if unchanged.noticed:
                sys.exit(f"without any change: {unchanged.text}")
            yield mutant, *(("killed", f" by {changed.text}") if changed.noticed else ("SURVIVED", f" {mutant.killed_by}"))


def ended(text, name):
    """How the job ended, by what the guest wrote."""
    part = re.search(rf"^GUEST start: {re.escape(name)}\n(.*?)^GUEST status: {re.escape(name)} (\d+)$", text, re.M | re.S)
    if not part:
        sys.exit(f"the guest did not come to the end of {name}:\n{text[-2000:]}")
    status = int(part[2])
    return result_of(part[1], name, status == 0, {0: "", 1: "", 143: f", no end within {LIMIT} s of the guest's"}.get(status, f", status {status}"))
