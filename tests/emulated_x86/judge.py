# SPDX-License-Identifier: Apache-2.0
"""Checks a guest's serial output, which decides whether its tests count."""
import re

FLAGS = ["avx512f", "avx512bw", "avx512dq", "avx512vl"]


def is_over(text: str) -> bool:
    return re.search(r"^GUEST done$", text, re.MULTILINE) is not None or "Kernel panic" in text


def objections(text: str, jobs: list[str], expected: list[str]) -> list[str]:
    """All faults; empty if there are none. `expected`: test parameters, each of which a passed test must have."""
    found = []
    flags = re.search(r"^GUEST flags:(.*)$", text, re.MULTILINE)
    have = flags[1].split() if flags else []
    # Where the guest's kernel rejects the processor it runs without AVX, and every test of AVX-512 rows would test none.
    offers = " ".join(have) or "nothing"
    found += [f"the guest's kernel does not offer {flag}; of AVX it has: {offers}" for flag in FLAGS if flag not in have]
    for job in jobs:
        part = re.search(rf"^GUEST start: {re.escape(job)}\n(.*?)^GUEST status: {re.escape(job)} (\d+)$", text, re.MULTILINE | re.DOTALL)
        if part is None:
            found.append(f"{job} did not come to an end")
        elif part[2] != "0":
            found.append(f"{job} ended with status {part[2]}")
        elif re.search(r"^\[=+\] Running 0 tests", part[1], re.MULTILINE):
            found.append(f"{job} ran no test")
    passed = {name.rpartition("/")[2] for name in re.findall(r"^\[ +OK +\] (\S+)", text, re.MULTILINE)}
    found += [f"no test of {parameter} passed" for parameter in expected if parameter not in passed]
    if not re.search(r"^GUEST done$", text, re.MULTILINE):
        found.append("the guest did not come to its end")
    return found
