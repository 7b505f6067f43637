// SPDX-License-Identifier: Apache-2.0
// Few query rows against one block of row-major keys and values, as in decode: bound by memory bandwidth, so
// nothing is packed. Keys are transposed a few at a time, lanes = keys (transpose.h), so that each score is
// still one chain of fused multiply-adds over head_dim in order; outputs are one chain over the keys in
// order. Together with the same softmax steps this gives the bits of the tile pipeline (gemm.h + softmax.h)
// for the same block.
//
// Where the ISA multiplies this element in pairs (gemm.h: product bf16), q holds pairs of dims, keys count
// from an even one of the sequence, and scores are scaled as in softmax.h.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cpu.h"
#include "kernels/element.h"
#include "kernels/score/score.h"

namespace kumiko::kernels {

/// How far rows are fetched ahead of their use, in bytes of rows (fetch.h). What is best differs by core:
/// runtime/core_tuning.inc.
struct FetchDistances {
  std::int64_t keys;    ///< into L1
  std::int64_t values;  ///< into L1; at least that of keys
  std::int64_t l2;      ///< beyond either, into L2; 0: not at all
};

/// One block of keys. Updates the state (m, l, O) of every row that sees one of them.
struct DecodeBlockArgs {
  const float* q;  ///< [rows][steps of dim], f32: already times scale * log2(e)
  std::int64_t q_stride;
  const void* k;  ///< [kv][dim] by k_stride
  std::int64_t k_stride;
  const void* v;  ///< [kv][v_dim] by v_stride
  std::int64_t v_stride;
  std::int64_t rows;
  std::int64_t dim;
  std::int64_t v_dim;
  std::int64_t kv;            ///< >= 1
  const std::int32_t* begin;  ///< [rows] visible keys of each row, within [0, kv]; begin >= end: none
  const std::int32_t* end;
  float* scores;  ///< scratch [rows][score_stride], score_stride >= kv rounded up to score_keys
  std::int64_t score_stride;
  float* m;  ///< [rows]
  float* l;  ///< [rows]
  float* o;  ///< [rows][o_stride], o_stride >= v_dim rounded up to the lanes
  std::int64_t o_stride;
  /// [rows], s and kv left out; nullptr: scores stay as they are. The mask hides keys as begin and end do.
  const ScoreRowArgs* terms;
  void (*score_row)(const ScoreRowArgs&) noexcept;
  float scale = 1.0f;  ///< product bf16 only
  FetchDistances fetch{12288, 12288, 0};
};

struct DecodeKernel {
  const char* name;
  Isa isa;
  Element element;  ///< of keys and values
  int lanes;
  int score_keys;  ///< keys whose scores are written together: the room `scores` needs past kv
  void (*decode_block)(const DecodeBlockArgs&) noexcept;
};

std::span<const DecodeKernel> decode_kernels();
const DecodeKernel* find_decode(Isa isa, Element element);

}  // namespace kumiko::kernels
