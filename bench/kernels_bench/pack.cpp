// SPDX-License-Identifier: Apache-2.0
#include "kernels/pack/pack.h"

#include "bench/kernels_bench/common.h"

namespace kumiko::bench {
namespace {

constexpr std::int64_t kKeys = 256, kDim = 128;

/// A step of a panel: at(0), and for pairs also at(1).
template <class At>
bool holds(float step, kernels::Element product, At at) {
  const float want = product == kernels::Element::f32 ? at(0) : pair_of(at(0), at(1));
  return std::bit_cast<std::uint32_t>(step) == std::bit_cast<std::uint32_t>(want);
}

void query(benchmark::State& state, const kernels::PackKernel& row) {
  const std::int64_t nr = row.lanes;
  Elements src(row.element, nr * kDim);
  Floats dst(nr * kDim, 2);
  std::vector<const void*> rows;
  for (std::int64_t n = 0; n < nr; ++n)
    rows.push_back(kernels::element_at(row.element, src.data(), n * kDim));
  const std::int64_t per = per_step(row.product);
  const float scale = per == 1 ? 0.25f : -1.0f;
  const kernels::PackQueryArgs args = {rows.data(), nr, nr, kDim, scale, dst.data()};
  row.query(args);
  for (std::int64_t step = 0; step < kDim / per; ++step) {
    for (std::int64_t n = 0; n < nr; ++n) {
      const auto at = [&](std::int64_t k) { return src[n * kDim + per * step + k] * scale; };
      if (!holds(dst[step * nr + n], row.product, at)) return state.SkipWithError("wrong answer");
    }
  }
  judge_elements(state, static_cast<double>(nr * kDim), [&] { row.query(args); });
}

void key(benchmark::State& state, const kernels::PackKernel& row) {
  Elements src(row.element, kKeys * kDim);
  Floats dst(kKeys * kDim, 2);
  const kernels::PackKeyArgs args = {src.data(), kDim, kKeys, kDim, dst.data()};
  row.key(args);
  const std::int64_t per = per_step(row.product);
  for (std::int64_t j = 0; j < kKeys; ++j) {
    for (std::int64_t step = 0; step < kDim / per; ++step) {
      const auto at = [&](std::int64_t k) { return src[j * kDim + per * step + k]; };
      if (!holds(dst[(j / row.mr * (kDim / per) + step) * row.mr + j % row.mr], row.product, at))
        return state.SkipWithError("wrong answer");
    }
  }
  judge_elements(state, static_cast<double>(kKeys * kDim), [&] { row.key(args); });
}

void value(benchmark::State& state, const kernels::PackKernel& row) {
  Elements src(row.element, kKeys * kDim);
  Floats dst(kKeys * kDim, 2);
  const kernels::PackValueArgs args = {src.data(), kDim, kKeys, kDim, dst.data()};
  if (!row.value(args)) return state.SkipWithError("finite values reported as not finite");
  const std::int64_t per = per_step(row.product);
  for (std::int64_t step = 0; step < kKeys / per; ++step) {
    for (std::int64_t d = 0; d < kDim; ++d) {
      const auto at = [&](std::int64_t k) { return src[(per * step + k) * kDim + d]; };
      if (!holds(dst[(d / row.mr * (kKeys / per) + step) * row.mr + d % row.mr], row.product, at))
        return state.SkipWithError("wrong answer");
    }
  }
  judge_elements(state, static_cast<double>(kKeys * kDim),
                 [&] { benchmark::DoNotOptimize(row.value(args)); });
}

}  // namespace

void register_pack() {
  for (const kernels::PackKernel& row : kernels::pack_kernels()) {
    if (row.product == kernels::Element::f16)
      continue;  // They take operands of another form (ranges, f16 steps).
    const std::string name = row.name;
    register_kernel(name + "_query", row.isa, [&row](benchmark::State& state) { query(state, row); });
    register_kernel(name + "_key", row.isa, [&row](benchmark::State& state) { key(state, row); });
    register_kernel(name + "_value", row.isa, [&row](benchmark::State& state) { value(state, row); });
  }
}

}  // namespace kumiko::bench
