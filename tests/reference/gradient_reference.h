// SPDX-License-Identifier: Apache-2.0
// The specification of attention's gradients, written to be read, and the promise about their errors.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/attention.h"

namespace kumiko::test {

/// What the errors of a query's or a key's gradient are measured by.
struct GradientFacts {
  std::int64_t pairs = 0;  ///< Queries or keys that it meets.
  double max_score = 0;    ///< Largest |score|, or |term| of one, among them.
  double squares = 0;      ///< Sum over them of squared sizes of the terms of its gradient.
  double largest = 0;      ///< Largest element that these are multiplied by.
};

/// Contiguous, in the order of the tensors. facts: of each row of dq, dk and dv.
template <class T>
struct GradientResult {
  std::vector<T> dq, dk, dv, dsinks;
  std::vector<GradientFacts> q_facts, k_facts, v_facts;
  /// Of each pair, [batch][q_heads][q_len][kv_len]: the gradient of its score after the softcap, the size of
  /// the terms of that, and the query's largest score or term. 0 where the query does not see the key.
  std::vector<T> dscores;
  std::vector<double> dscore_sizes, max_scores;
};

/// Gradients of sum(dout * out) + sum(dlse * lse) in double, from f32 inputs: scores, softmax, and the chain
/// rule pair by pair. dout is [batch, q_heads, q_len, v_head_dim], dlse [batch, q_heads, q_len] or empty,
/// both contiguous. A pair whose score is -inf has no part in any gradient. The outputs of args are not
/// touched.
GradientResult<double> gradients_fp64(const AttentionArgs& args, std::span<const float> dout,
                                      std::span<const float> dlse = {});
/// What is rounded to bf16 before it is multiplied.
enum class Rounded {
  nothing,
  gradients,    ///< P and dS.
  all_weights,  ///< And the weights of the forward call, whose sum is that of the rounded ones.
};
/// The same steps in f32 with left-to-right sums: the yardstick.
GradientResult<float> gradients_naive_f32(const AttentionArgs& args, std::span<const float> dout,
                                          std::span<const float> dlse = {}, Rounded what = Rounded::nothing);

/// Checks one gradient against fp64: NaN and infinities exactly where fp64 has them; elsewhere, among rows
/// that meet about as many others, a largest error of at most twice naive's and 4 * (1 + largest score)
/// roundoffs of a row's size, the root of the sum of its squared terms. `worst` collects the largest error
/// and naive's. `what` naive rounds to bf16: the floor grows by a
/// roundoff of bf16, 2^-9, as that of attention's own promise does, for the few elements that naive's
/// roundings spare by luck; among 64 rows and more, where there is none, the root of the mean square is at
/// most 1.25 times naive's.
struct WorstGradient {
  double error = 0, naive = 0;
};
::testing::AssertionResult gradient_is_right(std::span<const float> got, std::span<const double> fp64,
                                             std::span<const float> naive,
                                             std::span<const GradientFacts> facts,
                                             WorstGradient* worst = nullptr, Rounded what = Rounded::nothing);

}  // namespace kumiko::test
