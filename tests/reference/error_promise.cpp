// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/error_promise.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

namespace kumiko::test {
namespace {

constexpr double kRoundoff = 0x1p-24;

struct Group {
  double out = 0, naive_out = 0, lse = 0, naive_lse = 0, max_score = 0;
  std::size_t rows = 0, worst_row = 0, worst_column = 0, worst_lse_row = 0;
};

// "" or how `got` differs in kind (NaN, infinite, finite).
const char* class_fault(double got, double want) {
  if (std::isnan(want)) return std::isnan(got) ? "" : "should be NaN";
  if (std::isinf(want)) return got == want ? "" : "should be that infinity";
  return std::isfinite(got) ? "" : "should be finite";
}

std::size_t group_of(const RowFacts& row) {
  return row.visible == 0 ? 0
                          : static_cast<std::size_t>(std::bit_width(static_cast<std::uint64_t>(row.visible)));
}

}  // namespace

void WorstError::merge(const WorstError& other) {
  out = std::max(out, other.out);
  naive_out = std::max(naive_out, other.naive_out);
  lse = std::max(lse, other.lse);
  naive_lse = std::max(naive_lse, other.naive_lse);
  ratio = std::max(ratio, other.ratio);
}

::testing::AssertionResult meets_error_promise(std::span<const float> out, std::span<const float> lse,
                                               const AttentionResult<double>& fp64,
                                               const AttentionResult<float>& naive, WorstError* worst,
                                               DataType weights, bool flushed) {
  if (out.size() != fp64.out.size() || (!lse.empty() && lse.size() != fp64.lse.size()))
    return ::testing::AssertionFailure() << "sizes differ: out " << out.size() << " lse " << lse.size();
  const std::size_t rows = fp64.lse.size();
  const std::size_t columns = rows == 0 ? 0 : out.size() / rows;
  std::array<Group, 65> groups{};
  for (std::size_t r = 0; r < rows; ++r) {
    const RowFacts& facts = fp64.rows[r];
    Group& g = groups[group_of(facts)];
    g.max_score = std::max(g.max_score, facts.max_score);
    ++g.rows;
    if (!lse.empty()) {
      const double want = fp64.lse[r];
      if (const char* fault = class_fault(lse[r], want); *fault != '\0')
        return ::testing::AssertionFailure()
               << "lse of row " << r << " is " << lse[r] << ", fp64 " << want << ": " << fault;
      if (std::isfinite(want)) {
        const double unit = kRoundoff * (1 + std::abs(want));
        const double error = std::abs(static_cast<double>(lse[r]) - want) / unit;
        if (error > g.lse) g.lse = error, g.worst_lse_row = r;
        const double naive_error = std::abs(static_cast<double>(naive.lse[r]) - want) / unit;
        if (std::isfinite(naive_error)) g.naive_lse = std::max(g.naive_lse, naive_error);
      }
    }
    for (std::size_t d = 0; d < columns; ++d) {
      const std::size_t n = r * columns + d;
      const double want = fp64.out[n];
      if (const char* fault = class_fault(out[n], want); *fault != '\0')
        return ::testing::AssertionFailure()
               << "out[row " << r << "][" << d << "] is " << out[n] << ", fp64 " << want << ": " << fault;
      if (!std::isfinite(want)) continue;
      // If the spread is not finite (an inf among the values), the error is measured by the element itself;
      // below 2^-126 roundoff is absolute.
      const double size = std::max(std::isfinite(facts.spread) ? facts.spread : std::abs(want), 0x1p-126);
      const double lost = flushed ? static_cast<double>(facts.visible) * 0x1p-126 : 0.0;
      const double error =
          std::max(std::abs(static_cast<double>(out[n]) - want) - lost, 0.0) / (kRoundoff * size);
      if (error > g.out) g.out = error, g.worst_row = r, g.worst_column = d;
      const double naive_error = std::abs(static_cast<double>(naive.out[n]) - want) / (kRoundoff * size);
      if (std::isfinite(naive_error)) g.naive_out = std::max(g.naive_out, naive_error);
    }
  }
  for (const Group& g : groups) {
    const double floor = 4 * (1 + g.max_score) + (weights == DataType::f32 ? 0.0 : 0x1p-9 / kRoundoff);
    if (worst != nullptr) {
      worst->merge({g.out, g.naive_out, g.lse, g.naive_lse,
                    g.rows >= 64 && g.naive_out > 0 ? g.out / g.naive_out : 0});
    }
    if (!(g.out <= 2 * g.naive_out + floor)) {
      const std::size_t n = g.worst_row * columns + g.worst_column;
      return ::testing::AssertionFailure()
             << "out[row " << g.worst_row << "][" << g.worst_column << "] is " << out[n] << ", fp64 "
             << fp64.out[n] << ", naive " << naive.out[n] << " (sees " << fp64.rows[g.worst_row].visible
             << " keys): error " << g.out << " roundoffs, naive's worst " << g.naive_out << ", floor "
             << floor;
    }
    if (!(g.lse <= 2 * g.naive_lse + floor)) {
      const std::size_t r = g.worst_lse_row;
      return ::testing::AssertionFailure()
             << "lse of row " << r << " is " << lse[r] << ", fp64 " << fp64.lse[r] << ", naive "
             << naive.lse[r] << ": error " << g.lse << " roundoffs, naive's worst " << g.naive_lse
             << ", floor " << floor;
    }
  }
  return ::testing::AssertionSuccess();
}

::testing::AssertionResult row_max_is_right(std::span<const float> row_max,
                                            const AttentionResult<double>& fp64,
                                            const AttentionResult<float>& naive) {
  if (row_max.size() != fp64.row_max.size())
    return ::testing::AssertionFailure() << row_max.size() << " maxima of " << fp64.row_max.size() << " rows";
  std::array<double, 65> allowed{}, max_score{};
  const auto unit = [&](std::size_t r) { return kRoundoff * (1 + std::abs(fp64.row_max[r])); };
  for (std::size_t r = 0; r < row_max.size(); ++r) {
    const std::size_t group = group_of(fp64.rows[r]);
    max_score[group] = std::max(max_score[group], fp64.rows[r].max_score);
    const double error = std::abs(static_cast<double>(naive.row_max[r]) - fp64.row_max[r]) / unit(r);
    if (std::isfinite(error)) allowed[group] = std::max(allowed[group], 2 * error);
  }
  for (std::size_t r = 0; r < row_max.size(); ++r) {
    const double got = row_max[r], want = fp64.row_max[r];
    const std::size_t group = group_of(fp64.rows[r]);
    if (const char* fault = class_fault(got, want); *fault != '\0')
      return ::testing::AssertionFailure()
             << "row_max of row " << r << " is " << got << ", fp64 " << want << ": " << fault;
    const double bound = (allowed[group] + 4 * (1 + max_score[group])) * unit(r);
    if (std::isfinite(want) && std::abs(got - want) > bound)
      return ::testing::AssertionFailure()
             << "row_max of row " << r << " is " << got << ", fp64 " << want << ", allowed " << bound;
  }
  return ::testing::AssertionSuccess();
}

}  // namespace kumiko::test
