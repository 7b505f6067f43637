// SPDX-License-Identifier: Apache-2.0
// The error promise: against fp64, at most twice the error of a naive f32 implementation.
#pragma once

#include <gtest/gtest.h>

#include <span>

#include "tests/reference/attention_reference.h"

namespace kumiko::test {

/// Worst error seen, in f32 units of roundoff (2^-24) of a row's natural size (RowFacts::spread for out; 1 +
/// |lse| for lse).
struct WorstError {
  double out = 0, naive_out = 0;
  double lse = 0, naive_lse = 0;
  /// Largest out / naive_out over groups of at least 64 rows, where luck averages out (the elements of a row
  /// share the errors of its weights, so the number of elements does not count).
  double ratio = 0;
  void merge(const WorstError& other);
};

/// Checks `out` and `lse` (contiguous; lse may be empty) against fp64:
/// - NaN exactly where fp64 is NaN, +-inf exactly where fp64 is; elsewhere finite;
/// - rows grouped by floor(log2(visible keys)), so that a short row's large error cannot hide a long row's:
/// in each group
///   max error <= 2 * max error of naive + 4 * (1 + max |score|) roundoffs. The floor is there because a
///   group of few elements can have a naive error of 0 by luck (one visible key: the answer is v itself): an
///   honest weight has been rounded four times (score, exponential, product, division), and rounding a score
///   of size s shifts its weight by s roundoffs. weights bf16: the floor grows by a roundoff of bf16 (2^-9),
///   for a naive weight that happens to need no rounding.
///
/// `flushed`: by an ISA that takes subnormals for 0 (docs/numerics.md). Each key that a row sees may then
/// take 2^-126 off it: that much of its value, or of a sum that it falls short of lifting to 2^-126.
::testing::AssertionResult meets_error_promise(std::span<const float> out, std::span<const float> lse,
                                               const AttentionResult<double>& fp64,
                                               const AttentionResult<float>& naive,
                                               WorstError* worst = nullptr, DataType weights = DataType::f32,
                                               bool flushed = false);

/// Checks row_max (contiguous) against fp64: NaN and infinities where fp64 has them; elsewhere an error of at
/// most twice that of naive f32, both the worst of rows that see about as many keys, and 4 * (1 + max
/// |score|) roundoffs.
::testing::AssertionResult row_max_is_right(std::span<const float> row_max,
                                            const AttentionResult<double>& fp64,
                                            const AttentionResult<float>& naive);

}  // namespace kumiko::test
