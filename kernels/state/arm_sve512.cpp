// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd/sve512.h"
#include "kernels/state/vector.h"

namespace kumiko::kernels {
namespace {

using V = Sve512;

/// Goes through a row's vectors in memory order. Column by column a vector takes 10 instructions, 3.3 cycles,
/// where its loads and its store take 2 cycles.
template <int kVectors>
void merge_rows(const MergeTileArgs& args) {
  V::Reg a[kVectors], b[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const int n = v * V::kLanes;
    const MergeFactors<V> f(V::load(args.into.m + n), V::load(args.from.m + n));
    V::store(args.into.m + n, f.m);
    V::store(args.into.l + n, V::fma(V::load(args.from.l + n), f.b, V::mul(V::load(args.into.l + n), f.a)));
    a[v] = f.a, b[v] = f.b;
  }
  float* into = args.into.o;
  const float* from = args.from.o;
  for (std::int64_t d = 0; d < args.dim; ++d, into += kVectors * V::kLanes, from += kVectors * V::kLanes) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const int n = v * V::kLanes;
      V::store(into + n, V::fma(V::load(from + n), b[v], V::mul(V::load(into + n), a[v])));
    }
  }
}

}  // namespace

void state_f32_sve512_merge_tile(const MergeTileArgs& args) noexcept {
  switch (args.nr / V::kLanes) {
    case 1:
      return merge_rows<1>(args);
    case 2:
      return merge_rows<2>(args);
    case 3:
      return merge_rows<3>(args);
    default:
      return merge_rows<4>(args);
  }
}
void state_f32_sve512_merge_row(const MergeRowArgs& args) noexcept {
  merge_row<Sve512>(args);
}

}  // namespace kumiko::kernels
