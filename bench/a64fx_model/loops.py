# SPDX-License-Identifier: Apache-2.0
"""Finds the inner loops of the SVE kernels: assembles kernels/**/arm_sve512*.S and reads the marked loops out of the object files.

A loop is marked by two labels, `<name>.loop.<unit><count>` before its first instruction and `<name>.loop_end` after its last.
The unit says what the cycles are divided by: `k` for steps along k of a tile, `e` for elements, `t` for a
tile (code outside any loop); the count is the number of units in a turn.
"""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
LABEL = re.compile(r"^[0-9a-f]+ <(?P<name>[^>]+)>:$")
LOOP = re.compile(r"^(?P<name>.+)\.loop\.(?P<unit>[ket])(?P<count>\d+)$")
INSTRUCTION = re.compile(r"^\s+[0-9a-f]+:\s+(?P<text>[a-z].*)$")


@dataclasses.dataclass(frozen=True)
class Loop:
    name: str
    unit: str            # "k", "e" or "t"
    count: int           # units a turn
    instructions: tuple  # without addresses, comments and branch targets

    def operations(self, *mnemonics):
        return sum(i.split()[0] in mnemonics for i in self.instructions)

    @property
    def bound(self):
        """Cycles a unit if there were only the multiply-adds, on two pipes."""
        return self.operations("fmla", "sdot") / 2 / self.count


class ToolMissing(Exception):
    pass


def tool(*names):
    """The first of `names` that is installed."""
    for name in names:
        if shutil.which(name):
            return name
    raise ToolMissing(f"none of {', '.join(names)} is installed: scripts/packages-arm64.txt")


def stored(path):
    """What an earlier run left in a file of JSON; None where there is none, or where that run ended while it wrote."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def disassemble(source, folder):
    """Text of `objdump -d` of one assembly file."""
    cross = "" if os.uname().machine == "aarch64" else "aarch64-linux-gnu-"
    compiler, objdump = tool(f"{cross}gcc"), tool(f"{cross}objdump")
    out = pathlib.Path(folder) / (source.stem + ".o")
    subprocess.run([compiler, f"-I{ROOT}", "-c", source, "-o", out], check=True)
    return subprocess.run([objdump, "-d", "--no-show-raw-insn", out], check=True, text=True, stdout=subprocess.PIPE).stdout


def clean(text):
    """An instruction in a form that every assembler accepts: no comment, and branches to the loop itself, which the models ignore."""
    text = re.sub(r"\s*(//|;).*$", "", text).strip()
    text = re.sub(r"\s+", " ", text)
    return re.sub(r"^(b\.\w+|bl?|cbn?z \w+,|tbn?z \w+, #\d+,) .*$", r"\1 .", text)


def parse(disassembly):
    """Loops of one disassembly, in order."""
    loops, head, body = [], None, []
    for line in disassembly.splitlines():
        if label := LABEL.match(line):
            name = label["name"]
            if mark := LOOP.match(name):
                if head:
                    raise ValueError(f"{head['name']}: a second loop begins before its end")
                head, body = mark, []
            elif head and name == head["name"] + ".loop_end":
                loops.append(Loop(head["name"], head["unit"], int(head["count"]), tuple(body)))
                head = None
        elif head and (instruction := INSTRUCTION.match(line)):
            body.append(clean(instruction["text"]))
    if head:
        raise ValueError(f"{head['name']}: no label {head['name']}.loop_end")
    return loops


def find():
    """All loops of kernels/, by name; functions that share a loop count once, without the end of their names."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for source in sorted(ROOT.glob("kernels/**/arm_sve512*.S")):
            for loop in parse(disassemble(source, folder)):
                name = re.sub(r"(_(init|init_max|accumulate))?$", "", loop.name, count=1)
                name = name.replace("_sve512", "", 1)
                found.setdefault(name, dataclasses.replace(loop, name=name))
    return found
