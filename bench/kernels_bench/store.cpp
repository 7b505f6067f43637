// SPDX-License-Identifier: Apache-2.0
#include "kernels/store/store.h"

#include "bench/kernels_bench/common.h"

namespace kumiko::bench {
namespace {

constexpr std::int64_t kDim = 128;

float rounded(kernels::Element element, float x) {
  std::byte memory[4];
  store_rounded(static_cast<DataType>(element), x, memory);
  return load_widened(static_cast<DataType>(element), memory);
}

void tile(benchmark::State& state, const kernels::StoreKernel& row) {
  const std::int64_t nr = row.lanes;
  Floats o(nr * kDim, 1), inverse(nr, 2);
  inverse.fill(0.75f);
  Elements out(row.element, nr * kDim, 3);
  std::vector<void*> rows;
  for (std::int64_t n = 0; n < nr; ++n)
    rows.push_back(kernels::element_at(row.element, out.data(), n * kDim));
  const kernels::StoreTileArgs args = {o.data(), inverse.data(), nr, kDim, rows.data(), nr};
  row.tile(args);
  for (std::int64_t n = 0; n < nr; ++n) {
    for (std::int64_t d = 0; d < kDim; ++d) {
      if (out[n * kDim + d] != rounded(row.element, o[d * nr + n] * 0.75f))
        return state.SkipWithError("wrong answer");
    }
  }
  judge_elements(state, static_cast<double>(nr * kDim), [&] { row.tile(args); });
}

void one_row(benchmark::State& state, const kernels::StoreKernel& row) {
  Floats o(kDim, 1);
  Elements out(row.element, kDim, 2);
  const kernels::StoreRowArgs args = {o.data(), 0.75f, kDim, out.data()};
  row.row(args);
  for (std::int64_t d = 0; d < kDim; ++d) {
    if (out[d] != rounded(row.element, o[d] * 0.75f)) return state.SkipWithError("wrong answer");
  }
  judge_elements(state, kDim, [&] { row.row(args); });
}

}  // namespace

void register_store() {
  for (const kernels::StoreKernel& row : kernels::store_kernels()) {
    const std::string name = row.name;
    register_kernel(name + "_tile", row.isa, [&row](benchmark::State& state) { tile(state, row); });
    register_kernel(name + "_row", row.isa, [&row](benchmark::State& state) { one_row(state, row); });
  }
}

}  // namespace kumiko::bench
