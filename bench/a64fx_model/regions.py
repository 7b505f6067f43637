# SPDX-License-Identifier: Apache-2.0
"""Loops among the blocks that a call executed (executed.py), from whose cycles calls.py makes those of the call.

A loop is found by following the most frequent steps from its most frequent block until they come back to it. Inner loops come first; an outer
loop's turn is what it executes itself, without the loops in it. The cycles of a call are the sum over its loops of turns times cycles of a turn
by the models. Instructions executed too rarely to be worth a model, at most 1 - COVERED of all, are taken to need a cycle each.
"""

import collections
import dataclasses

import executed
import slots
from loops import Loop

COVERED = 0.995   # at least this share of the executed instructions has a model
START = 40        # cycles a visit of a loop: first loads (11), last multiply-adds (9), its end mispredicted (about 20)
LONG = 8          # from this many turns a visit on, the end of a loop is taken to be mispredicted
LONGEST = 300     # blocks of a loop, at most


@dataclasses.dataclass
class Region:
    name: str
    instructions: tuple  # of a turn
    turns: float
    visits: float        # those that last LONG turns or more
    executed: float      # instructions

    def loop(self):
        return Loop(self.name, "t", 1, self.instructions)


def split(counts):
    """The same counts with blocks that end where another one begins: a block of the emulator may begin before a loop and end with its first turn."""
    begins = set(counts.code)
    code, steps, last = {}, collections.Counter(), {}
    for at, instructions in counts.code.items():
        if not counts.blocks.get(at):
            continue
        heads = [at + 4 * i for i in range(len(instructions)) if i == 0 or at + 4 * i in begins]
        for head, end in zip(heads, [*heads[1:], at + 4 * len(instructions)]):
            code[head] = instructions[(head - at) // 4:(end - at) // 4]
        for a, b in zip(heads, heads[1:]):
            steps[a, b] += counts.blocks[at]
        last[at] = heads[-1]
    for (a, b), n in counts.steps.items():
        steps[last.get(a, a), b] += n
    blocks = collections.Counter()
    for (_, b), n in steps.items():
        blocks[b] += n
    return executed.Counts(blocks, steps, code)


class Finder:
    def __init__(self, counts):
        self.blocks, self.steps, self.code = counts.blocks, counts.steps, counts.code
        self.after = collections.defaultdict(dict)
        for (a, b), n in self.steps.items():
            self.after[a][b] = n
        self.owner = {}  # block -> the blocks of its loop

    def leave(self, loop):
        """The block that most often follows a loop."""
        out = collections.Counter()
        for a in loop:
            for b, n in self.after[a].items():
                if b not in loop:
                    out[b] += n
        return max(out, key=out.get) if out else None

    def path_from(self, head):
        """Blocks from `head` until it comes again, without those of loops already found; None if it does not come again."""
        path, at, seen = [head], head, {head}
        for _ in range(LONGEST):
            following = self.after[at]
            at = max(following, key=following.get) if following else None
            while at in self.owner:
                if at in seen:
                    return None
                seen.add(at)
                at = self.leave(self.owner[at])
            if at == head:
                return path
            if at is None or at in seen or at not in self.code:
                return None
            seen.add(at)
            path.append(at)
        return None

    def run(self):
        """Yields the blocks of each loop and whether it is a loop without another one in it; a block outside any loop comes alone."""
        for head in sorted(self.code, key=lambda at: (-self.blocks[at], at)):
            if head in self.owner:
                continue
            path = self.path_from(head)
            mine = path or [head]
            group = frozenset(mine)
            inner = any(b not in group and b in self.owner for a in mine for b in self.after[a] if self.after[a][b] > self.blocks[a] / 2)
            for at in mine:
                self.owner[at] = group
            yield mine, path is not None and not inner


def find(counts, names):
    """Regions of a call, those that execute most first."""
    counts = split(counts)
    found = []
    finder = Finder(counts)
    for blocks, is_innermost in finder.run():
        instructions = tuple(i for at in blocks for i in counts.code[at])
        total = sum(counts.blocks[at] * len(counts.code[at]) for at in blocks)
        turns = total / len(instructions)
        group = set(blocks)
        visits = sum(n for at in blocks for a, n in entries(counts, at) if a not in group)
        is_long = is_innermost and visits and turns / visits >= LONG
        found.append(Region(f"{names(blocks[0])}+{blocks[0] & 0xfff:03x}", instructions, turns, visits if is_long else 0, total))
    return sorted(found, key=lambda r: -r.executed)


def entries(counts, at):
    if not hasattr(counts, "before"):
        counts.before = collections.defaultdict(list)
        for (a, b), n in counts.steps.items():
            counts.before[b].append((a, n))
    return counts.before[at]


def worth_a_model(regions, covered=COVERED):
    """The first regions, down to those that make up `covered` of the instructions."""
    total, done, chosen = sum(r.executed for r in regions), 0, []
    for region in regions:
        if done >= covered * total:
            break
        chosen.append(region)
        done += region.executed
    return chosen


def bound(instructions):
    """The least cycles that decoding, the floating-point pipes, pipe FLA and the load pipes allow; None for an unknown instruction."""
    try:
        program = [slots.Instruction(i) for i in instructions]
    except KeyError:
        return None
    stores = sum(i.kind == "store" for i in program)
    only_a = stores + sum(i.pipes == "a" and i.kind == "floating" for i in program)
    floating = stores + sum(i.kind == "floating" for i in program)
    return max(len(program) / slots.WIDTH, floating / 2, only_a, stores + sum(i.kind == "load" for i in program) / 2)
