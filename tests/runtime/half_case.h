// SPDX-License-Identifier: Apache-2.0
// A case whose tensors are f16 and whose products are too.
#pragma once

#include <string>
#include <vector>

#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"

namespace kumiko::test {

/// ISAs of this machine that multiply f16; on an emulated processor without the scalar ones.
std::vector<std::string> half_isas();

class HalfProblem {
 public:
  explicit HalfProblem(const Case& c, DataType type = DataType::f16);

  /// Out is f32, so that what is seen is the arithmetic and not the last rounding.
  AttentionArgs args(Pipeline pipeline = Pipeline::automatic) const;
  /// With a status that is ok, and nothing written beside the outputs.
  Outcome run(const Context& context, Pipeline pipeline = Pipeline::automatic) const;
  /// Copies changed elements of wide.q, wide.k and wide.v.
  void refresh() const;

  Problem wide;  ///< The same values.
  NarrowTensor q, k, v;
};

/// The bound of docs/numerics.md against fp64: of an element of out
///   spread * 2^-11 * (8 + 3/4 (1 + S) sqrt(min(head_dim, 128))) + V * min(keys, 512) * 2^-20 + 2^-14
/// with S the row's largest score, V its largest value, spread as in RowFacts; of the LSE the factor of
/// spread. NaNs and infinities must be where fp64 has them. `worst`: the largest share of the bound.
::testing::AssertionResult meets_half_bound(const Outcome& got, const AttentionResult<double>& fp64,
                                            std::int64_t head_dim, double largest_value, double* worst);
::testing::AssertionResult meets_half_bound(const Outcome& got, const HalfProblem& problem, double* worst);

}  // namespace kumiko::test
