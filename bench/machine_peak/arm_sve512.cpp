// SPDX-License-Identifier: Apache-2.0
#include <arm_sve.h>

#include "bench/machine_peak/read_loop.h"
#include "bench/machine_peak/rows.h"

namespace kumiko::bench {
namespace {

// 24 chains: 2 pipes x latency 9 need 18.
constexpr int kChains = 24;

struct Sve {
  using Reg = svuint64_t __attribute__((arm_sve_vector_bits(512)));
  static constexpr const char* kIsa = "sve512";
  static Reg zero() { return svdup_u64(0); }
  static Reg load(const std::byte* p) {
    return svld1_u64(svptrue_b64(), reinterpret_cast<const std::uint64_t*>(p));
  }
  static Reg add(Reg a, Reg b) { return svadd_u64_x(svptrue_b64(), a, b); }
  static std::uint64_t reduce(Reg a) { return svaddv_u64(svptrue_b64(), a); }
};

}  // namespace

const double kFmaSve512Flops = 2.0 * 16 * kChains;

void fma_sve512(std::int64_t iterations) noexcept {
  const float x = 0.99371f, y = 0.00613f;
  asm volatile(
      "ptrue p0.s\n\t"
      "dup z30.s, %w[x]\n\t"
      "dup z31.s, %w[y]\n\t"
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n\t"
      "mov z\\r\\().d, z31.d\n\t"
      ".endr\n\t"
      ".p2align 5\n"
      "1:\n\t"
      // A chain grows by x * y a turn: by no more than 25 in a call of 4096.
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n\t"
      "fmla z\\r\\().s, p0/m, z30.s, z31.s\n\t"
      ".endr\n\t"
      "subs %[n], %[n], 1\n\t"
      "b.ne 1b\n\t"
      : [n] "+r"(iterations)
      : [x] "r"(x), [y] "r"(y)
      : "cc", "p0", "z0", "z1", "z2", "z3", "z4", "z5", "z6", "z7", "z8", "z9", "z10", "z11", "z12", "z13",
        "z14", "z15", "z16", "z17", "z18", "z19", "z20", "z21", "z22", "z23", "z30", "z31");
}

std::span<const ReadRow> read_rows_sve512() {
  return kReadRows<Sve>;
}

}  // namespace kumiko::bench
