# SPDX-License-Identifier: Apache-2.0
"""A model of A64FX's core with two things that llvm-mca's lacks: the decoder's choice of pipe and the reservation stations.

From the Microarchitecture Manual 1.8.1: 4 instructions are decoded and 4 committed a cycle, in order, with up to 128 in flight. A floating-point
instruction of decode slots 0 and 2 goes to the station of pipe FLA, of slots 1 and 3 to that of FLB, 20 entries each, and stays there;
some instructions exist in FLA only. Loads have two stations of 10. A station starts its oldest instruction that has its operands.
There are 96 rename registers. Stores take both load pipes and FLA for a cycle. Not modelled: caches, mispredicted branches
(a loop's branch takes a slot), integer pipes (one cycle, as many as there are).
"""

import collections
import re

WIDTH, ORDER, RENAMES = 4, 128, 96
STATIONS = {"a": 20, "b": 20, "load0": 10, "load1": 10}
NO_TARGET = re.compile(r"(st.*|b|bl|br|blr|b\..*|cbn?z|tbn?z|ret)$")
REGISTER = re.compile(r"\b([zpxw]\d+|sp)\b")

# mnemonic: latency, pipes ("ab": by the slot, "a": FLA only)
FLOATING = {
    **dict.fromkeys(["fmla", "fmls", "fnmla", "fnmls", "fmad", "fmsb", "fmul", "fadd", "fsub", "sdot", "udot", "fcvt", "fcvtzs", "fcvtzu", "scvtf", "ucvtf", "frintn", "frintp", "fscale"],
                    (9, "ab")),
    **dict.fromkeys(["fmax", "fmin", "fmaxnm", "fabs", "fneg", "fexpa", "sel", "and", "bic", "orr", "eor", "not", "lsl", "lsr", "asr", "add", "sub",
                     "subr", "smax", "smin", "umax", "umin", "clz"], (4, "ab")),
    **dict.fromkeys(["dup", "mov", "fmov", "movprfx"], (4, "ab")),
    **dict.fromkeys(["zip1", "zip2", "uzp1", "uzp2", "trn1", "trn2", "ext", "tbl", "uunpklo", "uunpkhi", "sunpklo", "sunpkhi"], (6, "a")),
    **dict.fromkeys(["fcmgt", "fcmge", "fcmeq", "fcmuo", "facgt", "facge", "cmpgt", "cmpge", "cmpeq", "cmpne", "cmphs", "cmphi"], (4, "a")),
    **dict.fromkeys(["index", "fmaxnmv", "fmaxv", "umaxv", "uaddv", "faddv"], (40, "a")),  # several operations; kept out of loops that count
}
IMMEDIATE_IS_A = {"fadd", "fsub", "fmul", "fmax", "fmin", "fmaxnm"}  # with an immediate: FLA only
LOAD_LATENCY, SCALAR_LATENCY = 11, 5


class Instruction:
    def __init__(self, text):
        self.text = text
        mnemonic, _, operands = text.partition(" ")
        registers = [r.replace("w", "x") for r in REGISTER.findall(operands)]
        vector = bool(re.search(r"\bz\d", operands))
        self.kind, self.latency, self.pipes = "integer", 1, ""
        if mnemonic.startswith("ld1") or vector and mnemonic == "ldr":
            self.kind, self.latency = "load", LOAD_LATENCY
        elif mnemonic.startswith("ld"):
            self.kind, self.latency = "load", SCALAR_LATENCY
        elif mnemonic.startswith("prfm"):
            self.kind, self.latency = "load", 1
        elif mnemonic.startswith("st1") or vector and mnemonic == "str":
            self.kind, self.latency, self.pipes = "store", 1, "a"
        elif mnemonic.startswith("st"):
            self.kind = "load"  # takes a load pipe
        elif vector and mnemonic in FLOATING:
            self.kind = "floating"
            self.latency, self.pipes = FLOATING[mnemonic]
            if mnemonic in IMMEDIATE_IS_A and "#" in operands:
                self.pipes = "a"
        elif vector:
            raise KeyError(mnemonic)
        writes = self.kind not in ("store",) and mnemonic not in ("prfm", "cmp", "tst") and not NO_TARGET.match(mnemonic)
        self.target = registers[0] if writes and registers else None
        # Without merging (or an accumulator) the destination is not a source.
        merges = "/m" in operands or mnemonic in ("sdot", "udot", "fmla", "fmls")
        self.sources = registers if not self.target or merges else registers[1:]
        self.renames = self.target is not None and self.target.startswith("z")


def turns(instructions, count):
    """The cycle in which each turn's last instruction is committed."""
    program = [Instruction(text) for text in instructions]
    stations = {name: [] for name in STATIONS}
    ready = {}                      # register -> cycle from which it can be read, None while unknown
    order = collections.deque()     # [instruction, done cycle or None, is the turn's last]
    committed, cycle, next_at, renamed, loads_sent = [], 0, 0, 0, 0
    total = count * len(program)
    while len(committed) < count:
        # Commit.
        for _ in range(WIDTH):
            if not order or order[0]["done"] is None or order[0]["done"] > cycle:
                break
            entry = order.popleft()
            renamed -= entry["instruction"].renames
            if entry["last"]:
                committed.append(cycle)
        # Start the oldest instruction of each station that has its operands.
        started_a = False
        load_pipes = {"load0", "load1"}
        for name in ("a", "b", "load0", "load1"):
            if name == "a" and started_a or name.startswith("load") and name not in load_pipes:
                continue
            for i, entry in enumerate(stations[name]):
                if any(source["done"] is None or source["done"] > cycle for source in entry["sources"]):
                    continue
                if entry["instruction"].kind == "store":
                    load_pipes.clear()
                entry["done"] = cycle + entry["instruction"].latency
                del stations[name][i]
                break
        # Decode.
        for slot in range(WIDTH):
            if next_at == total or len(order) == ORDER:
                break
            instruction = program[next_at % len(program)]
            if instruction.renames and renamed == RENAMES:
                break
            if instruction.kind == "load":
                station = f"load{loads_sent % 2}"
            elif instruction.kind == "integer":
                station = None
            else:
                station = "a" if instruction.pipes == "a" or slot % 2 == 0 else "b"
            if station and len(stations[station]) == STATIONS[station]:
                break
            sources = [ready[r] for r in instruction.sources if r in ready]
            entry = {"instruction": instruction, "done": None, "sources": sources, "last": (next_at + 1) % len(program) == 0}
            if station:
                stations[station].append(entry)
                loads_sent += instruction.kind == "load"
            else:
                entry["done"] = cycle + 1
            if instruction.target:
                ready[instruction.target] = entry
            renamed += instruction.renames
            order.append(entry)
            next_at += 1
        cycle += 1
    return committed


def cycles(instructions, count=120):
    """Cycles a turn once the pipeline is full; None if an instruction is unknown."""
    try:
        at = turns(instructions, count)
    except KeyError:
        return None
    half = count // 2
    return (at[-1] - at[half - 1]) / (count - half)
