// SPDX-License-Identifier: Apache-2.0
#include "kernels/pack/pack.h"
#include "kernels/score_tile/vector.h"
#include "kernels/simd/sve512.h"

namespace kumiko::kernels {
namespace {

using V = Sve512;

/// Raises `top` by a tile's column of `keys` vectors. In chains, because each takes its latency.
V::Reg raised(V::Reg top, const float* s, std::int64_t nr, std::int64_t keys) {
  constexpr int kTops = 8;
  const svbool_t all = svptrue_b32();
  V::Reg tops[kTops];
#pragma GCC unroll 8
  for (auto& t : tops) t = top;
  std::int64_t j = 0;
  for (; j + kTops <= keys; j += kTops, s += kTops * nr) {
#pragma GCC unroll 8
    for (int i = 0; i < kTops; ++i) tops[i] = svmaxnm_f32_x(all, V::load(s + i * nr), tops[i]);
  }
  for (; j < keys; ++j, s += nr) tops[0] = svmaxnm_f32_x(all, V::load(s), tops[0]);
#pragma GCC unroll 8
  for (int i = 1; i < kTops; ++i) top = svmaxnm_f32_x(all, tops[i], top);
  return svmaxnm_f32_x(all, tops[0], top);
}

}  // namespace

/// Scores become a tile as queries become a panel. Blocks to come are fetched into L2: rows whose length is a
/// power of two fall into one set of each cache, and L1 has 4 ways.
void score_tile_f32_sve512_load_f32(const LoadScoresArgs& args) noexcept {
  constexpr std::int64_t kLine = 64;  // floats
  for (std::int64_t n = 0; n < args.rows_used; ++n) {
    const float* const next = static_cast<const float*>(args.rows[n]) + args.kv;
    for (std::int64_t j = 0; j < args.kv; j += kLine) __builtin_prefetch(next + j, 0, 2);
  }
  find_pack(Isa::sve512, Element::f32, Element::f32)
      ->query({args.rows, args.rows_used, args.nr, args.kv, args.scale, args.s, nullptr});
  for (std::int64_t n = 0; n < args.nr; n += V::kLanes)
    V::store(args.block_max + n, raised(V::load(args.block_max + n), args.s + n, args.nr, args.kv));
}

void score_tile_f32_sve512_load_i32(const LoadScoresArgs& args) noexcept {
  load_scores<V, std::int32_t>(args);
}

void score_tile_f32_sve512_zero_hidden(const MaskArgs& args) noexcept {
  zero_hidden<V>(args);
}

}  // namespace kumiko::kernels
