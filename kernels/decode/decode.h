// SPDX-License-Identifier: Apache-2.0
// Few query rows against one block of row-major keys and values, as in decode: bound by memory bandwidth, so
// nothing is packed. Three operations, in this order:
//
//   scores      q . k of every row and key of the block. Keys are transposed a few at a time, lanes = keys
//               (transpose.h), so that each score is still one chain of fused multiply-adds over head_dim in
//               order. Terms (kernels/score) may then change them.
//   softmax     scores to probabilities in place, row by row; raises m, scales l and O to the new maximum
//   add_values  O += P V and l += P, one chain over the keys in order (product f16: l is the softmax's)
//
// Together they give the bits of the tile pipeline (gemm.h + softmax.h) for the same block.
//
// Where the ISA multiplies this element in pairs (gemm.h: product bf16), q holds pairs of dims, the block
// begins with an even key of the sequence, and scores are scaled and P is rounded as in softmax.h.
//
// Product f16: queries are pack.h's panel, keys get their ranges as they are read, and P is f16 as in
// softmax.h. Chains over the keys end where those of tiles do, at multiples of kHalfChain keys of the
// sequence, and pairs of them at multiples of kHalfPair. Values beyond kHalfValueLimit count as 0 in the
// chains of a block and are added after them, in f32, key by key.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cpu.h"
#include "kernels/element.h"
#include "kernels/row_range.h"

namespace kumiko::kernels {

/// The most rows that a task has.
inline constexpr std::int64_t kMaxDecodeRows = 64;
/// Largest head_dim and v_head_dim: DeepSeek's latent attention, 512 + 64.
inline constexpr std::int64_t kMaxHeadDim = 576;

/// How far rows are fetched ahead of their use (fetch.h) and how many are used together, in bytes of rows.
/// What is best differs by core: runtime/core_tuning.inc.
struct FetchDistances {
  std::int64_t keys = 12288;    ///< into L1
  std::int64_t values = 12288;  ///< into L1; at least that of keys
  std::int64_t l2 = 0;          ///< beyond either, into L2 (RowRange::l2_ahead); 0: not at all
  std::int64_t l2_apart = 0;    ///< l2 where rows are not adjacent, if more (pipelines/read_order.cpp)
  std::int64_t values_together = 16384;  ///< values that all passes read before they go on (values.h)
};

struct DecodeScoresArgs {
  const float* q;  ///< [rows][steps of dim] by q_stride, f32: already times scale * log2(e)
  std::int64_t q_stride;
  RowGroups k;  ///< [kv][dim]
  std::int64_t rows;
  std::int64_t dim;
  std::int64_t kv;  ///< >= 1
  float* scores;    ///< out: [rows][score_stride], score_stride >= kv rounded up to score_keys
  std::int64_t score_stride;
  RowList rows_ahead;  ///< the keys, then their values
  FetchDistances fetch;
  const float* range = nullptr;  ///< [rows] product f16 only, where q is f16 [dim][q_stride]
};

/// Rows that see no key are left as they are.
struct DecodeSoftmaxArgs {
  float* scores;  ///< [rows][score_stride]; out: P, f32, or 16 bits in the first half of a row
  std::int64_t score_stride;
  std::int64_t rows;
  std::int64_t kv;
  const std::int32_t* begin;  ///< [rows] P is 0 outside [begin, end), within [0, kv]; begin >= end: none
  const std::int32_t* end;
  float* m;  ///< [rows]
  float* l;  ///< [rows]
  float* o;  ///< [rows][o_stride], o_stride >= v_dim rounded up to the lanes
  std::int64_t o_stride;
  std::int64_t v_dim;
  float scale = 1.0f;  ///< factor of scores; product bf16 only
  RowList rows_ahead;  ///< the values of the same keys
  FetchDistances fetch;
};

/// Keys [begin, end) of a block.
struct KeyRun {
  std::int32_t begin, end;
};
/// What a row sees of a block: runs in order, with at least one hidden key between two.
struct KeyRuns {
  const KeyRun* run;
  std::int64_t count;
};

/// Values of a key that a row does not see must not affect that row: 0 * NaN is NaN.
struct DecodeValuesArgs {
  const float* p;  ///< [rows][p_stride]: what softmax left in scores. Products bf16, f16: 0 for hidden keys
  std::int64_t p_stride;
  RowGroups v;  ///< [kv][v_dim]
  std::int64_t rows;
  std::int64_t v_dim;
  std::int64_t kv;
  const KeyRuns* runs;  ///< [rows]
  float* l;             ///< [rows]
  float* o;             ///< [rows][o_stride], o_stride >= v_dim rounded up to the lanes
  std::int64_t o_stride;
  RowList rows_ahead;  ///< the values, then the keys of the next block
  FetchDistances fetch;
  std::int64_t first_key = 0;  ///< the block's first key in the sequence; product f16 only
};

struct DecodeKernel {
  const char* name;
  Isa isa;
  Element element;  ///< of keys and values
  Element product;  ///< as in gemm.h
  int lanes;
  int score_keys;  ///< keys whose scores are written together: the room `scores` needs past kv
  void (*scores)(const DecodeScoresArgs&) noexcept;
  void (*softmax)(const DecodeSoftmaxArgs&) noexcept;
  void (*add_values)(const DecodeValuesArgs&) noexcept;
};

std::span<const DecodeKernel> decode_kernels();
/// nullptr if the ISA and its base have none.
const DecodeKernel* find_decode(Isa isa, Element element, Element product);

}  // namespace kumiko::kernels
