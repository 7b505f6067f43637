// SPDX-License-Identifier: Apache-2.0
#include "kernels/score_tile/score_tile.h"

#include <algorithm>

#include "bench/kernels_bench/common.h"

namespace kumiko::bench {
namespace {

constexpr std::int64_t kKeys = 256, kVectors = 3;

// Rows of scores as in a tensor: one block of keys from rows four times as long.
void load_f32(benchmark::State& state, const kernels::ScoreTileKernel& row) {
  const std::int64_t nr = kVectors * row.lanes, stride = 4 * kKeys + 64;
  Floats scores(nr * stride, 1), s(kKeys * nr), top(nr);
  top.fill(-1e30f);
  std::vector<const void*> rows;
  for (std::int64_t n = 0; n < nr; ++n) rows.push_back(scores.data() + n * stride);
  const kernels::LoadScoresArgs args = {rows.data(), nr, kKeys, nr, 0.5f, s.data(), top.data()};
  row.load_f32(args);
  for (std::int64_t n = 0; n < nr; ++n) {
    float highest = -1e30f;
    for (std::int64_t j = 0; j < kKeys; ++j) {
      const float want = 0.5f * scores[n * stride + j];
      if (s[j * nr + n] != want) return state.SkipWithError("wrong score");
      highest = std::max(highest, want);
    }
    if (top[n] != highest) return state.SkipWithError("wrong maximum");
  }
  judge_elements(state, static_cast<double>(kKeys * nr), [&] { row.load_f32(args); });
}

}  // namespace

void register_score_tile() {
  for (const kernels::ScoreTileKernel& row : kernels::score_tile_kernels()) {
    register_kernel(std::string(row.name) + "_load_f32", row.isa,
                    [&row](benchmark::State& state) { load_f32(state, row); });
  }
}

}  // namespace kumiko::bench
