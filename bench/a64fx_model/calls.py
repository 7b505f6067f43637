# SPDX-License-Identifier: Apache-2.0
"""The calls of the table: what is executed for each, what is made of it for the whole call, its useful work, its traffic and its target.

A large call is not executed: its counts are a weighted sum of the counts of small calls (parts of a Case). Heads are alike, so one is
executed. Its 4096 rows are split into tasks (TASK_ROWS, which the plan of the whole call prints). The blocks of code that a task executes grow
linearly with its keys, in steps of 512, and with its tiles, so calls of two lengths and two numbers of tiles are enough. The last task of a head
has fewer rows; it counts as a fraction of a task. Gradients have parts of their own (gradient_parts).
"""

import concurrent.futures
import dataclasses
import os

import cycles
import executed
import regions

PEAK = {"f32": 64, "half": 128}  # FLOP a cycle: 128 and 256 GFLOP/s a core at 2.0 GHz
BYTES = {"f32": 4, "half": 2}
TASK_ROWS = {"f32": {64: 768, 128: 768, 256: 192}, "half": {64: 1024, 128: 1024, 256: 1024}}
TILE_ROWS = {"f32": 48, "half": 64}
BLOCK = 256          # keys that are packed together (kBlockKeys)
GRADIENT_BLOCK, GRADIENT_PIECE = 576, 192  # positions (kGradientBlock, kGradientPiece)
LINE = 256           # bytes of a line of L1
L2_RATE = 64         # bytes a cycle from L2 to L1, the manual's rate for one core
MEMORY_RATE = 18     # bytes a cycle for one core: 36 GB/s at 2 GHz


@dataclasses.dataclass
class Case:
    name: str
    precision: str   # f32 or half
    parts: list      # (weight, arguments of a64fx_call)
    flop: float
    l2_bytes: float = 0      # between L2 and L1
    memory_bytes: float = 0
    target: float = 0        # share of peak
    executed: str = ""       # what is executed, in words


def call(what, precision, pipeline, q_heads, q_len, kv_len, dim, causal=False):
    kind = ("f16", "half") if precision == "half" else ("f32", "standard")
    return (what, *kind, pipeline, q_heads, 1, q_len, kv_len, dim, *(["causal"] if causal else []))


def tile_bytes(precision, rows, keys, dim, products):
    """Bytes between L2 and L1 for `rows` in tiles over `keys`: packed keys and values once a tile, its sums in f32 read and written once a block."""
    tiles = -(-rows // TILE_ROWS[precision])
    return tiles * (products * keys * dim * BYTES[precision] + keys / BLOCK * 2 * dim * TILE_ROWS[precision] * 4)


def dense(what, precision, dim, length):
    """Parts of a call in which all rows see all keys. Over 4096 keys a task executes 7 times what it does over 1024, less 6 times what it does
    over 512. Within a task 16 tiles execute 14 times what three do, less 13 times what two do. (One tile would not do: it does not pack its
    values in f16.)"""
    rows, tile, steps = TASK_ROWS[precision][dim], TILE_ROWS[precision], length // 512 - 1
    tiles = rows // tile
    return [(length / rows * by_keys * by_tiles, call(what, precision, "automatic", 1, n * tile, keys, dim))
            for by_keys, keys in ((steps, 1024), (1 - steps, 512)) for by_tiles, n in ((tiles - 2, 3), (3 - tiles, 2))]


def causal(precision, dim, length):
    """Parts of a causal call. A task's rows see the keys at their own positions, and all keys before the task: in the mean of all tasks half of
    length - rows. The difference of two calls is what 512 of these take."""
    rows = TASK_ROWS[precision][dim]
    tasks, steps = length / rows, (length - rows) / 2 / 512
    return [(tasks * steps, call("attention", precision, "automatic", 1, rows, rows + 512, dim, True)),
            (tasks * (1 - steps), call("attention", precision, "automatic", 1, rows, rows, dim, True))]


def attention(precision, dim, length, is_causal):
    pairs = length * (length + 1) / 2 if is_causal else length * length
    if length == 1024:
        parts, how = [(1, call("attention", precision, "automatic", 1, length, length, dim, is_causal))], "1 of 8 heads, whole"
    else:
        parts = causal(precision, dim, length) if is_causal else dense("attention", precision, dim, length)
        how = "a task of 1 of 8 heads over its own and 512 more keys" if is_causal else "two and three tiles of 1 of 8 heads over 512 and 1024 keys"
    target = 0
    if length == 4096 and not is_causal:
        target = {("f32", 128): 0.85, ("half", 128): 0.75, ("half", 256): 0.80}.get((precision, dim), 0)
    return Case(f"attention_{'causal' if is_causal else 'dense'}_d{dim}_{length}_{precision}", precision, parts, 4 * dim * pairs,
                tile_bytes(precision, length, pairs / length, dim, 2), 0, target, how)


def softmax_pv(precision, pipeline, rows, length, dim, target=0):
    """Extrapolated from the difference of 1024 keys. three_pass has up to 8192 keys in a super-block; what a super-block takes beyond its blocks
    is neglected."""
    steps = length // 1024 - 1
    parts = [(steps, call("softmax_pv", precision, pipeline, 1, rows, 2048, dim)),
             (1 - steps, call("softmax_pv", precision, pipeline, 1, rows, 1024, dim))]
    # In f16 a single tile's values are not packed: each panel of 13 dims reads a line of every key.
    in_place = -(-dim // 13) * length * LINE if precision == "half" and rows <= TILE_ROWS[precision] else 0
    return Case(f"softmax_pv_{pipeline}_m{rows}_d{dim}_{length}_{precision}", precision, parts, 2 * dim * rows * length,
                tile_bytes(precision, rows, length, dim, 1) + in_place + 2 * rows * length * 4,
                (length * dim * BYTES[precision] + rows * length * 4), target, "its rows over 1024 and 2048 keys")


def fused_gemm(precision, dim, length, target=0):
    return Case(f"fused_gemm_d{dim}_{length}_{precision}", precision, dense("fused_gemm", precision, dim, length), 4 * dim * length * length,
                tile_bytes(precision, length, length, dim, 2), 0, target, "two and three tiles over 512 and 1024 keys")


def decode(precision, dim, length):
    """4 query heads of a KV head, 1 query each."""
    steps = length // 1024 - 1
    parts = [(steps, call("attention", precision, "automatic", 4, 1, 2048, dim)),
             (1 - steps, call("attention", precision, "automatic", 4, 1, 1024, dim))]
    return Case(f"decode_gqa4_d{dim}_{length}_{precision}", precision, parts, 4 * 4 * dim * length, 0, 2 * length * dim * BYTES[precision], 0,
                "1 of 8 KV heads with its 4 query heads, over 1024 and 2048 keys")


def gradient_parts(dim, length):
    """Parts of a head whose length is `blocks` whole blocks of GRADIENT_BLOCK positions and a rest. Its cost is that of every pair of blocks and
    that of every block alone. Calls of one and of two blocks give the cost of a block and of a pair; a call of one block and the rest gives the
    cost of a pair of those. It also counts the rest itself, which must be counted once only: hence the negative weight of a call of the rest."""
    blocks, rest = divmod(length, GRADIENT_BLOCK)
    weights = {2 * GRADIENT_BLOCK: blocks * (blocks - 1) / 2, GRADIENT_BLOCK: blocks - blocks * blocks, GRADIENT_BLOCK + rest: blocks, rest: 1 - blocks}
    return [(weight, call("backward", "f32", "automatic", 1, n, n, dim)) for n, weight in weights.items()]


def gradients(dim, length, target):
    """Traffic of 192 queries and 48 keys: panels of both twice, sums of the keys' gradients read and written; the same of 48 queries and 192
    keys for dQ, with the transposed gradients of scores."""
    tile = TILE_ROWS["f32"]
    of_keys = 4 * GRADIENT_PIECE * dim + 2 * 2 * tile * dim
    of_queries = GRADIENT_PIECE * dim + 2 * tile * dim + 2 * GRADIENT_PIECE * tile
    l2_bytes = length * length / (GRADIENT_PIECE * tile) * (of_keys + of_queries) * BYTES["f32"]
    if length < 2 * GRADIENT_BLOCK:
        parts, how = [(1, call("backward", "f32", "automatic", 1, length, length, dim))], "1 of 8 heads, whole"
    else:
        parts, how = gradient_parts(dim, length), "1 of 8 heads: one block of 576 positions, two, one and the rest, the rest"
    return Case(f"backward_dense_d{dim}_{length}_f32", "f32", parts, 10 * dim * length * length, l2_bytes, 0, target, how)


def cases():
    found = [attention(precision, dim, length, is_causal) for length in (1024, 4096) for dim in (64, 128, 256) for is_causal in (False, True)
             for precision in PEAK]
    for pipeline, target in (("three_pass", 0.80), ("interleaved", 0.78), ("online", 0.72), ("two_pass", 0)):
        found += [softmax_pv("f32", pipeline, 48, 32768, 256), softmax_pv("half", pipeline, 64, 32768, 256, target)]
    found += [softmax_pv(precision, "three_pass", 12, 32768, 256) for precision in PEAK]
    found += [fused_gemm("f32", 128, 4096), fused_gemm("half", 128, 4096, 0.85)]
    found += [decode(precision, 128, 16384) for precision in PEAK]
    found += [gradients(128, length, 0.75) for length in (1024, 4096)]
    return found


@dataclasses.dataclass
class Estimate:
    case: Case
    regions: list         # those with a model
    turn: dict            # cycles a turn, by the region's name
    instructions: float
    covered: float        # share of the instructions in regions with a model
    cycles: float         # with operands in L1
    start: float          # of these, START at the visits
    rest: float           # of these, instructions without a model
    traffic: float        # cycles that the traffic of L2 and memory alone would take

    @property
    def total(self):
        return max(self.cycles, self.traffic)

    @property
    def fraction(self):
        return self.case.flop / PEAK[self.case.precision] / self.total

    @property
    def over_traffic(self):
        return self.cycles / self.traffic if self.traffic else 0


def estimate(case, found, by_model):
    """`by_model`: cycles by model of each region's text."""
    total = sum(r.executed for r in found)
    known, turn = [], {}
    for region in regions.worth_a_model(found):
        figures = [c for model, c in by_model[region.instructions].items() if model in cycles.JUDGED and c is not None]
        if figures:
            known.append(region)
            turn[region.name] = max(figures)
    start = regions.START * sum(r.visits for r in known)
    rest = total - sum(r.executed for r in known)
    work = sum(r.turns * turn[r.name] for r in known)
    traffic = max(case.l2_bytes / L2_RATE, case.memory_bytes / MEMORY_RATE)
    return Estimate(case, known, turn, total, 1 - rest / total, work + start + rest, start, rest, traffic)


def gather(chosen=None):
    """An estimate of every case."""
    wanted = [c for c in cases() if chosen is None or chosen(c.name)]
    names = executed.Names(executed.PROGRAM)
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        arguments = list({a: None for case in wanted for _, a in case.parts})
        counted = dict(zip(arguments, pool.map(executed.count, arguments)))
    found = {}
    for case in wanted:
        found[case.name] = regions.find(executed.combine([(weight, counted[a]) for weight, a in case.parts]), names)
    loops = {r.instructions: r.loop() for one in found.values() for r in regions.worth_a_model(one)}
    texts = {str(i): loop for i, loop in enumerate(loops.values())}
    by_model = {texts[key].instructions: result for key, result in cycles.analyse_all(texts).items()}
    return [estimate(case, found[case.name], by_model) for case in wanted], by_model
