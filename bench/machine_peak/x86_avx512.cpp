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

const double kFmaAvx512Flops = 2.0 * 16 * kChains;

void fma_avx512(std::int64_t iterations) noexcept {
  const float x = 0.99371f, y = 0.00613f;  // Full mantissas, as in x86_avx2.cpp.
  asm volatile(
      "vbroadcastss %1, %%zmm30\n\t"
      "vbroadcastss %2, %%zmm31\n\t"
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n\t"
      "vmovaps %%zmm31, %%zmm\\r\n\t"
      ".endr\n\t"
      ".p2align 6\n"
      "1:\n\t"
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n\t"
      "vfmadd213ps %%zmm31, %%zmm30, %%zmm\\r\n\t"
      ".endr\n\t"
      "dec %0\n\t"
      "jnz 1b\n\t"
      "vzeroupper\n\t"
      : "+r"(iterations)
      : "v"(x), "v"(y)
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21",
        "xmm22", "xmm23");
}

std::span<const ReadRow> read_rows_avx512() {
  return kReadRows<Zmm>;
}

}  // namespace kumiko::bench
