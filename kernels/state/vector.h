// SPDX-License-Identifier: Apache-2.0
// state.h for any vector type of kernels/simd. Included once by each ISA's file.
#pragma once

#include "kernels/state/state.h"

namespace kumiko::kernels {
namespace {

template <class V>
struct MergeFactors {
  typename V::Reg m, a, b;
  MergeFactors(typename V::Reg into, typename V::Reg from) {
    m = V::max(from, into);
    const auto shift = V::zero_if_minus_infinity(m);
    a = V::exp2(V::sub(into, shift));
    b = V::exp2(V::sub(from, shift));
  }
};

template <class V>
void merge_tile(const MergeTileArgs& args) {
  for (std::int64_t n = 0; n < args.nr; n += V::kLanes) {
    const MergeFactors<V> f(V::load(args.into.m + n), V::load(args.from.m + n));
    V::store(args.into.m + n, f.m);
    V::store(args.into.l + n, V::fma(V::load(args.from.l + n), f.b, V::mul(V::load(args.into.l + n), f.a)));
    float* into = args.into.o + n;
    const float* from = args.from.o + n;
    for (std::int64_t d = 0; d < args.dim; ++d, into += args.nr, from += args.nr) {
      V::store(into, V::fma(V::load(from), f.b, V::mul(V::load(into), f.a)));
    }
  }
}

template <class V>
void merge_row(const MergeRowArgs& args) {
  const MergeFactors<V> f(V::set1(*args.m), V::set1(args.from_m));
  V::store_first(args.m, 1, f.m);
  V::store_first(args.l, 1, V::fma(V::set1(args.from_l), f.b, V::mul(V::set1(*args.l), f.a)));
  for (std::int64_t d = 0; d < args.dim; d += V::kLanes) {
    const std::int64_t n = args.dim - d;
    const auto into = V::load_first(args.o + d, n);
    V::store_first(args.o + d, n, V::fma(V::load_first(args.from_o + d, n), f.b, V::mul(into, f.a)));
  }
}

}  // namespace
}  // namespace kumiko::kernels
