// SPDX-License-Identifier: Apache-2.0
#include "kernels/gemm/gemm.h"

#include <algorithm>

#include "bench/kernels_bench/common.h"

namespace kumiko::bench {
namespace {

constexpr std::int64_t kRows = 256;  // Rows of C: a block of keys, A in L2.

/// The product that one step of a row adds, from the step's A and B.
double product(kernels::Element element, float a, float b) {
  if (element == kernels::Element::f32) return static_cast<double>(a) * b;
  return static_cast<double>(of_pair(a, 0)) * of_pair(b, 0) +
         static_cast<double>(of_pair(a, 1)) * of_pair(b, 1);
}

struct Form {
  const char* name;
  kernels::GemmFunction kernels::GemmKernel::*function;
  bool accumulates, takes_max;
};
constexpr Form kForms[] = {
    {"init", &kernels::GemmKernel::init, false, false},
    {"init_max", &kernels::GemmKernel::init_max, false, true},
    {"accumulate", &kernels::GemmKernel::accumulate, true, false},
};

void gemm(benchmark::State& state, const kernels::GemmKernel& row, const Form& form, std::int64_t k) {
  const std::int64_t panels = kRows / row.mr, nr = row.nr;
  Floats a(kRows * k, 1), b(k * nr, 2), c(kRows * nr, 3), before(kRows * nr, 3), scale(nr, 4), top(nr, 5);
  const bool pairs = row.product == kernels::Element::bf16;
  for (std::int64_t i = 0; pairs && i < kRows * k; ++i) a[i] = pair_of(a[i], 0.5f * a[i]);
  for (std::int64_t i = 0; pairs && i < k * nr; ++i) b[i] = pair_of(b[i], -0.25f * b[i]);
  scale.fill(0.5f);  // Exact, and keeps repeated accumulation bounded.
  top.fill(-1e30f);
  const kernels::GemmArgs args = {a.data(), row.mr * k * 4, b.data(),     c.data(),
                                  k,        panels,         scale.data(), top.data()};
  const kernels::GemmFunction run = row.*form.function;
  run(&args);
  for (std::int64_t n = 0; n < nr; ++n) {
    double highest = -1e30;
    for (std::int64_t m = 0; m < kRows; ++m) {
      double want = form.accumulates ? 0.5 * before[m * nr + n] : 0.0;
      const float* panel = a.data() + m / row.mr * row.mr * k + m % row.mr;
      for (std::int64_t i = 0; i < k; ++i) want += product(row.product, panel[i * row.mr], b[i * nr + n]);
      if (!close(c[m * nr + n], want, 1e-4)) return state.SkipWithError("wrong answer");
      highest = std::max(highest, want);
    }
    if (form.takes_max && !close(top[n], highest, 1e-4)) return state.SkipWithError("wrong column maximum");
  }
  judge_flops(state, row.isa, (pairs ? 4.0 : 2.0) * static_cast<double>(kRows * nr * k), [&] { run(&args); });
}

}  // namespace

void register_gemm() {
  for (const kernels::GemmKernel& row : kernels::gemm_kernels()) {
    if (row.product == kernels::Element::f16)
      continue;  // They take operands of another form (ranges, f16 steps).
    for (const Form& form : kForms) {
      for (std::int64_t k : {64, 128, 256}) {
        register_kernel(std::string(row.name) + "_" + form.name + "_k" + std::to_string(k), row.isa,
                        [&row, &form, k](benchmark::State& state) { gemm(state, row, form, k); });
      }
    }
  }
}

}  // namespace kumiko::bench
