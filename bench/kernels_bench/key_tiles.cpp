// SPDX-License-Identifier: Apache-2.0
#include "kernels/key_tiles/key_tiles.h"

#include "bench/kernels_bench/common.h"
#include "kernels/pack/pack.h"

namespace kumiko::bench {
namespace {

constexpr std::int64_t kKeys = 256, kDim = 128;
constexpr int kOneGroup = 8;  // of 2^8 keys

/// 256 keys as rows and as tiles, in L2.
struct KeysInBoth {
  Elements rows, tiles;
  explicit KeysInBoth(const kernels::KeyTilesKernel& row)
      : rows(row.element, kKeys * kDim, 1), tiles(row.element, kKeys * kDim, 2) {
    for (std::int64_t j = 0; j < kKeys; j += kernels::kTileKeys)
      row.from_rows({kernels::element_at(row.element, tiles.data(), j * kDim), 0, kernels::kTileKeys,
                     kernels::element_at(row.element, rows.data(), j * kDim), kDim, kDim});
  }
};

/// Scores of a block from tiles, and, as over_rows, how much faster that is than from rows.
void scores(benchmark::State& state, const kernels::KeyTilesKernel& row, std::int64_t rows) {
  KeysInBoth keys(row);
  const kernels::DecodeKernel& decode = *kernels::find_decode(
      row.isa, row.element,
      row.isa == kernels::Isa::avx512_bf16 ? kernels::Element::bf16 : kernels::Element::f32);
  const bool pairs = kernels::find_pack(row.isa, row.element)->product == kernels::Element::bf16;
  Floats q(rows * kDim, 3), got(rows * kKeys), want(rows * kKeys);
  for (std::int64_t i = 0; pairs && i < rows * kDim; ++i) q[i] = pair_of(q[i], 0.5f * q[i]);
  const void *const in_rows = keys.rows.data(), *const in_tiles = keys.tiles.data();
  const std::int64_t width = kDim * kernels::bytes_of(row.element);
  const auto args_of = [&](const void* const* group, const kernels::RowRange* range, float* out) {
    return kernels::DecodeScoresArgs{q.data(),
                                     pairs ? kDim / 2 : kDim,
                                     {group, kDim, kOneGroup},
                                     rows,
                                     kDim,
                                     kKeys,
                                     out,
                                     kKeys,
                                     {range, range + 1},
                                     {}};
  };
  const kernels::RowRange row_range{static_cast<const char*>(in_rows), width, width, kernels::kNoEnd},
      tile_range{static_cast<const char*>(in_tiles), width, width, kernels::kNoEnd};
  const auto by_rows = args_of(&in_rows, &row_range, want.data()),
             by_tiles = args_of(&in_tiles, &tile_range, got.data());
  decode.scores(by_rows);
  row.scores(by_tiles);
  for (std::int64_t i = 0; i < rows * kKeys; ++i) {
    if (std::bit_cast<std::uint32_t>(got[i]) != std::bit_cast<std::uint32_t>(want[i]))
      return state.SkipWithError("wrong answer");
  }
  std::vector<double> seconds, over;
  for (auto _ : state) {
    const double from_rows = seconds_per_call(kKernelWindow, thread_seconds, [&] { decode.scores(by_rows); });
    seconds.push_back(seconds_per_call(kKernelWindow, thread_seconds, [&] { row.scores(by_tiles); }));
    over.push_back(from_rows / seconds.back());
    state.SetIterationTime(seconds.back());
  }
  state.counters["scores_us"] = 1e6 * median(seconds);
  state.counters["over_rows"] = median(over);
}

/// Panels of a block from tiles, and how much faster that is than from rows.
void panels(benchmark::State& state, const kernels::KeyTilesKernel& row) {
  KeysInBoth keys(row);
  const kernels::PackKernel& pack = *kernels::find_pack(row.isa, row.element);
  Floats got(kKeys * kDim, 4), want(kKeys * kDim, 5);
  const auto by_rows = [&] { pack.key({keys.rows.data(), kDim, kKeys, kDim, want.data()}); };
  const auto by_tiles = [&] { row.panels({keys.tiles.data(), kKeys, kDim, got.data()}); };
  by_rows(), by_tiles();
  const std::int64_t steps = pack.product == kernels::Element::f32 ? kDim : kDim / 2;
  for (std::int64_t i = 0; i < kKeys * steps; ++i) {
    if (std::bit_cast<std::uint32_t>(got[i]) != std::bit_cast<std::uint32_t>(want[i]))
      return state.SkipWithError("wrong answer");
  }
  std::vector<double> over;
  for (auto _ : state) {
    const double from_rows = seconds_per_call(kKernelWindow, thread_seconds, by_rows),
                 seconds = seconds_per_call(kKernelWindow, thread_seconds, by_tiles);
    over.push_back(from_rows / seconds);
    state.SetIterationTime(seconds);
  }
  state.counters["over_rows"] = median(over);
}

}  // namespace

void register_key_tiles() {
  for (const kernels::KeyTilesKernel& row : kernels::key_tiles_kernels()) {
    for (const std::int64_t rows : {1, 4, 8})
      register_kernel(std::string("scores_") + row.name + "_rows" + std::to_string(rows), row.isa,
                      [&row, rows](benchmark::State& state) { scores(state, row, rows); });
    register_kernel(std::string("panels_") + row.name, row.isa,
                    [&row](benchmark::State& state) { panels(state, row); });
  }
}

}  // namespace kumiko::bench
