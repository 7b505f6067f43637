// SPDX-License-Identifier: Apache-2.0
// The specification of attention, written to be read: without blocks or threads, each sum in the order of its
// keys or dims.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/attention.h"

namespace kumiko::test {

/// Number of keys of sequence b that exist: seqused_k[b], or kv_len without it.
std::int64_t used_keys(const AttentionArgs& args, std::int64_t b);

/// May query row i of sequence b see key j? With p = i + used_keys - q_len (bottom-right) or p = i
/// (top-left): j < used_keys, j <= p if causal, p - window_left <= j <= p + window_right where those are not
/// -1. Keys before prefix_lens[b] need only the left side, the first window_sink_tokens only causality.
bool sees(const AttentionArgs& args, std::int64_t b, std::int64_t i, std::int64_t j);
/// The same for one head, with the boolean mask, the tree mask and the lists of key blocks.
bool sees(const AttentionArgs& args, std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j);

/// The size that the error of a row is measured by.
struct RowFacts {
  std::int64_t visible = 0;  ///< Keys the row sees.
  double max_score = 0;      ///< Largest finite |scale * q.k|, |bias| or |score| among them.
  double spread = 0;  ///< max finite |v| * sqrt(sum of squared weights): the size of a sum of independently
                      ///< rounded terms.
};

/// out[batch, q_heads, q_len, v_head_dim], lse and row_max [batch, q_heads, q_len], contiguous; rows in the
/// order of lse.
template <class T>
struct AttentionResult {
  std::vector<T> out;
  std::vector<T> lse;
  std::vector<RowFacts> rows;
  std::vector<T> row_max{};
};

/// Attention in double, from f32 inputs, three passes per row: scores, softmax with the row maximum
/// subtracted, weighted sum. A row that sees nothing, or only scores of -inf, is 0 with LSE -inf. A NaN or
/// +inf score makes the row and its LSE NaN; a NaN value makes its column of the row NaN, whatever its
/// weight, and so does an infinite one of weight 0. A sink joins the sum of weights as a score without a
/// value; a row that sees nothing has the sink for its LSE, unless the LSE is without it. row_max is the
/// largest score, without the sink. The outputs of args are not touched.
AttentionResult<double> attention_fp64(const AttentionArgs& args);

/// The same three passes in f32 with libm's expf and plain left-to-right sums: the obvious implementation,
/// and the yardstick of the error promise. weights bf16: probabilities are rounded to bf16 before they are
/// summed and multiplied, as bf16 matrix products need them.
AttentionResult<float> attention_naive_f32(const AttentionArgs& args, DataType weights = DataType::f32);

}  // namespace kumiko::test
