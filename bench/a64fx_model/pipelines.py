"""Single-core pipelines for softmax(S) V on A64FX, composed from the cycles of their loops: a phase is trips * cycles, plus what is
stated here. Two sums are made of the same phases: `hidden`, where a phase takes the longer of its cycles and its traffic, as
hardware prefetch of a sequential stream makes it; and `exposed`, where every byte from beyond L1 is waited for.
"""

import dataclasses

M = 12               # rows of S: the seeds' shape, one register tile
KC = 256             # steps of k a block
START = 40           # cycles a call of a GEMM tile: first loads (11), last multiply-adds (9), branches mispredicted (about 20)
L2_RATES = (64, 32)  # bytes a cycle from L2 to L1: what the manual promises one core, and half of it
L2_BYTES = 7 << 20   # of a CMG's 8 MiB, what a program gets
MEMORY_RATE = 18     # bytes a cycle for one core: 36 GB/s at 2 GHz
NORMALIZE = 4 / 16   # cycles an element of the output: load, multiply, store of a vector, and the divisions of a few


@dataclasses.dataclass
class Phase:
    name: str
    cycles: float    # of its instructions, operands in L1
    bytes: float     # that enter or leave L1
    resident: float  # bytes of what it streams: beyond L2_BYTES they come from memory

    def time(self, rate, hidden):
        traffic = self.bytes / (rate if self.resident <= L2_BYTES else min(rate, MEMORY_RATE))
        return max(self.cycles, traffic) if hidden else self.cycles + traffic


def gemm(cycles, tile, per_tile, k_total, d, lanes, element, extra_a=1):
    """[M x k_total] x [k_total x d] in blocks of KC: the blocks outside, tiles of `lanes` columns inside."""
    tiles, blocks = -(-d // lanes), -(-k_total // KC)
    work = tiles * (k_total * cycles[tile] + blocks * (START + sum(cycles[p] for p in per_tile)))
    streamed = k_total * (tiles * lanes + M * extra_a) * element
    return Phase("gemm", work, streamed, k_total * d * element)


def two_pass(cycles, nc, d):
    """f32: exponentials and packing of [M x nc], then the product with V [nc x d]."""
    elements = M * nc
    product = gemm(cycles, "panel_f32_12x2_swp", ["panel_f32_12x2_swp_load_c", "panel_f32_12x2_swp_store_c"], nc, d, 32, 4)
    return [Phase("exp2+pack", elements * cycles["exp2_pack_f32"], elements * 4, elements * 8), product], 2 * M * nc * d, 64


def pieces_f16(cycles, length, d):
    """The phases that the f16 pipelines share; the scores are f32 and the probabilities f16."""
    s, p = M * length * 4, M * length * 2
    tile = "panel_f16_12x2_4k"
    return {
        "max": Phase("row max", M * length * cycles["row_max"], s, s),
        "exp2+pack": Phase("exp2+pack", M * length * cycles["exp2_pack_f16"], s, s),
        "store P": Phase("store P", 0, p, p),
        "gemm": gemm(cycles, tile, [tile + "_promote"], length, d, 64, 2),
        "normalize": Phase("normalize", M * d * NORMALIZE, M * d * 4, 0),
    }


def interleaved(cycles, length, d):
    """Two passes over S: maxima, then exponentials of a block ahead of the product of the one before; P stays in L1."""
    p = pieces_f16(cycles, length, d)
    return [p["max"], p["exp2+pack"], p["gemm"], p["normalize"]], 2 * M * length * d, 128


def three_pass(cycles, length, d):
    """Maxima; all of P to the staging buffer; the product alone."""
    p = pieces_f16(cycles, length, d)
    p["gemm"].bytes += M * length * 2  # P comes back from L2
    return [p["max"], p["exp2+pack"], p["store P"], p["gemm"], p["normalize"]], 2 * M * length * d, 128


def online(cycles, length, d):
    """One pass: a block's maximum, its exponentials, its product; C is rescaled each time a maximum grows. Charged for every block: what
    scores in rising order cost."""
    p = pieces_f16(cycles, length, d)
    p["max"].bytes = 0  # the block's scores stay in L1 for the exponentials
    rescale = Phase("rescale", -(-length // KC) * M * d * NORMALIZE, 0, 0)
    return [p["max"], p["exp2+pack"], p["gemm"], rescale, p["normalize"]], 2 * M * length * d, 128


def estimate(phases, flops, peak):
    """peak: flops a cycle."""
    ideal = flops / peak
    sums = {"loops": sum(phase.cycles for phase in phases)}
    for rate in L2_RATES:
        sums[f"hidden_{rate}"] = sum(phase.time(rate, True) for phase in phases)
        sums[f"exposed_{rate}"] = sum(phase.time(rate, False) for phase in phases)
    return {"peak_fraction": ideal / sums["hidden_32"], **{f"fraction_{name}": ideal / s for name, s in sums.items()}}


CASES = {
    **{f"two_pass_f32_nc{nc}_d{d}": (two_pass, nc, d) for nc in (128, 256, 512) for d in (64, 128, 256, 512)},
    **{f"{name}_f16_d256_l{length}": (shape, length, 256)
       for name, shape in (("interleaved", interleaved), ("three_pass", three_pass), ("online", online))
       for length in (4096, 8192, 16384, 32768)},
}


def estimates(cycles):
    """Of every case whose loops there are."""
    result = {}
    for name, (shape, length, d) in CASES.items():
        try:
            result[name] = estimate(*shape(cycles, length, d))
        except KeyError:
            continue
    return result


def show(rows):
    cases = [name for name in CASES if name in rows]
    if not cases:
        return
    keys = ["loops", *(f"{how}_{rate}" for how in ("hidden", "exposed") for rate in L2_RATES)]
    form = "{:<30}" + " {:>11}" * len(keys)
    print("\n" + form.format("pipeline, % of peak", *keys))
    for name in cases:
        print(form.format(name, *(f"{100 * rows[name][f'fraction_{key}']:.1f}" for key in keys)))
    print(f"\nM = {M}. hidden: a phase takes the longer of its instructions and its traffic; exposed: both, one after the other; at 64 or 32 bytes a "
          "cycle from L2,\nand at most 18 from memory where V or S is larger than L2.")
