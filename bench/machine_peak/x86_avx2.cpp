// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "bench/machine_peak/read_loop.h"
#include "bench/machine_peak/rows.h"

namespace kumiko::bench {
namespace {

// 14 chains: 2 pipes x latency 4-5 needs 8 to 10, and 14 + the two factors fill the 16 registers.
constexpr int kChains = 14;

struct Ymm {
  using Reg = __m256i;
  static constexpr const char* kIsa = "avx2";
  static Reg zero() { return _mm256_setzero_si256(); }
  static Reg load(const std::byte* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static Reg add(Reg a, Reg b) { return _mm256_add_epi64(a, b); }
  static std::uint64_t reduce(Reg a) {
    alignas(32) std::uint64_t lane[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lane), a);
    return lane[0] + lane[1] + lane[2] + lane[3];
  }
};

}  // namespace

const double kFmaAvx2Flops = 2.0 * 8 * kChains;

void fma_avx2(std::int64_t iterations) noexcept {
  // Full mantissas: multiplications by zeros and powers of two draw less power, and the core might clock
  // higher than with real data.
  const float x = 0.99371f, y = 0.00613f;
  asm volatile(
      "vbroadcastss %1, %%ymm14\n\t"
      "vbroadcastss %2, %%ymm15\n\t"
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13\n\t"
      "vmovaps %%ymm15, %%ymm\\r\n\t"
      ".endr\n\t"
      ".p2align 5\n"
      "1:\n\t"
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13\n\t"
      "vfmadd213ps %%ymm15, %%ymm14, %%ymm\\r\n\t"
      ".endr\n\t"
      "dec %0\n\t"
      "jnz 1b\n\t"
      "vzeroupper\n\t"
      : "+r"(iterations)
      : "x"(x), "x"(y)
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
        "xmm11", "xmm12", "xmm13");
}

std::span<const ReadRow> read_rows_avx2() {
  return kReadRows<Ymm>;
}

}  // namespace kumiko::bench
