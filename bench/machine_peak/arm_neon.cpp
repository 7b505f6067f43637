// SPDX-License-Identifier: Apache-2.0
#include <arm_neon.h>

#include "bench/machine_peak/read_loop.h"
#include "bench/machine_peak/rows.h"

namespace kumiko::bench {
namespace {

// 24 chains: 2 pipes x latency 9 (A64FX) need 18, 4 pipes x latency 4 (Neoverse V1) 16.
constexpr int kNeonChains = 24;

struct Neon {
  using Reg = uint64x2_t;
  static constexpr const char* kIsa = "neon";
  static Reg zero() { return vdupq_n_u64(0); }
  static Reg load(const std::byte* p) { return vld1q_u64(reinterpret_cast<const std::uint64_t*>(p)); }
  static Reg add(Reg a, Reg b) { return vaddq_u64(a, b); }
  static std::uint64_t reduce(Reg a) { return vaddvq_u64(a); }
};

}  // namespace

const double kFmaNeonFlops = 2.0 * 4 * kNeonChains;

void fma_neon(std::int64_t iterations) noexcept {
  const float x = 0.99371f, y = 0.00613f;
  asm volatile(
      "dup v30.4s, %w[x]\n\t"
      "dup v31.4s, %w[y]\n\t"
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n\t"
      "mov v\\r\\().16b, v31.16b\n\t"
      ".endr\n\t"
      ".p2align 5\n"
      "1:\n\t"
      // A chain grows by x * y a turn: by no more than 25 in a call of 4096.
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n\t"
      "fmla v\\r\\().4s, v30.4s, v31.4s\n\t"
      ".endr\n\t"
      "subs %[n], %[n], 1\n\t"
      "b.ne 1b\n\t"
      : [n] "+r"(iterations)
      : [x] "r"(x), [y] "r"(y)
      : "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14",
        "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v30", "v31");
}

std::span<const ReadRow> read_rows_neon() {
  return kReadRows<Neon>;
}

}  // namespace kumiko::bench
