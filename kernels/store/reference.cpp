// SPDX-License-Identifier: Apache-2.0
// The spec of store.h in plain C++.
#include "kernels/store/store.h"

namespace kumiko::kernels {
namespace {

template <class T>
void tile(const StoreTileArgs& args) {
  for (std::int64_t n = 0; n < args.rows_used; ++n) {
    T* row = static_cast<T*>(args.rows[n]);
    for (std::int64_t d = 0; d < args.dim; ++d)
      from_float(canonical(args.o[d * args.nr + n] * args.inverse[n] + 0.0f), row + d);
  }
}

template <class T>
void row(const StoreRowArgs& args) {
  T* out = static_cast<T*>(args.out);
  for (std::int64_t d = 0; d < args.dim; ++d) from_float(canonical(args.o[d] * args.inverse + 0.0f), out + d);
}

}  // namespace

#define KUMIKO_STORE_REFERENCE(name, T)                  \
  void name##_tile(const StoreTileArgs& args) noexcept { \
    tile<T>(args);                                       \
  }                                                      \
  void name##_row(const StoreRowArgs& args) noexcept {   \
    row<T>(args);                                        \
  }
KUMIKO_STORE_REFERENCE(store_f32_reference, float)
KUMIKO_STORE_REFERENCE(store_bf16_reference, Bf16)
KUMIKO_STORE_REFERENCE(store_f16_reference, F16)

}  // namespace kumiko::kernels
