// SPDX-License-Identifier: Apache-2.0
// decode.h for any vector type of kernels/simd. Included once by each ISA's file.
#pragma once

#include "kernels/decode/scores.h"
#include "kernels/decode/softmax.h"
#include "kernels/decode/values.h"

/// A table row's operations on elements T; values are summed group_rows rows by `vectors` vectors of v_dim, a
/// single row by row_vectors.
#define KUMIKO_DECODE_KERNELS(name, V, T, group_rows, vectors, row_vectors) \
  void name##_scores(const DecodeScoresArgs& args) noexcept {               \
    decode_scores<V, T>(args);                                              \
  }                                                                         \
  void name##_softmax(const DecodeSoftmaxArgs& args) noexcept {             \
    decode_softmax<V>(args);                                                \
  }                                                                         \
  void name##_add_values(const DecodeValuesArgs& args) noexcept {           \
    decode_add_values<V, T, group_rows, vectors, row_vectors>(args);        \
  }
