# SPDX-License-Identifier: Apache-2.0
"""The test cases behind a run of ctest, where one test of ctest may be many cases of a GoogleTest program (test_cases() of tests/CMakeLists.txt):

    cases.py JUNIT FOLDER    JUNIT: what `ctest --output-junit` wrote; FOLDER: where the programs left GoogleTest's JSON, <build>/cases

A line for each, in GoogleTest's words: "[       OK ] NAME", "[  SKIPPED ] NAME" or "[  FAILED  ] NAME (why)". What ends without its JSON, or
fails though all its cases passed, is itself a failed one.
"""

import json
import re
import sys
import xml.etree.ElementTree
from pathlib import Path

OK, SKIPPED, FAILED = "       OK ", "  SKIPPED ", "  FAILED  "
SHARD = re.compile(r"(?P<prefix>.*[^a-z0-9_])?[a-z0-9_]+:\d+of\d+")


def tests(junit):
    """(name, result, why) of each test of ctest that was to run."""
    for test in xml.etree.ElementTree.parse(junit).getroot().iter("testcase"):
        name, status = test.get("name").split()[0], test.get("status")  # The name alone: GoogleTest's parameters may follow.
        if status == "disabled":
            continue
        if test.find("skipped") is not None and test.find("skipped").get("message", "").startswith("SKIP_"):
            yield name, SKIPPED, ""
        elif status == "run":
            yield name, OK, ""
        else:
            reason = test.find("failure") if test.find("failure") is not None else test.find("skipped")
            yield name, FAILED, (reason.get("message") if reason is not None else "") or "failed"


def program_cases(text, shard, prefix):
    """The same of each case that GoogleTest's JSON tells of."""
    for suite in json.loads(text)["testsuites"]:
        for case in suite["testsuite"]:
            name = f"{prefix}{suite['name']}.{case['name']}"
            if case.get("failures"):
                yield name, FAILED, f"in {shard}"
            elif case["result"] == "SKIPPED":
                yield name, SKIPPED, ""
            elif case["status"] == "RUN":
                yield name, OK, ""


def cases(junit, folder):
    for name, result, why in tests(junit):
        shard = SHARD.fullmatch(name)
        if not shard:
            yield name, result, why
            continue
        told = folder / f"{name}.json"
        if not told.is_file():
            yield name, FAILED, why or "it left no account of its cases"
            continue
        found = list(program_cases(told.read_text(errors="replace"), name, shard["prefix"] or ""))
        yield from found
        if result != OK and all(outcome != FAILED for _, outcome, _ in found):
            yield name, FAILED, why or "skipped as a whole"


if __name__ == "__main__":
    for what, outcome, reason in cases(sys.argv[1], Path(sys.argv[2])):
        print(f"[{outcome}] {what}{f' ({reason})' if reason else ''}")
