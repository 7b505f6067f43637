#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What ran of each instruction set, and where: the closing lines of scripts/test.

    isa_summary.py [--report ISA_REPORT] [--only WHAT] ROOT LOG...

A LOG is what tests/cases/cases.py printed, for tests run natively (HOW=LOG: run in the way HOW says), or the file an emulated test leaves in
<build>/emulated: a first line "# HOW", then the output of GoogleTest programs. Tests are told by their parameter, a row of a kernel
table (Rows/Gemm.X/gemm_f32_4x8_avx2) or an ISA (Isa/Sweep.X/avx2, Isa/Dtype.X/bf16_avx2), and only those that passed count. Rows under a prefix of REPLACED
are not quite the rows themselves, and so a line of their own. Exits 1 when an ISA that runs
here, or one that was emulated, misses a row of its tables or a test that others have. ISA_REPORT is the program that knows what this machine
has. --only WHAT: the logs hold part of the tests, so absence is not an error.
"""
import argparse
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path


# What the programs test whose names begin so; natively each of their cases has the beginning as a prefix.
REPLACED = {"vdpbf16ps_replaced": "AVX512_BF16 replaced by AVX-512 F and BW"}
# Tests under these prefixes are of attention in another product: of instruction sets that have rows for it.
PRODUCTS = {"Half": "f16"}


def isas(root: Path) -> list[str]:
    """Every instruction set the library knows, in order of preference."""
    declared = re.search(r"kIsas\[\] = \{([^}]*)\}", (root / "kernels/cpu.h").read_text())
    return re.findall(r"Isa::(\w+)", declared[1])


def optional(root: Path) -> set[str]:
    """Rows that need more than their ISA (column `extension`), which a machine with the ISA may lack."""
    found = set()
    for path in root.glob("kernels/*/kernels.inc"):
        text = path.read_text()
        head = re.search(r"^// KUMIKO_\w+\(([^)]*)\)", text, re.MULTILINE)
        if not head or "extension" not in head[1].split(", "):
            continue
        column = head[1].split(", ").index("extension")
        found |= {cells[0] for row in re.findall(r"^KUMIKO_\w+\(([^)]*)\)", text, re.MULTILINE)
                  if (cells := row.split(", "))[column] != "none"}
    return found


def tables(root: Path) -> dict[str, list[tuple[str, str]]]:
    """The rows of every kernel table as (name, ISA), whatever processor they are for."""
    found = {}
    for path in sorted(root.glob("kernels/*/kernels.inc")):
        text = path.read_text()
        head = re.search(r"^// KUMIKO_\w+\(([^)]*)\)", text, re.MULTILINE)
        columns = head[1].split(", ") if head else []
        for row in re.findall(r"^KUMIKO_\w+\(([^)]*)\)", text, re.MULTILINE):
            cells = row.split(", ")
            if len(cells) < 2:  # pipelines are for every ISA
                continue
            # Rows for another product have tests of their own.
            product = cells[columns.index("product")] if "product" in columns[:len(cells)] else "f32"
            table = path.parent.name + ("" if product == "f32" else f" in {product}")
            found.setdefault(table, []).append((cells[0], cells[1]))
    return found


def results(text: str) -> dict[str, bool]:
    """Passed or not, by the test's full name, in the output of GoogleTest programs or the lines of cases.py."""
    found, prefix = {}, ""
    for program, verdict, name in re.findall(r"^(?:GUEST start: (\S+)|\[ +(OK|FAILED) +\] ([^\s,]+))", text, re.MULTILINE):
        if program:
            prefix = next((f"{beginning}/" for beginning in REPLACED if program.startswith(beginning)), "")
        else:
            found[prefix + name] = verdict == "OK"
    return found


def read(argument: str) -> tuple[str, dict[str, bool]]:
    """How the tests of a LOG argument were run, and their results."""
    how, _, path = argument.rpartition("=")
    text = Path(path).read_text(errors="replace")
    if not how and text.startswith("# "):
        how, _, text = text[2:].partition("\n")
    return how or "natively", results(text)


class Coverage:
    """The tests with an ISA or a kernel row as parameter, by (ISA, how). A test is its name and what precedes the ISA in the parameter."""

    def __init__(self, root: Path, logs: list[tuple[str, dict[str, bool]]]):
        self.tables = tables(root)
        self.isas = isas(root)
        self.optional = optional(root)
        self.isa_of = {row: (isa, table) for table, rows in self.tables.items() for row, isa in rows}
        self.passed = defaultdict(lambda: defaultdict(set))  # (isa, how) -> row or ISA -> its tests
        self.failed = defaultdict(list)
        self.tests_of = defaultdict(set)  # table, or "attention" -> every test
        # One after another: a later log (another build of the same tests) must not hide an earlier one's failure.
        for how, outcomes in logs:
            for name, passed in outcomes.items():
                test, _, parameter = name.rpartition("/")
                owner = self.owner(parameter) if test else None
                # A row of a table that only some instruction sets have (panels.inc, rows.inc) is no attention test.
                if test.startswith("Rows/") and parameter not in self.isa_of:
                    owner = None
                if owner is None:
                    continue
                isa, table, subject = owner
                key = (test, parameter.removesuffix(subject))
                product = PRODUCTS.get(test.partition("/")[0])
                if product and table == "attention":
                    table = f"attention in {product}"
                what = REPLACED.get(test.partition("/")[0])
                way = f"{how}, {what}" if what else how
                self.tests_of[f"{table}, {what}" if what else table].add(key)
                if passed:
                    self.passed[isa, way][subject].add(key)
                else:
                    self.failed[isa, way].append(name)

    def owner(self, parameter: str) -> tuple[str, str, str] | None:
        """ISA, table and the row or ISA that a parameter is about."""
        if parameter in self.isa_of:
            return *self.isa_of[parameter], parameter
        fits = [isa for isa in self.isas if parameter == isa or parameter.endswith("_" + isa)]
        if not fits:
            return None
        isa = max(fits, key=len)
        return isa, "attention", isa

    def ways(self, isa: str) -> list[str]:
        return [how for i, how in dict.fromkeys([*self.passed, *self.failed]) if i == isa]

    def kernels(self, isa: str) -> list[tuple[str, str]]:
        return [(row, table) for table, rows in self.tables.items() for row, of in rows if of == isa]

    def counts(self, isa: str, how: str) -> str:
        passed = self.passed[isa, how]
        rows = [row for row, _ in self.kernels(isa)]
        return (f"{sum(row in passed for row in rows)} of {len(rows)} kernels in {sum(len(passed[row]) for row in rows if row in passed)}"
                f" tests, attention in {len(passed[isa]) if isa in passed else 0} tests")

    @staticmethod
    def replaced(how: str) -> str:
        """What was put for what in this way of running, if anything."""
        return next((what for what in REPLACED.values() if how.endswith(what)), "")

    def absent(self, isa: str, how: str) -> list[str]:
        """What others were tested for and this ISA was not. An emulated processor is too slow for some attention tests."""
        passed = self.passed[isa, how]
        found = []
        what = self.replaced(how)
        for row, table in self.kernels(isa):
            if row in self.optional and not passed.get(row):
                continue
            if what:
                table = f"{table}, {what}"
            found += [f"{test}/{rest}{row}" for test, rest in sorted(self.tests_of[table] - passed.get(row, set()))]
            if not self.tests_of[table]:
                found.append(f"any test of {row}")
        if how == "natively":
            products = {table.partition(" in ")[2] for _, table in self.kernels(isa)}
            wanted = set().union(self.tests_of["attention"],
                                 *(self.tests_of[f"attention in {p}"] for p in PRODUCTS.values() if p in products))
            found += [f"{test}/{rest}{isa}" for test, rest in sorted(wanted - passed.get(isa, set()))]
        elif not passed.get(isa):
            found.append(f"any attention test of {isa}")
        return found


def summary(root: Path, report: str, logs: list[tuple[str, dict[str, bool]]], only: str = "") -> tuple[list[str], bool]:
    """The lines, and whether all is well. `report` is what isa_report printed."""
    said = dict(re.findall(r"^(\S+) +(.*)$", report, re.MULTILINE))
    coverage = Coverage(root, logs)
    lines, good = [], True
    for isa in coverage.isas:
        ways = coverage.ways(isa)
        here = said.get(isa, f"not run: {only or 'this build does not know it'}")
        if here.startswith("ran") and "natively" not in ways:
            if only:
                lines.append(f"{isa:<11} not run natively: {only}")
            else:
                lines.append(f"{isa:<11} FAILED: this machine has it, and no test of it ran")
                good = False
        elif here.startswith("FAILED"):
            lines.append(f"{isa:<11} {here}")
            good = False
        elif not here.startswith("ran") and all(coverage.replaced(how) for how in ways):
            lines.append(f"{isa:<11} {here}")
        for how in ways:
            absent = [] if only and how == "natively" else coverage.absent(isa, how)
            failed = coverage.failed[isa, how]
            lines.append(f"{isa:<11} {'FAILED' if failed or absent else 'ran'} {how}: {coverage.counts(isa, how)}")
            lines += [f"{'':<11} failed: {name}" for name in failed] + [f"{'':<11} not passed: {name}" for name in absent]
            good = good and not failed and not absent
    return lines, good


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--report", type=Path)
    parser.add_argument("root", type=Path)
    parser.add_argument("logs", nargs="*")
    args = parser.parse_args()
    report, refused = "", False
    if args.report:
        ran = subprocess.run([args.report], capture_output=True, text=True, check=False)
        report, refused = ran.stdout, ran.returncode != 0
    lines, good = summary(args.root, report, [read(log) for log in args.logs], args.only)
    print("\n".join(lines))
    if refused:
        print(f"{args.report} ended with status {ran.returncode}:\n{ran.stdout}{ran.stderr}")
    return 0 if good and not refused else 1


if __name__ == "__main__":
    sys.exit(main())
