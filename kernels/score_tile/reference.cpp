// SPDX-License-Identifier: Apache-2.0
// The spec of score_tile.h in plain C++.
#include "kernels/score_tile/score_tile.h"

namespace kumiko::kernels {
namespace {

template <class T>
void load(const LoadScoresArgs& args) {
  for (std::int64_t j = 0; j < args.kv; ++j) {
    for (std::int64_t n = 0; n < args.nr; ++n) {
      const float s =
          n < args.rows_used ? static_cast<float>(static_cast<const T*>(args.rows[n])[j]) * args.scale : 0.0f;
      args.s[j * args.nr + n] = s;
      if (s > args.block_max[n]) args.block_max[n] = s;
    }
  }
}

}  // namespace

void score_tile_f32_reference_load_f32(const LoadScoresArgs& args) noexcept {
  load<float>(args);
}
void score_tile_f32_reference_load_i32(const LoadScoresArgs& args) noexcept {
  load<std::int32_t>(args);
}
void score_tile_f32_reference_zero_hidden(const MaskArgs& args) noexcept {
  for (std::int64_t j = 0; j < args.kv; ++j) {
    for (std::int64_t n = 0; n < args.nr; ++n) {
      const std::int64_t at = args.first + j;
      if (at < args.begin[n] || at >= args.end[n]) args.s[j * args.nr + n] = 0.0f;
    }
  }
}

}  // namespace kumiko::kernels
