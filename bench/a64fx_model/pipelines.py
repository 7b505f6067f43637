# SPDX-License-Identifier: Apache-2.0
"""Single-core pipelines for softmax(S) V on A64FX, composed from the cycles of their loops: a phase is trips * cycles, plus what is
stated here. The phases are summed in two ways: `hidden`, where a phase takes the longer of its cycles and its traffic, as
with hardware prefetch of a sequential stream; and `exposed`, which waits for every byte from beyond L1.
"""

import dataclasses

M = 8                # rows of S: the height of a panel of exponentials
KC = {"f32": 256, "f16": 512}  # steps of k a block; f16 sums of 512 products are off by 3.4e-3 (docs/numerics.md)
START = 40           # cycles a call of a GEMM tile: first loads (11), last multiply-adds (9), branches mispredicted (about 20)
L2_RATES = (64, 32)  # bytes a cycle from L2 to L1: the manual's rate for one core, and half of it
L2_BYTES = 7 << 20   # the part of a CMG's 8 MiB that a program gets
MEMORY_RATE = 18     # bytes a cycle for one core: 36 GB/s at 2 GHz

# Tiles of a type: columns, row of the table, code that runs once a tile. The narrow one takes the rest of a row.
TILES = {
    "f32": [(48, "panel_f32_8x3_unroll4", ("_load_c", "_store_c")), (32, "panel_f32_8x2", ("_load_c", "_store_c"))],
    "f16": [(96, "panel_f16_8x3", ("_promote",)), (64, "panel_f16_8x2", ("_promote",))],
}
BYTES = {"f32": 4, "f16": 2}
PEAK = {"f32": 64, "f16": 128}  # flops a cycle


@dataclasses.dataclass
class Phase:
    name: str
    cycles: float    # of its instructions, with operands in L1
    bytes: float     # that enter or leave L1
    resident: float  # bytes that it streams: beyond L2_BYTES they come from memory

    def time(self, rate, hidden):
        traffic = self.bytes / (rate if self.resident <= L2_BYTES else min(rate, MEMORY_RATE))
        return max(self.cycles, traffic) if hidden else self.cycles + traffic


def tiles_for(d, type):
    """Tiles that cover d columns in the fewest multiply-adds a step, with latency for a narrow one: (columns, row, pieces), ..."""
    (wide, *_), (narrow, *_) = TILES[type]
    counts = [(w, -(-max(0, d - w * wide) // narrow)) for w in range(-(-d // wide) + 1)]
    w, n = min(counts, key=lambda c: (12 * c[0] + 9 * c[1], c[1]))
    return [TILES[type][0]] * w + [TILES[type][1]] * n


def gemm(cycles, k_total, d, type, p_from_l2=0):
    """[M x k_total] x [k_total x d] in blocks of KC, the blocks outside: V is streamed once, a block of P stays in L1."""
    tiles, blocks = tiles_for(d, type), -(-k_total // KC[type])
    work = sum(k_total * cycles[row] + blocks * (START + sum(cycles[row + piece] for piece in pieces)) for _, row, pieces in tiles)
    streamed = k_total * (sum(columns for columns, *_ in tiles) + M * p_from_l2) * BYTES[type]
    return Phase("gemm", work, streamed, k_total * d * BYTES[type])


def pieces(cycles, length, d, type, exp2):
    """The phases that the pipelines share. Scores are f32; the probabilities and V have the type. Sums cost as much as an f32 panel's."""
    s = M * length * 4
    return {
        "max": Phase("row max", M * length * cycles["rows_max_f32"], s, s),
        "exp2": Phase("exp2 + pack", M * length * cycles[f"rows_{exp2}_panel_f32_{type}"], s, s),
        "sum": Phase("row sum", M * length * cycles["rows_panel_sum_f32"], 0, 0),  # of what has just been stored
        "gemm": gemm(cycles, length, d, type),
        "normalize": Phase("normalize", M * d * cycles["rows_multiply_f32_f32"], M * d * 4, 0),
    }


def exp2_and_product(cycles, *sizes):
    """The two-pass of the original A64FX kernels, in f32: the maxima are known, exponentials and packing of [M x length], then the product with V."""
    p = pieces(cycles, *sizes)
    return [p["exp2"], p["gemm"]]


def two_pass(cycles, *sizes):
    """The same with maxima, sums and division."""
    return list(pieces(cycles, *sizes).values())


def interleaved(cycles, *sizes):
    """Maxima over S first; then the exponentials of each block before the product of the block before it, so that P stays in L1."""
    return list(pieces(cycles, *sizes).values())


def three_pass(cycles, length, d, type, exp2):
    """Maxima; all of P into the staging buffer; then the product, with P read back from L2."""
    p = pieces(cycles, length, d, type, exp2)
    p["exp2"].bytes += M * length * BYTES[type]
    p["gemm"] = gemm(cycles, length, d, type, p_from_l2=1)
    return list(p.values())


def online(cycles, length, d, type, exp2):
    """One pass: a block's maximum, its exponentials, its product. C is rescaled where a maximum grows, here for every block: the
    cost of scores in rising order."""
    p = pieces(cycles, length, d, type, exp2)
    p["max"].bytes = 0  # the block's scores stay in L1 for the exponentials
    rescale = Phase("rescale", -(-length // KC[type]) * p["normalize"].cycles, 0, 0)
    return [*p.values(), rescale]


def estimate(shape, cycles, length, d, type, exp2):
    phases, ideal = shape(cycles, length, d, type, exp2), 2 * M * length * d / PEAK[type]
    sums = {"loops": sum(phase.cycles for phase in phases)}
    for rate in L2_RATES:
        sums[f"hidden_{rate}"] = sum(phase.time(rate, True) for phase in phases)
        sums[f"exposed_{rate}"] = sum(phase.time(rate, False) for phase in phases)
    return {"peak_fraction": ideal / sums["hidden_64"], **{f"fraction_{name}": ideal / s for name, s in sums.items()}}


# By name: pipeline, keys, head_dim, type, exponentials.
CASES = {
    **{f"{shape.__name__}_f32_nc{nc}_d{d}": (shape, nc, d, "f32", "exp2")
       for shape in (exp2_and_product, two_pass) for nc in (128, 256, 512) for d in (64, 128, 256, 512)},
    **{f"{shape.__name__}_{kind}f16_d256_l{length}": (shape, length, 256, "f16", exp2)
       for shape in (interleaved, three_pass, online) for kind, exp2 in (("", "exp2"), ("fast_", "exp2_fast"))
       for length in (4096, 8192, 16384, 32768)},
}


def estimates(cycles):
    """Results for every case whose loops exist."""
    result = {}
    for name, (shape, *sizes) in CASES.items():
        try:
            result[name] = estimate(shape, cycles, *sizes)
        except KeyError:
            continue
    return result


def assumptions():
    """The assumptions above, which no model gives, in words."""
    return (f"START = {START} cycles to fill and drain a GEMM tile at each call (11 of first loads, 9 of last multiply-adds, about 20 of mispredicted "
            f"branches);\nblocks of KC = {KC['f32']} keys in f32 and {KC['f16']} in f16; {' or '.join(map(str, L2_RATES))} bytes a cycle from L2 to L1; "
            f"{MEMORY_RATE} bytes a cycle from memory for one core (36 GB/s at 2 GHz);\n{L2_BYTES >> 20} MiB of L2 for a program")


def show(rows):
    cases = [name for name in CASES if name in rows]
    if not cases:
        return
    keys = ["loops", *(f"{how}_{rate}" for how in ("hidden", "exposed") for rate in L2_RATES)]
    form = "{:<36}" + " {:>11}" * len(keys)
    print("\n" + form.format("pipeline, % of peak", *keys))
    for name in cases:
        print(form.format(name, *(f"{100 * rows[name][f'fraction_{key}']:.1f}" for key in keys)))
    print("\nAssumed, not modelled or measured: " + assumptions() + ".")
    print(f"M = {M}. hidden: a phase takes the longer of its instructions and its traffic; exposed: both, one after the other; at 64 or 32 bytes a "
          "cycle from L2,\nand at most 18 from memory where V or S is larger than L2.")
