// SPDX-License-Identifier: Apache-2.0
#include "tests/runtime/half_case.h"

#include <algorithm>
#include <cmath>

#include "tests/support/host.h"

namespace kumiko::test {

std::vector<std::string> half_isas() {
  std::vector<std::string> isas;
  for (const std::string& isa : host_isas()) {
    // Scalar f16 under qemu takes minutes, and says what it says natively.
    if (isa == "sve512" || (isa == "reference" && !kEmulated)) isas.push_back(isa);
  }
  return isas;
}

HalfProblem::HalfProblem(const Case& c, DataType type)
    : wide(c),
      q(wide.q, type, c.seed % 2 ? Flush::front : Flush::back),
      k(wide.k, type, c.seed % 3 ? Flush::front : Flush::back),
      v(wide.v, type, c.seed % 5 ? Flush::front : Flush::back) {
  for (const GuardedTensor* t : {&wide.q, &wide.k, &wide.v}) t->round_to(type);
  refresh();
}

void HalfProblem::refresh() const {
  q.copy(wide.q), k.copy(wide.k), v.copy(wide.v);
}

AttentionArgs HalfProblem::args(Pipeline pipeline) const {
  AttentionArgs args = wide.args(pipeline);
  args.q = q.input(), args.k = k.input(), args.v = v.input();
  args.precision = Precision::half;
  return args;
}

Outcome HalfProblem::run(const Context& context, Pipeline pipeline) const {
  wide.poison_outputs();
  const Status status = attention_forward(context, args(pipeline));
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(wide.borders_intact());
  return wide.outcome();
}

::testing::AssertionResult meets_half_bound(const Outcome& got, const AttentionResult<double>& fp64,
                                            std::int64_t head_dim, double largest_value, double* worst) {
  const auto see = [&](double got_one, double want, double bound) {
    if (std::isnan(got_one) != std::isnan(want)) return false;
    if (std::isnan(want) || got_one == want) return true;
    if (!std::isfinite(got_one) || !std::isfinite(want)) return false;
    *worst = std::max(*worst, std::abs(got_one - want) / bound);
    return std::abs(got_one - want) <= bound;
  };
  const std::size_t dim = fp64.rows.empty() ? 0 : got.out.size() / fp64.rows.size();
  for (std::size_t row = 0; row < fp64.rows.size(); ++row) {
    const RowFacts& facts = fp64.rows[row];
    const double chain = std::sqrt(static_cast<double>(std::min<std::int64_t>(head_dim, 128))),
                 factor = 0x1p-11 * (8 + 0.75 * (1 + facts.max_score) * chain),
                 bound = facts.spread * factor + 0x1p-14 +
                         largest_value * 0x1p-20 *
                             static_cast<double>(std::min<std::int64_t>(facts.visible, 512));
    for (std::size_t i = row * dim; i < (row + 1) * dim; ++i) {
      if (!see(got.out[i], fp64.out[i], bound))
        return ::testing::AssertionFailure()
               << "out[" << i << "] is " << got.out[i] << ", want " << fp64.out[i] << " within " << bound;
    }
    if (!got.lse.empty() && !see(got.lse[row], fp64.lse[row], factor))
      return ::testing::AssertionFailure() << "lse[" << row << "] is " << got.lse[row] << ", want "
                                           << fp64.lse[row] << " within " << factor;
  }
  return ::testing::AssertionSuccess();
}

::testing::AssertionResult meets_half_bound(const Outcome& got, const HalfProblem& problem, double* worst) {
  double largest = 0;
  for (const float x : problem.wide.v.elements()) {
    if (std::isfinite(x)) largest = std::max(largest, std::abs(static_cast<double>(x)));
  }
  return meets_half_bound(got, attention_fp64(problem.wide.args()), problem.wide.q.shape()[3], largest,
                          worst);
}

}  // namespace kumiko::test
