// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "bench/machine_peak/read_loop.h"
#include "bench/machine_peak/rows.h"

namespace kumiko::bench {
namespace {

constexpr int kChains =
    24;  // 2 pipes x latency 4 needs 8; 24 is what a 24-accumulator micro-kernel keeps in flight.

struct Zmm {
  using Reg = __m512i;
  static constexpr const char* kIsa = "avx512";
  static Reg zero() { return _mm512_setzero_si512(); }
  static Reg load(const std::byte* p) { return _mm512_loadu_si512(p); }
  static Reg add(Reg a, Reg b) { return _mm512_add_epi64(a, b); }
  static std::uint64_t reduce(Reg a) {  // Through memory: g++ 12 warns inside _mm512_reduce_add_epi64.
    alignas(64) std::uint64_t lane[8];
    _mm512_store_si512(lane, a);
    std::uint64_t sum = 0;
    for (std::uint64_t x : lane) sum += x;
    return sum;
  }
};

}  // namespace

// 24 chains of one instruction with zmm30 and zmm31, which hold the bits of x and y.
#define KUMIKO_CHAINS(name, instruction, x, y)                                                               \
  void name(std::int64_t iterations) noexcept {                                                              \
    asm volatile(                                                                                            \
        "vpbroadcastd %1, %%zmm30\n\t"                                                                       \
        "vpbroadcastd %2, %%zmm31\n\t"                                                                       \
        ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n\t"                           \
        "vmovaps %%zmm31, %%zmm\\r\n\t"                                                                      \
        ".endr\n\t"                                                                                          \
        ".p2align 6\n"                                                                                       \
        "1:\n\t"                                                                                             \
        ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n\t" instruction               \
        "\n\t"                                                                                               \
        ".endr\n\t"                                                                                          \
        "dec %0\n\t"                                                                                         \
        "jnz 1b\n\t"                                                                                         \
        "vzeroupper\n\t"                                                                                     \
        : "+r"(iterations)                                                                                   \
        : "v"(_mm_cvtsi32_si128(static_cast<int>(x))), "v"(_mm_cvtsi32_si128(static_cast<int>(y)))           \
        : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",     \
          "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", \
          "xmm22", "xmm23", "xmm30", "xmm31");                                                               \
  }

const double kFmaAvx512Flops = 2.0 * 16 * kChains;
// 0.99371 and 0.00613: full mantissas, as in x86_avx2.cpp.
KUMIKO_CHAINS(fma_avx512, "vfmadd213ps %%zmm31, %%zmm30, %%zmm\\r", 0x3f7e63c6, 0x3bc8def6)

const double kDotAvx512Bf16Flops = 2.0 * 32 * kChains;
// Pairs of bf16, 0.59 and -0.31 against 0.41 and 0.78: the sums stay near 0.
KUMIKO_CHAINS(dot_avx512_bf16, "vdpbf16ps %%zmm31, %%zmm30, %%zmm\\r", 0x3f17be9f, 0x3ed23f48)

std::span<const ReadRow> read_rows_avx512() {
  return kReadRows<Zmm>;
}

}  // namespace kumiko::bench
