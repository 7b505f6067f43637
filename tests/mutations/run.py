#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tries one-line changes of the library and says for each which test noticed:

    tests/mutations/run.py                   all of tests/mutations/*.toml, in a copy of the sources under --folder
    tests/mutations/run.py 'pool_.*' convert-drops-lse
    tests/mutations/run.py --sanitizer thread            those of memory orders, which ThreadSanitizer alone sees
    tests/mutations/run.py --emulated                    those of AVX-512's kernels, under bochs (docs/emulation.md)

The tests that the mutants name are built once and must pass. For each mutant the objects made from the changed file
are compiled anew, and linked with all others as they are into the program of its test and into those that this one
starts. A test that fails, or takes much longer than before, has killed the mutant. Ends with the survivors, and
status 1 if there are any.
"""

import argparse
import concurrent.futures
import os
import pathlib
import queue
import re
import sys
import time

sys.dont_write_bytecode = True
import mutation_guest  # noqa: E402
from mutants import ROOT, faults, load  # noqa: E402
from mutation_build import Build, Worker  # noqa: E402


def pattern(text):
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a regular expression: {error}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*", type=pattern, help="regular expressions; without one, all")
    parser.add_argument("--folder", type=pathlib.Path, help="for the copy and its build; .cache/mutations if not given")
    parser.add_argument("--sanitizer", choices=["thread"], default="", help="only the mutants that need a build with it")
    parser.add_argument("--emulated", action="store_true", help="only the mutants of AVX-512's kernels, in one guest of bochs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at a time")
    options = parser.parse_args()
    begin = time.monotonic()
    mutants = load()
    if wrong := list(faults(mutants)):
        sys.exit("\n".join(wrong))
    folder = options.folder or ROOT / ".cache" / "-".join(filter(None, ("mutations", options.sanitizer)))
    chosen = [m for m in mutants if m.killed_by and m.sanitizer == options.sanitizer
              and (not options.emulated or (m.cpu_flag and not m.cpu))  # the guest has kernels_test and dtype_test alone
              and (not options.ids or any(i.fullmatch(m.id) for i in options.ids))]
    if not chosen:
        sys.exit(f"no mutant is called {' or '.join(i.pattern for i in options.ids)}")
    print(f"building the sources as they are in {folder}", flush=True)
    programs = {mutation_guest.program_of(m) if options.emulated else m.test[0] for m in chosen}
    build = Build(folder.resolve(), sorted(programs), options.jobs, options.sanitizer)
    print(f"built in {time.monotonic() - begin:.0f} s; running the tests on them", flush=True)
    results = mutation_guest.try_mutants(build, chosen) if options.emulated else natively(build, chosen, options.jobs)
    by_result = {"killed": [], "SURVIVED": [], "does not compile": [], "test is skipped on this machine": []}
    for number, (mutant, kind, text) in enumerate(results, 1):
        by_result[kind].append(mutant.id)
        print(f"{number}/{len(chosen)} {mutant.id}: {kind}{text}", flush=True)
    minutes, seconds = divmod(round(time.monotonic() - begin), 60)
    counts = ", ".join(f"{len(ids)} {kind}" for kind, ids in by_result.items() if ids)
    print(f"{counts}; {sum(bool(m.equivalent) for m in mutants)} in the lists are equivalent, "
          f"{sum(bool(m.unseen) for m in mutants)} cannot be seen; {minutes} min {seconds} s")
    for kind, ids in by_result.items():
        if ids and kind != "killed":
            print(f"{kind}: {', '.join(sorted(ids))}")
    return 1 if by_result["SURVIVED"] or by_result["does not compile"] else 0


def natively(build, mutants, jobs):
    """Yields for each mutant its result and what there is to say about it."""
    flags = ["", *pathlib.Path("/proc/cpuinfo").read_text().split()]
    lacking = [m for m in mutants if m.cpu_flag not in flags]
    for mutant in lacking:
        yield mutant, "test is skipped on this machine", f": it lacks {mutant.cpu_flag}"
    mutants = [m for m in mutants if m not in lacking]
    workers = queue.SimpleQueue()
    for number in range(jobs):
        workers.put(Worker(build, number))

    def with_worker(function):
        worker = workers.get()
        try:
            return function(worker)
        finally:
            workers.put(worker)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        tests = sorted({m.test for m in mutants})
        unchanged = dict(zip(tests, pool.map(lambda test: with_worker(lambda w: w.run_unchanged(*test)), tests)))
        if failures := [f"{test[0]} {test[1]}: {result.text}" for test, result in unchanged.items() if result.noticed]:
            sys.exit("these fail without any change:\n" + "\n".join(failures))
        print(f"{len(tests)} tests pass", flush=True)
        tried = {pool.submit(with_worker, lambda w, m=m: w.try_mutant(m, unchanged[m.test])): m for m in mutants}
        for future in concurrent.futures.as_completed(tried):
            yield tried[future], *future.result()


if __name__ == "__main__":
    sys.exit(main())
