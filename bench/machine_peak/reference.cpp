// SPDX-License-Identifier: Apache-2.0
// Plain C++ under the flags of the reference kernels: on x86-64 that is SSE2 without FMA, where the compiler
// may turn the chains into 4-lane multiplies and adds.
#include "bench/machine_peak/read_loop.h"
#include "bench/machine_peak/rows.h"

namespace kumiko::bench {
namespace {

constexpr int kChains =
    32;  // 8 vectors of 4 lanes: latency 3-4 x 2 pipes, and x, y and the chains fit in 16 registers.

struct Word {
  using Reg = std::uint64_t;
  static constexpr const char* kIsa = "reference";
  static Reg zero() { return 0; }
  static Reg load(const std::byte* p) { return *reinterpret_cast<const std::uint64_t*>(p); }
  static Reg add(Reg a, Reg b) { return a + b; }
  static std::uint64_t reduce(Reg a) { return a; }
};

}  // namespace

const double kFmaReferenceFlops = 2.0 * kChains;

void fma_reference(std::int64_t iterations) noexcept {
  float chain[kChains];
  for (int c = 0; c < kChains; ++c) chain[c] = 0.01f * static_cast<float>(c);
  float x = 0.99371f, y = 0.00613f;
  asm volatile("" : "+x"(x), "+x"(y));  // Hidden from the compiler, which would otherwise fold the loop.
  for (std::int64_t i = 0; i < iterations; ++i) {
    for (int c = 0; c < kChains; ++c) chain[c] = chain[c] * x + y;
  }
  asm volatile("" : : "r"(chain) : "memory");
}

std::span<const ReadRow> read_rows_reference() {
  return kReadRows<Word>;
}

}  // namespace kumiko::bench
