#include "kernels/pack/pack.h"

#include "bench/kernels_bench/common.h"

namespace kumiko::bench {
namespace {

constexpr std::int64_t kKeys = 256, kDim = 128;

void query(benchmark::State& state, const kernels::PackRow& row) {
  const std::int64_t nr = row.lanes;
  Elements src(row.element, nr * kDim);
  Floats dst(nr * kDim, 2);
  std::vector<const void*> rows;
  for (std::int64_t n = 0; n < nr; ++n)
    rows.push_back(kernels::element_at(row.element, src.data(), n * kDim));
  const kernels::PackQueryArgs args = {rows.data(), nr, nr, kDim, 0.25f, dst.data()};
  row.query(args);
  for (std::int64_t d = 0; d < kDim; ++d) {
    for (std::int64_t n = 0; n < nr; ++n) {
      if (dst[d * nr + n] != src[n * kDim + d] * 0.25f) return state.SkipWithError("wrong answer");
    }
  }
  judge_elements(state, static_cast<double>(nr * kDim), [&] { row.query(args); });
}

void key(benchmark::State& state, const kernels::PackRow& row) {
  Elements src(row.element, kKeys * kDim);
  Floats dst(kKeys * kDim, 2);
  const kernels::PackKeyArgs args = {src.data(), kDim, kKeys, kDim, dst.data()};
  row.key(args);
  for (std::int64_t j = 0; j < kKeys; ++j) {
    for (std::int64_t d = 0; d < kDim; ++d) {
      if (dst[(j / row.mr * kDim + d) * row.mr + j % row.mr] != src[j * kDim + d]) {
        return state.SkipWithError("wrong answer");
      }
    }
  }
  judge_elements(state, static_cast<double>(kKeys * kDim), [&] { row.key(args); });
}

void value(benchmark::State& state, const kernels::PackRow& row) {
  Elements src(row.element, kKeys * kDim);
  Floats dst(kKeys * kDim, 2);
  const kernels::PackValueArgs args = {src.data(), kDim, kKeys, kDim, dst.data()};
  if (!row.value(args)) return state.SkipWithError("finite values reported as not finite");
  for (std::int64_t j = 0; j < kKeys; ++j) {
    for (std::int64_t d = 0; d < kDim; ++d) {
      if (dst[(d / row.mr * kKeys + j) * row.mr + d % row.mr] != src[j * kDim + d]) {
        return state.SkipWithError("wrong answer");
      }
    }
  }
  judge_elements(state, static_cast<double>(kKeys * kDim),
                 [&] { benchmark::DoNotOptimize(row.value(args)); });
}

}  // namespace

void register_pack() {
  for (const kernels::PackRow& row : kernels::pack_rows()) {
    const std::string name = row.name;
    register_kernel(name + "_query", row.isa, [&row](benchmark::State& state) { query(state, row); });
    register_kernel(name + "_key", row.isa, [&row](benchmark::State& state) { key(state, row); });
    register_kernel(name + "_value", row.isa, [&row](benchmark::State& state) { value(state, row); });
  }
}

}  // namespace kumiko::bench
