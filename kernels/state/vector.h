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
void store_tile(const StoreTileArgs& args) {
  for (std::int64_t n = 0; n < args.rows_used; n += V::kLanes) {
    const auto inverse = V::load(args.inverse + n);
    const std::int64_t left = args.rows_used - n;
    const int rows = left < V::kLanes ? static_cast<int>(left) : V::kLanes;
    for (std::int64_t d = 0; d < args.dim; d += V::kLanes) {
      const std::int64_t dims = args.dim - d;
      typename V::Reg x[V::kLanes];
      for (int i = 0; i < V::kLanes; ++i) {
        x[i] = i < dims ? V::fma(V::load(args.o + (d + i) * args.nr + n), inverse, V::zero()) : V::zero();
      }
      V::transpose(x);
      for (int i = 0; i < rows; ++i) {
        if (dims >= V::kLanes) {
          V::store(args.rows[n + i] + d, x[i]);
        } else {
          V::store_first(args.rows[n + i] + d, dims, x[i]);
        }
      }
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

template <class V>
void store_row(const float* o, float inverse, std::int64_t dim, float* out) {
  for (std::int64_t d = 0; d < dim; d += V::kLanes) {
    V::store_first(out + d, dim - d, V::fma(V::load_first(o + d, dim - d), V::set1(inverse), V::zero()));
  }
}

}  // namespace
}  // namespace kumiko::kernels
