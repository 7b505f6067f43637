// SPDX-License-Identifier: Apache-2.0
// store.h for any vector type of kernels/simd. Included once by each ISA's file.
#pragma once

#include "kernels/simd/transpose.h"
#include "kernels/store/store.h"

namespace kumiko::kernels {
namespace {

template <class V>
typename V::Reg result(typename V::Reg o, float inverse) {
  const typename V::Reg x = V::mul(o, V::set1(inverse));
  if constexpr (requires { V::canonical_plus_zero(x); }) {
    return V::canonical_plus_zero(x);
  } else {
    return V::canonical(V::add(x, V::zero()));
  }
}

template <class V, class T>
void store_tile(const StoreTileArgs& args) {
  for (std::int64_t n = 0; n < args.rows_used; n += V::kLanes) {
    const std::int64_t left = args.rows_used - n;
    const int rows = left < V::kLanes ? static_cast<int>(left) : V::kLanes;
    for (std::int64_t d = 0; d < args.dim; d += V::kLanes) {
      const std::int64_t dims = args.dim - d;
      typename V::Reg x[V::kLanes];
      if (dims >= V::kLanes) {
        load_transposed_block<V>(x, [&](int i) { return args.o + (d + i) * args.nr + n; });
      } else {
        for (int i = 0; i < V::kLanes; ++i)
          x[i] = i < dims ? V::load(args.o + (d + i) * args.nr + n) : V::zero();
        V::transpose(x);
      }
      for (int i = 0; i < rows; ++i) {
        x[i] = result<V>(x[i], args.inverse[n + i]);
        if (dims >= V::kLanes) {
          V::store(static_cast<T*>(args.rows[n + i]) + d, x[i]);
        } else {
          V::store_first(static_cast<T*>(args.rows[n + i]) + d, dims, x[i]);
        }
      }
    }
  }
}

template <class V, class T>
void store_row(const StoreRowArgs& args) {
  T* out = static_cast<T*>(args.out);
  for (std::int64_t d = 0; d < args.dim; d += V::kLanes) {
    const std::int64_t n = args.dim - d;
    V::store_first(out + d, n, result<V>(V::load_first(args.o + d, n), args.inverse));
  }
}

#define KUMIKO_STORE_KERNELS(name, V, T)                 \
  void name##_tile(const StoreTileArgs& args) noexcept { \
    store_tile<V, T>(args);                              \
  }                                                      \
  void name##_row(const StoreRowArgs& args) noexcept {   \
    store_row<V, T>(args);                               \
  }

}  // namespace
}  // namespace kumiko::kernels
