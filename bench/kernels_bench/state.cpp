// SPDX-License-Identifier: Apache-2.0
#include "kernels/state/state.h"

#include <algorithm>
#include <cmath>

#include "bench/kernels_bench/common.h"

namespace kumiko::bench {
namespace {

constexpr std::int64_t kDim = 128;

// From the second call on, m is equal on both sides: the factors are 1, and l and O grow but stay finite in
// f32 (a round makes some 10^5 calls of +l; the time does not depend on the values).
void merge_tile(benchmark::State& state, const kernels::StateKernel& row) {
  const std::int64_t nr = row.lanes;
  Floats m(nr, 1), l(nr, 2), o(nr * kDim, 3), m2(nr, 4), l2(nr, 5), o2(nr * kDim, 6);
  Floats old_m(nr, 1), old_l(nr, 2), old_o(nr * kDim, 3);
  row.merge_tile({{m.data(), l.data(), o.data()}, {m2.data(), l2.data(), o2.data()}, nr, kDim});
  for (std::int64_t n = 0; n < nr; ++n) {
    const double top = std::max(old_m[n], m2[n]);
    const double a = std::exp2(old_m[n] - top), b = std::exp2(m2[n] - top);
    if (m[n] != static_cast<float>(top) || !close(l[n], old_l[n] * a + l2[n] * b, 1e-5)) {
      return state.SkipWithError("wrong maximum or sum");
    }
    for (std::int64_t d = 0; d < kDim; ++d) {
      if (!close(o[d * nr + n], old_o[d * nr + n] * a + o2[d * nr + n] * b, 1e-5)) {
        return state.SkipWithError("wrong answer");
      }
    }
  }
  const kernels::MergeTileArgs args = {
      {m.data(), l.data(), o.data()}, {m2.data(), l2.data(), o2.data()}, nr, kDim};
  judge_elements(state, static_cast<double>(nr * kDim), [&] { row.merge_tile(args); });
}

void merge_row(benchmark::State& state, const kernels::StateKernel& row) {
  float m = 1.0f, l = 2.0f;
  Floats o(kDim, 1), o2(kDim, 2), old(kDim, 1);
  const kernels::MergeRowArgs args = {&m, &l, o.data(), 0.0f, 4.0f, o2.data(), kDim};
  row.merge_row(args);
  if (m != 1.0f || !close(l, 4.0, 1e-5)) return state.SkipWithError("wrong maximum or sum");
  for (std::int64_t d = 0; d < kDim; ++d) {
    if (!close(o[d], old[d] + 0.5 * o2[d], 1e-5)) return state.SkipWithError("wrong answer");
  }
  judge_elements(state, kDim, [&] { row.merge_row(args); });
}

}  // namespace

void register_state() {
  for (const kernels::StateKernel& row : kernels::state_kernels()) {
    const std::string name = row.name;
    register_kernel(name + "_merge_tile", row.isa,
                    [&row](benchmark::State& state) { merge_tile(state, row); });
    register_kernel(name + "_merge_row", row.isa, [&row](benchmark::State& state) { merge_row(state, row); });
  }
}

}  // namespace kumiko::bench
