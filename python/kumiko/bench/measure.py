# SPDX-License-Identifier: Apache-2.0
"""Times the libraries' fastest right ways in turns, by the wall clock."""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from .cases import Case, Data

PROBE = 0.02  # Seconds of calls to compare the ways of one library.
REST = 5e-3  # Seconds of a look whether threads still spin: some libraries' do for up to 0.1 s after a call.


def rest() -> None:
    """Returns once this process's threads sleep, as they must while another library is timed."""
    for _ in range(100):
        before = time.process_time()
        time.sleep(REST)
        if time.process_time() - before < 0.1 * REST:
            return


class Runner:
    """One library on one case: its fastest way that gives the right answer."""

    def __init__(self, library: Any, case: Case, data: Data):
        self.name, self.sets, self.at, self.notes = library.name, len(data.sets), 0, []
        self.call: Callable[[int], Any] | None = None
        fastest = 0.0
        try:
            for way, make in library.ways(case, data):
                self._try(way, make, data, fastest)
                fastest = self.probed if self.call else 0.0
        except NotImplementedError as error:
            self.notes.append(f"{self.name}: {error}")

    def _try(self, way, make, data, fastest):
        try:
            call, answer = make()
            call(0)
            if wrong := data.wrong(answer()):
                raise ValueError(wrong)
        except Exception as error:  # Whatever a library raises, it cannot compute this case in this way.
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self.notes.append(f"{self.name}, {way}: {lines[0][:200]}")
            return
        seconds = min(self._time(call, PROBE) for _ in range(3))
        if self.call is None or seconds < fastest:
            self.call, self.way, self.probed = call, way, seconds
        rest()

    def _time(self, call, window):
        """Mean seconds of a call over at least `window` seconds of calls."""
        calls, begin = 0, time.perf_counter()
        while True:
            self.at = (self.at + 1) % self.sets
            call(self.at)
            calls += 1
            now = time.perf_counter()
            if now - begin >= window:
                return (now - begin) / calls

    def seconds(self, window: float) -> float:
        assert self.call is not None
        found = self._time(self.call, window)
        rest()
        return found


def measure(case: Case, libraries: list[Any], rounds: int, window: float) -> dict[str, Any]:
    """A result as JSON has it. The first library is Kumiko; each round times every one, beginning with another each time."""
    data = Data(case)
    runners = [Runner(library, case, data) for library in libraries]
    notes = [note for runner in runners for note in runner.notes]
    found: dict[str, list[float]] = {runner.name: [] for runner in runners if runner.call}
    able = [runner for runner in runners if runner.call]
    for i in range(rounds):
        first = i % len(able) if able else 0
        for runner in able[first:] + able[:first]:
            found[runner.name].append(runner.seconds(window))
    ours = found.get(libraries[0].name)
    results = {}
    for runner in able:
        results[runner.name] = {"way": runner.way, "seconds": statistics.median(found[runner.name]), "rounds": found[runner.name]}
        if ours and runner.name != libraries[0].name:
            results[runner.name]["ratio"] = spread([theirs / own for theirs, own in zip(found[runner.name], ours, strict=True)])
    return {"case": case.name, "kind": case.kind, "shape": vars(case), "kumiko": libraries[0].name, "results": results, "notes": notes}


def spread(ratios: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return {"median": middle, "low": low, "high": high}


def hold(threads: int | None) -> int:
    """Keeps this process to so many of its CPUs, the first ones, and returns their number: all libraries' threads inherit it."""
    cpus = sorted(os.sched_getaffinity(0))
    if threads is not None and not 1 <= threads <= len(cpus):
        raise ValueError(f"--threads is {threads}, expected 1 to {len(cpus)}, the CPUs this process may use")
    cpus = cpus[: threads or len(cpus)]
    os.sched_setaffinity(0, cpus)
    return len(cpus)
