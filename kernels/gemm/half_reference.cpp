// SPDX-License-Identifier: Apache-2.0
// The spec of gemm.h's product f16 in plain C++: chains of f16 steps from +0, whose sums are added in pairs
// in f16; the sums of pairs are added in f32.
#include <algorithm>

#include "kernels/gemm/gemm.h"
#include "kernels/simd/half_scalar.h"

namespace kumiko::kernels {
namespace {

constexpr int kHalfMr = 4, kHalfNr = 8;

struct Panel {
  const F16 *a, *b;
  std::int64_t k, first_steps, a_step;  // a_step: elements

  F16 chain(int m, int n, std::int64_t from, std::int64_t steps) const {
    F16 sum{};
    for (std::int64_t i = from; i < std::min(k, from + steps); ++i)
      sum = fused(a[i * a_step + m], b[i * kHalfNr + n], sum);
    return sum;
  }
  /// sum + A B, or A B without a sum.
  float element(int m, int n, const float* sum) const {
    float out = sum ? *sum : 0.0f;
    for (std::int64_t from = 0, steps = first_steps; from < k;
         from += steps + kHalfChain, steps = kHalfChain) {
      F16 pair = chain(m, n, from, steps);
      if (from + steps < k) pair = added(pair, chain(m, n, from + steps, kHalfChain));
      out = from == 0 && !sum ? to_float(pair) : out + to_float(pair);
    }
    return out;
  }
};

template <class Element>
void for_each_element(const GemmArgs& args, Element element) {
  const std::int64_t a_step =
      args.a_step_stride == 0 ? kHalfMr : args.a_step_stride / static_cast<std::int64_t>(sizeof(F16));
  for (std::int64_t panel = 0; panel < args.m_panels; ++panel) {
    const auto* const a =
        reinterpret_cast<const F16*>(static_cast<const char*>(args.a) + panel * args.a_panel_stride);
    const bool is_part = panel == args.m_panels - 1 && args.last_rows != 0;
    for (int m = 0; m < (is_part ? args.last_rows : kHalfMr); ++m) {
      for (int n = 0; n < kHalfNr; ++n) {
        const std::int64_t row = panel * kHalfMr + m;
        float& c = args.c[row * kHalfNr + n];
        c = element(Panel{a, static_cast<const F16*>(args.b), args.k, args.first_steps, a_step}, m, n, row,
                    c);
      }
    }
  }
}

void init(const GemmArgs& args, float* c_max) {
  for_each_element(args, [&](const Panel& panel, int m, int n, std::int64_t row, float) {
    float x = panel.element(m, n, nullptr);
    if (args.c_scale) {
      x *= args.c_scale[n];
      if (args.row_scale) x *= args.row_scale[row];
    }
    if (c_max && x > c_max[n]) c_max[n] = x;
    return x;
  });
}

}  // namespace

extern "C" {
void gemm_f16_4x8_reference_init(const GemmArgs* args) noexcept {
  init(*args, nullptr);
}
void gemm_f16_4x8_reference_init_max(const GemmArgs* args) noexcept {
  init(*args, args->c_max);
}
void gemm_f16_4x8_reference_accumulate(const GemmArgs* args) noexcept {
  for_each_element(*args, [&](const Panel& panel, int m, int n, std::int64_t, float c) {
    const float scaled = c * args->c_scale[n];
    return panel.element(m, n, &scaled);
  });
}
}

}  // namespace kumiko::kernels
