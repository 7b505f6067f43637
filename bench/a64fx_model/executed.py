# SPDX-License-Identifier: Apache-2.0
"""What a call of the library executes: bench/a64fx_model/call.cpp under qemu-aarch64-static -cpu a64fx, whose execution log names each block of
instructions as it begins. The blocks between the call's two marks are counted, and the steps from block to block.

The log goes through a pipe and is never stored: a call of 1024 queries and keys writes 3 million lines. Results are stored between runs
under the program's bytes and the arguments.
"""

import bisect
import collections
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import subprocess
import tempfile

from loops import ROOT, ToolMissing, clean, stored, tool

PROGRAM = ROOT / "build-aarch64" / "bench" / "a64fx_call"
STORE = ROOT / ".cache" / "a64fx_executed"
EMULATOR = ("qemu-aarch64-static", "-cpu", "a64fx")
MARKS = ("a64fx_call_begins", "a64fx_call_ends")
TURN = re.compile(r"^\s*([0-9a-f]+):\s+([a-z].*)$")


class CallFailed(Exception):
    pass


@dataclasses.dataclass
class Counts:
    """Counts of one call, or a weighted sum of those of several."""
    blocks: dict  # address -> how often it began
    steps: dict   # (address, address of the next block) -> how often
    code: dict    # address -> instructions of the block, as text

    def instructions(self):
        return sum(n * len(self.code[at]) for at, n in self.blocks.items())


def symbols(program):
    """Addresses in ascending order and the function that begins at each."""
    nm = "nm" if os.uname().machine == "aarch64" else "aarch64-linux-gnu-nm"
    out = subprocess.run([tool(nm), "--demangle", "--defined-only", program], check=True, text=True, stdout=subprocess.PIPE).stdout
    found = sorted((int(at, 16), name) for at, kind, name in (line.split(" ", 2) for line in out.splitlines()) if kind in "tTwW")
    return [at for at, _ in found], [name for _, name in found]


def short(name):
    """A function's name without its arguments, namespaces and template arguments."""
    name = re.sub(r"\(anonymous namespace\)::|\[clone [^]]*\]", "", name)
    while (plain := re.sub(r"<[^<>]*>|\([^()]*\)", "", name)) != name:
        name = plain
    return name.replace(" const", "").strip().split(" ")[-1].split("::", 1)[-1].removeprefix("kernels::").replace("_sve512", "")


class Names:
    def __init__(self, program):
        self.at, self.names = symbols(program)
        self.end = self.at[-1] + 4096

    def __call__(self, address):
        i = bisect.bisect(self.at, address) - 1
        return short(self.names[i]) if i >= 0 and address < self.end else "library"

    def address(self, name):
        return self.at[self.names.index(name)]


def read(stream, begins, ends):
    """Blocks and steps of the log between the two addresses, and the blocks' encoded instructions."""
    words, steps, before, block, inside = {}, collections.Counter(), None, None, False
    for line in stream:
        if line.startswith(b"Trace"):
            at = int(line.split(b"/", 2)[1], 16)
            if inside:
                if at == ends:
                    break
                steps[before, at] += 1
            elif at == begins:
                inside = True
            before = at
            block = None
        elif line.startswith(b"0x"):  # of a block that is translated: address and bytes of each instruction
            at, code = line.split(b":", 1)
            at = int(at, 16)
            if block is None:
                block = at
                words[block] = []
            words[block].append(bytes.fromhex(code.split()[0].decode()))
        elif line.startswith(b"IN:"):
            block = None
    for _ in stream:  # The program can end only when all of its log has been read.
        pass
    blocks = collections.Counter()
    for (_, at), n in steps.items():
        blocks[at] += n
    return blocks, steps, {at: words[at] for at in blocks}


def disassemble(words):
    """{address of a block: its instructions as text} from the encoded ones."""
    objdump = "objdump" if os.uname().machine == "aarch64" else "aarch64-linux-gnu-objdump"
    with tempfile.NamedTemporaryFile() as binary:
        for block in words.values():
            binary.write(b"".join(block))
        binary.flush()
        out = subprocess.run([tool(objdump), "-D", "-b", "binary", "-m", "aarch64", "--no-show-raw-insn", binary.name], check=True, text=True,
                             stdout=subprocess.PIPE).stdout
    text = [clean(line[2]) for line in map(TURN.match, out.splitlines()) if line]
    code, at = {}, 0
    for address, block in words.items():
        code[address] = text[at:at + len(block)]
        at += len(block)
    if at != len(text):
        raise ValueError("the disassembly has another number of instructions than the log")
    return code


def run(arguments, program, begins, ends):
    reading, writing = os.pipe()  # Unlike a named pipe it also ends if the emulator never opens its log.
    with open(reading, "rb", buffering=1 << 20) as stream:
        try:
            process = subprocess.Popen([tool(EMULATOR[0]), *EMULATOR[1:], "-d", "exec,nochain,in_asm", "-D", f"/dev/fd/{writing}", program, *arguments],
                                       text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=[writing])
        finally:
            os.close(writing)
        blocks, steps, words = read(stream, begins, ends)
    _, errors = process.communicate()
    if process.returncode:
        raise CallFailed(f"a64fx_call {' '.join(arguments)}: {errors.strip() or process.returncode}")
    return Counts(blocks, steps, disassemble(words))


def count(arguments, program=PROGRAM, store=STORE):
    """Counts of one call."""
    if not program.exists():
        raise ToolMissing(f"{program.relative_to(ROOT)} is not built: scripts/bench a64fx")
    arguments = [str(a) for a in arguments]
    key = hashlib.sha256(program.read_bytes() + repr((EMULATOR, arguments)).encode()).hexdigest()
    kept = pathlib.Path(store) / f"{key}.json"
    if (found := stored(kept)) is None:
        names = Names(program)
        c = run(arguments, program, *map(names.address, MARKS))
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps([[[a, b, n] for (a, b), n in c.steps.items()], list(c.code.items())]))
        found = stored(kept)
    steps, code = found
    blocks = collections.Counter()
    for _, at, n in steps:
        blocks[at] += n
    return Counts(blocks, {(a, b): n for a, b, n in steps}, dict(code))


def combine(parts):
    """The sum of weight * counts over `parts`; weights may be negative. A step whose sum is not above 0 is left out."""
    steps, code = collections.Counter(), {}
    for weight, part in parts:
        code |= part.code
        for step, n in part.steps.items():
            steps[step] += weight * n
    steps = {step: n for step, n in steps.items() if n > 0}
    blocks = collections.Counter()
    for (_, at), n in steps.items():
        blocks[at] += n
    return Counts(blocks, steps, code)
