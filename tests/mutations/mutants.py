# SPDX-License-Identifier: Apache-2.0
"""The lists of one-line changes: tests/mutations/*.toml, read and checked."""

import dataclasses
import pathlib
import re
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]
LISTS = pathlib.Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Mutant:
    id: str
    file: str  # from the root of the project
    find: str  # stands once in the file, and becomes:
    replace: str
    killed_by: str = ""  # [VARIABLE=VALUE ...] FOLDER.PROGRAM[:FILTER], a program of tests/FOLDER and a filter of GoogleTest; RANKS=n: under mpirun
    sanitizer: str = ""  # "thread": seen only in a build with it
    equivalent: str = ""  # why the change is none
    unseen: str = ""  # why no test on this machine can see the change
    cpu: str = ""  # see cpu_flag: given where neither the file nor the test has it in its name

    @property
    def test(self):
        """The program's path in a build, the filter and the environment."""
        *environment, test = self.killed_by.split(" ")
        program, _, filter_ = test.partition(":")
        return f"tests/{program.replace('.', '/', 1)}", filter_, tuple(environment)

    @property
    def cpu_flag(self):
        """What the processor must have for the test to run the changed code, as Linux calls it; nothing if every one does."""
        if self.cpu:
            return self.cpu
        text = self.file + self.killed_by
        return "avx512_bf16" if "avx512_bf16" in text else "avx512bw" if "avx512" in text else ""

    def source(self, root=ROOT):
        return (root / self.file).read_text()


def load():
    """All mutants, by list and place. Raises TypeError for a field that is not known or missing."""
    return [Mutant(**entry) for path in sorted(LISTS.glob("*.toml")) for entry in tomllib.loads(path.read_text())["mutant"]]


def is_made(program):
    """Whether the CMakeLists.txt of its folder speaks of a test program."""
    recipe = ROOT / program.parent / "CMakeLists.txt"
    return recipe.exists() and re.search(rf"\b{re.escape(program.name)}\b", recipe.read_text()) is not None


def faults(mutants):
    """What is wrong with the lists, a line each."""
    seen = set()
    for mutant in mutants:
        if mutant.id in seen:
            yield f"{mutant.id}: stands twice"
        seen.add(mutant.id)
        if sum(map(bool, (mutant.killed_by, mutant.equivalent, mutant.unseen))) != 1:
            yield f"{mutant.id}: needs one of killed_by, equivalent and unseen"
        if mutant.sanitizer not in ("", "thread"):
            yield f"{mutant.id}: sanitizer is {mutant.sanitizer}; expected thread, or none"
        if mutant.cpu not in ("", "avx512_vnni", "avx512_bf16"):
            yield f"{mutant.id}: cpu is {mutant.cpu}; expected avx512_vnni or avx512_bf16, or none"
        if mutant.find == mutant.replace:
            yield f"{mutant.id}: changes nothing"
        if mutant.killed_by and not is_made(pathlib.Path(mutant.test[0])):
            yield f"{mutant.id}: there is no test program {mutant.killed_by}; expected [VARIABLE=VALUE ...] FOLDER.PROGRAM[:FILTER]"
        count = mutant.source().count(mutant.find)
        if count != 1:
            yield f"{mutant.id}: '{mutant.find}' stands {count} times in {mutant.file}, expected once"
