// SPDX-License-Identifier: Apache-2.0
#include "kernels/softmax/softmax.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "bench/kernels_bench/common.h"

namespace kumiko::bench {
namespace {

constexpr std::int64_t kKeys = 256;

// Scores become probabilities in place, so that a second call gets values in (0, 1]. The time does not depend
// on values.
void probabilities(benchmark::State& state, const kernels::SoftmaxKernel& row) {
  const std::int64_t nr = row.lanes;
  Floats s(kKeys * nr, 1), scores(kKeys * nr, 1), top(nr), m(nr), l(nr), alpha(nr);
  m.fill(-std::numeric_limits<float>::infinity());
  l.fill(0.0f);
  top.fill(-1e30f);
  for (std::int64_t i = 0; i < kKeys * nr; ++i) top[i % nr] = std::max(top[i % nr], s[i]);
  const kernels::SoftmaxArgs args = {s.data(), kKeys, nr, top.data(), m.data(), l.data(), alpha.data()};
  row.probabilities(args);
  const std::int64_t per = per_step(row.product);
  const double tolerance = per == 1 ? 1e-6 : 4.1e-3;  // a bf16 weight is rounded to 2^-9 + 1e-4
  for (std::int64_t n = 0; n < nr; ++n) {
    double sum = 0;
    for (std::int64_t j = 0; j < kKeys; ++j) {
      const double want = std::exp2(static_cast<double>(scores[j * nr + n]) - static_cast<double>(top[n]));
      if (!close(of_step(row.product, s[j / per * nr + n], j), want, tolerance))
        return state.SkipWithError("wrong answer");
      sum += want;
    }
    if (!close(l[n], sum, 100 * tolerance)) return state.SkipWithError("wrong sum");
  }
  judge_elements(state, static_cast<double>(kKeys * nr), [&] { row.probabilities(args); });
}

void mask_scores(benchmark::State& state, const kernels::SoftmaxKernel& row) {
  const std::int64_t nr = row.lanes;
  Floats s(kKeys * nr, 1), scores(kKeys * nr, 1), top(nr);
  top.fill(-std::numeric_limits<float>::infinity());
  std::vector<std::int32_t> begin(static_cast<std::size_t>(nr), 3), end;
  for (std::int32_t n = 0; n < nr; ++n) end.push_back(100 + n);  // A causal edge.
  const kernels::MaskArgs args = {s.data(), kKeys, nr, 0, begin.data(), end.data(), top.data()};
  row.mask_scores(args);
  for (std::int64_t n = 0; n < nr; ++n) {
    float highest = -std::numeric_limits<float>::infinity();
    for (std::int64_t j = 0; j < kKeys; ++j) {
      const bool seen = j >= 3 && j < 100 + n;
      const float want = seen ? scores[j * nr + n] : -std::numeric_limits<float>::infinity();
      if (s[j * nr + n] != want) return state.SkipWithError("wrong answer");
      highest = std::max(highest, want);
    }
    if (top[n] != highest) return state.SkipWithError("wrong maximum");
  }
  judge_elements(state, static_cast<double>(kKeys * nr), [&] { row.mask_scores(args); });
}

void exp2(benchmark::State& state, const kernels::SoftmaxKernel& row) {
  constexpr std::int64_t kCount = 4096;
  Floats x(kCount), y(kCount);
  for (std::int64_t i = 0; i < kCount; ++i) x[i] = -10.0f * std::abs(x[i]);
  row.exp2(x.data(), y.data(), kCount);
  for (std::int64_t i = 0; i < kCount; ++i) {
    if (!close(y[i], std::exp2(static_cast<double>(x[i])),
               row.product == kernels::Element::f32 ? 1e-6 : 1.1e-4))
      return state.SkipWithError("wrong answer");
  }
  judge_elements(state, kCount, [&] { row.exp2(x.data(), y.data(), kCount); });
}

}  // namespace

void register_softmax() {
  for (const kernels::SoftmaxKernel& row : kernels::softmax_kernels()) {
    if (row.product == kernels::Element::f16)
      continue;  // They take operands of another form (ranges, f16 steps).
    const std::string name = row.name;
    register_kernel(name + "_probabilities", row.isa,
                    [&row](benchmark::State& state) { probabilities(state, row); });
    register_kernel(name + "_mask_scores", row.isa,
                    [&row](benchmark::State& state) { mask_scores(state, row); });
    register_kernel(name + "_exp2", row.isa, [&row](benchmark::State& state) { exp2(state, row); });
  }
}

}  // namespace kumiko::bench
