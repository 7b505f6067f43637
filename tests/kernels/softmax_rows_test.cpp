// SPDX-License-Identifier: Apache-2.0
// Every row of kernels/softmax/rows.inc against the contract of rows.h: ragged sizes, operands between guard
// pages, special values; exp2 against double over its whole range.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <vector>

#include "kernels/element.h"
#include "kernels/softmax/rows.h"
#include "tests/kernels/exp2_model.h"
#include "tests/kernels/rows.h"
#include "tests/support/random.h"
#include "tests/support/tensor.h"

namespace kumiko::test {
namespace {

using kernels::RowArgs;
using kernels::RowOperation;
using kernels::RowSoftmaxKernel;
using kernels::RowType;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr std::size_t kPanelRows = 8;

std::size_t bytes_of(RowType type) {
  return type == RowType::f16 ? 2 : 4;
}
bool is_panel(RowOperation operation) {
  return operation == RowOperation::panel || operation == RowOperation::exp2_panel ||
         operation == RowOperation::exp2_fast_panel;
}
bool is_fast(RowOperation operation) {
  return operation == RowOperation::exp2_fast || operation == RowOperation::exp2_fast_panel;
}
bool is_exp2(RowOperation operation) {
  return operation == RowOperation::exp2 || operation == RowOperation::exp2_panel || is_fast(operation);
}

/// Elements of any of the three types between guard pages, rows `stride` elements apart.
class Matrix {
 public:
  Matrix(RowType type, std::size_t rows, std::size_t columns, std::size_t stride, Place place)
      : type_(type),
        stride_(stride),
        wide_(type == RowType::f16 ? 0 : (rows - 1) * stride + columns, place),
        narrow_(type == RowType::f16 ? (rows - 1) * stride + columns : 0, place) {
    for (float& x : wide_.span()) x = poison();
    for (std::uint16_t& x : narrow_.span()) x = 0x7e55;
  }
  void* data() const { return type_ == RowType::f16 ? static_cast<void*>(narrow_.data()) : wide_.data(); }
  std::int64_t stride_bytes() const { return static_cast<std::int64_t>(stride_ * bytes_of(type_)); }
  float get(std::size_t m, std::size_t n) const {
    const std::size_t i = m * stride_ + n;
    if (type_ == RowType::f16) return kernels::to_float(kernels::F16{narrow_[i]});
    if (type_ == RowType::i32) return static_cast<float>(std::bit_cast<std::int32_t>(wide_[i]));
    return wide_[i];
  }
  void set(std::size_t m, std::size_t n, float x) const {
    const std::size_t i = m * stride_ + n;
    if (type_ == RowType::f16) {
      kernels::F16 half;
      kernels::from_float(x, &half);
      narrow_[i] = half.bits;
    } else {
      wide_[i] = type_ == RowType::i32 ? std::bit_cast<float>(static_cast<std::int32_t>(x)) : x;
    }
  }
  bool gaps_intact(std::size_t rows, std::size_t columns) const {
    for (std::size_t m = 0; m + 1 < rows; ++m) {
      for (std::size_t n = columns; n < stride_; ++n) {
        const std::size_t i = m * stride_ + n;
        if (type_ == RowType::f16 ? narrow_[i] != 0x7e55 : !std::isnan(wide_[i])) return false;
      }
    }
    return wide_.intact() && narrow_.intact();
  }

 private:
  RowType type_;
  std::size_t stride_;
  Operand<float> wide_;
  Operand<std::uint16_t> narrow_;
};

struct SoftmaxRows : RowTest<RowSoftmaxKernel> {
  RowOperation operation = row.operation;
  Random random{test_seed(35)};

  /// The error that rows.h states for an exponential; an f16 result adds one more rounding.
  double bound(double want) const {
    double relative = is_fast(operation) ? 5.5e-3 : 1.3e-7;
    // Below the smallest normal f16, units of its last place.
    const double half = row.target == RowType::f16 ? std::max(want * 0x1p-11, 0x1p-25) : 0.0;
    return relative * want + half + 0x1p-126;
  }
  float score(float top, float scale) {
    if (row.source == RowType::i32) return std::floor((top - 140 * std::abs(random.normal()) / 3.5f) / scale);
    return random.one_in(12) ? -kInf : (top - 140 * std::abs(random.normal()) / 3.5f) / scale;
  }

  void check(std::size_t rows, std::size_t n, Place place) {
    SCOPED_TRACE(::testing::Message()
                 << row.name << " rows " << rows << " n " << n << " place " << static_cast<int>(place));
    const bool panel = is_panel(operation);
    const bool stores = operation != RowOperation::max && operation != RowOperation::sum &&
                        operation != RowOperation::panel_sum;
    const std::size_t stride = n + static_cast<std::size_t>(random.between(0, 5));
    const bool from_panel = operation == RowOperation::panel_sum;
    const Matrix src(row.source, from_panel ? n : rows, from_panel ? kPanelRows : n,
                     from_panel ? kPanelRows : stride, place);
    const Matrix dst(row.target, panel ? n : rows, panel ? kPanelRows : n, panel ? kPanelRows : n + 3, place);
    Operand<float> values(rows, place);
    const float scale = row.source == RowType::i32 ? 0x1.3p-9f : random.pick({1.0f, 0.127f});
    for (std::size_t m = 0; m < rows; ++m) {
      values[m] = is_exp2(operation) ? std::ceil(40 * random.normal()) : random.normal();
      for (std::size_t i = 0; i < n; ++i)
        from_panel ? src.set(i, m, random.normal())
                   : src.set(m, i, is_exp2(operation) ? score(values[m], scale) : random.normal());
      if (is_exp2(operation) && row.source == RowType::f32 && random.one_in(6)) {
        values[m] = -kInf;
        for (std::size_t i = 0; i < n; ++i) src.set(m, i, -kInf);
      }
    }
    const std::vector<float> before(values.span().begin(), values.span().end());
    const RowArgs args{src.data(),
                       src.stride_bytes(),
                       stores ? dst.data() : nullptr,
                       dst.stride_bytes(),
                       static_cast<std::int64_t>(rows),
                       static_cast<std::int64_t>(n),
                       values.data(),
                       scale};
    row.run(&args);
    for (std::size_t m = 0; m < rows; ++m) {
      double sum = before[m], size = std::abs(before[m]);
      float top = before[m];
      for (std::size_t i = 0; i < n; ++i) {
        const float x = from_panel ? src.get(i, m) : src.get(m, i);
        const float got = stores ? (panel ? dst.get(i, m) : dst.get(m, i)) : 0.0f;
        sum += x, size += std::abs(x);
        top = std::max(top, x);
        if (operation == RowOperation::panel) {
          ASSERT_EQ(got, x) << m << ", " << i;
        } else if (operation == RowOperation::multiply) {
          kernels::F16 half;
          const float product = x * before[m] + 0.0f;
          kernels::from_float(product, &half);
          ASSERT_TRUE(same_value(got, row.target == RowType::f16 ? kernels::to_float(half) : product))
              << m << ", " << i;
        } else if (is_exp2(operation)) {
          const double value = before[m] == -kInf ? 0.0 : before[m];
          const double want = std::exp2(static_cast<double>(x) * static_cast<double>(scale) - value);
          ASSERT_NEAR(got, want, bound(want)) << m << ", " << i << ": " << x << " - " << value;
          ASSERT_FALSE(std::signbit(got));
        }
      }
      if (operation == RowOperation::max) {
        ASSERT_EQ(values[m], top);
      } else if (operation == RowOperation::sum || from_panel) {
        ASSERT_NEAR(values[m], sum, 12 * 0x1p-24 * size);
      } else {
        ASSERT_EQ(values[m], before[m]);
      }
    }
    for (std::size_t m = rows; panel && m < kPanelRows; ++m) {
      for (std::size_t i = 0; i < n; ++i) {
        ASSERT_TRUE(std::isfinite(dst.get(i, m)));
        if (operation == RowOperation::panel) {
          ASSERT_EQ(dst.get(i, m), 0.0f);
        }
      }
    }
    ASSERT_TRUE(from_panel || src.gaps_intact(rows, n));
    ASSERT_TRUE(values.intact());
    if (stores) {
      ASSERT_TRUE(panel || dst.gaps_intact(rows, n));
    }
  }
};

TEST_P(SoftmaxRows, EveryTailAndRowCount) {
  for (const std::size_t n : {1u,  2u,  3u,   4u,   5u,   7u,   8u,   15u,  16u,  17u,  31u,  33u, 48u,
                              64u, 79u, 127u, 128u, 129u, 143u, 144u, 255u, 256u, 261u, 384u, 400u}) {
    for (const Place place : kPlaces)
      ASSERT_NO_FATAL_FAILURE(check(static_cast<std::size_t>(random.between(1, 8)), n, place));
  }
  for (std::size_t rows = 1; rows <= kPanelRows; ++rows)
    ASSERT_NO_FATAL_FAILURE(check(rows, 70 + rows, Place::back));
}

// Runs one row through the operation; for a panel, returns its first column.
std::vector<float> one_row(const RowSoftmaxKernel& row, const std::vector<float>& x, float value,
                           float scale = 1.0f) {
  const Matrix src(row.source, 1, x.size(), x.size(), Place::back);
  const bool panel = is_panel(row.operation);
  const Matrix dst(row.target, panel ? x.size() : 1, panel ? kPanelRows : x.size(),
                   panel ? kPanelRows : x.size(), Place::back);
  for (std::size_t i = 0; i < x.size(); ++i) src.set(0, i, x[i]);
  const RowArgs args{src.data(), 0, dst.data(), 0, 1, static_cast<std::int64_t>(x.size()), &value, scale};
  row.run(&args);
  std::vector<float> y;
  for (std::size_t i = 0; i < x.size(); ++i) y.push_back(panel ? dst.get(i, 0) : dst.get(0, i));
  return y;
}

// Every 997th float of [-140, -2^-30], in long rows (the unrolled loop).
TEST_P(SoftmaxRows, ExponentialOverItsWholeRange) {
  if (!is_exp2(operation) || row.source != RowType::f32 || row.target != RowType::f32) return;
  double worst = 0;
  float witness = 0;
  constexpr std::uint32_t kStep = 997;
  const auto last = std::bit_cast<std::uint32_t>(140.0f);
  for (auto at = std::bit_cast<std::uint32_t>(0x1p-30f); at < last;) {
    std::vector<float> x;
    for (int i = 0; i < 4096; ++i, at += kStep) x.push_back(-std::bit_cast<float>(std::min(at, last)));
    const std::vector<float> y = one_row(row, x, 0.0f);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double want = std::exp2(static_cast<double>(x[i]));
      if (x[i] < -126.0f) {
        // Compared as bits, because subnormals compare equal to 0 in the kernels' state.
        ASSERT_LE(std::bit_cast<std::uint32_t>(y[i]), is_fast(operation) ? 0x00810000u : 0u) << x[i];
        continue;
      }
      const double error = std::abs(y[i] - want) / want;
      if (!(error <= worst)) worst = error, witness = x[i];
    }
  }
  std::printf("%s: worst relative error %.3e at x = %a\n", row.name, worst, static_cast<double>(witness));
  EXPECT_LE(worst, is_fast(operation) ? 5.5e-3 : 1.3e-7) << "witness " << std::hexfloat << witness;
}

TEST_P(SoftmaxRows, ExponentialOfWholeNumbersIsExactAndTheRestIsAModelBitForBit) {
  if (!is_exp2(operation) || row.target != RowType::f32 || row.isa != kernels::Isa::sve512) return;
  std::vector<float> x;
  const float scale = row.source == RowType::i32 ? 0x1.3p-9f : 0.127f, value = 21.0f;
  for (int i = 0; i < 1000; ++i) x.push_back(score(value, scale));
  const std::vector<float> y = one_row(row, x, value, scale);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float c = kernels::kFexpaShift - value, s = std::max(x[i], (value - 127.0f) * (1.0f / scale));
    const float z = std::fma(s, scale, c), root = fexpa_model(z);
    const float r = std::fma(s, scale, -(z - c));
    const float p = std::fma(r, kernels::kFexpaPoly[1], kernels::kFexpaPoly[0]) * r;
    const float want = is_fast(operation) ? root : std::fma(root, p, root);
    ASSERT_TRUE(same_value(y[i], want)) << x[i] << " gives " << y[i] << ", model " << want;
  }
  if (row.source == RowType::i32) return;
  x.clear();
  for (int n = 0; n <= 126; ++n) x.push_back(static_cast<float>(value - static_cast<float>(n)));
  const std::vector<float> exact = one_row(row, x, value);
  for (int n = 0; n <= 126; ++n) EXPECT_EQ(exact[static_cast<std::size_t>(n)], std::ldexp(1.0f, -n));
}

TEST_P(SoftmaxRows, ScoresThatAreNotFiniteAndValuesThatAreHuge) {
  if (!is_exp2(operation) || row.source != RowType::f32) return;
  std::vector<float> x(200, -3.0f);
  x[5] = x[150] = -kInf;
  x[190] = -kInf;
  if (!is_fast(operation)) x[7] = x[195] = kNan;
  std::vector<float> y = one_row(row, x, 0.0f);
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (std::isnan(x[i])) {
      EXPECT_TRUE(std::isnan(y[i])) << row.name << " " << i;
    } else {
      EXPECT_EQ(y[i], std::isinf(x[i]) ? 0.0f : 0.125f) << row.name << " " << i;
    }
  }
  // A row's value from max with a NaN among the scores, and +inf.
  for (const float value : {kNan, kInf}) {
    if (std::isinf(value)) x[9] = kInf;
    y = one_row(row, x, value);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const bool nan = is_fast(operation) || std::isnan(value) || std::isnan(x[i]) || x[i] == kInf;
      if (nan) {
        EXPECT_TRUE(std::isnan(y[i])) << row.name << " value " << value << " at " << i;
      } else {
        EXPECT_EQ(y[i], 0.0f) << row.name << " value " << value << " at " << i;
      }
    }
  }
  for (const float value : {32768.0f, 32769.0f, 1e6f, 16777216.0f, 1e9f, 3e38f, -32768.0f, -1e9f}) {
    const float step = std::nextafter(value, kInf) - value;
    std::vector<float> scores = {value, value - step, value - 2 * step, value - 70 * step, -3e38f, -kInf};
    y = one_row(row, scores, value);
    for (std::size_t i = 0; i < scores.size(); ++i) {
      const double want = std::exp2(static_cast<double>(scores[i]) - value);
      EXPECT_NEAR(y[i], want, bound(want)) << row.name << " value " << value << " score " << scores[i];
    }
  }
}

TEST_P(SoftmaxRows, MaximumLetsNanThroughAndTheSumHasOneOrder) {
  if (operation == RowOperation::max) {
    for (const std::size_t at : {0u, 17u, 127u, 128u, 199u}) {
      std::vector<float> x(200, 1.0f);
      x[at] = kNan;
      float value = -kInf;
      const RowArgs args{x.data(), 0, nullptr, 0, 1, 200, &value, 0.0f};
      row.run(&args);
      EXPECT_TRUE(std::isnan(value)) << row.name << " " << at;
    }
  } else if (operation == RowOperation::sum || operation == RowOperation::panel_sum) {
    const RowSoftmaxKernel& reference =
        *kernels::find_rows(kernels::Isa::reference, operation, row.source, row.target);
    for (const std::int64_t n : {1, 15, 16, 17, 100, 127, 128, 129, 300, 1000}) {
      std::vector<float> x(kPanelRows * static_cast<std::size_t>(n));
      for (float& v : x) v = random.normal() * (random.one_in(10) ? 1e6f : 1.0f);
      std::vector<float> got(5, 0.25f), want = got;
      const RowArgs args{x.data(), n * 4, nullptr, 0, 5, n, got.data(), 0.0f},
          same{x.data(), n * 4, nullptr, 0, 5, n, want.data(), 0.0f};
      row.run(&args);
      reference.run(&same);
      EXPECT_EQ(got, want) << row.name << " n " << n;
    }
    // Elements `apart` from each other belong to one sum; the 1 between them does not.
    const std::size_t apart = operation == RowOperation::sum ? 128 : 16,
                      step = operation == RowOperation::sum ? 1 : kPanelRows;
    std::vector<float> x((apart + 1) * step, 0.0f);
    x[0] = 1e8f, x[apart / 2 * step] = 1.0f, x[apart * step] = -1e8f;
    float value = 0.25f;
    const RowArgs args{x.data(), 0, nullptr, 0, 1, static_cast<std::int64_t>(apart) + 1, &value, 0.0f};
    row.run(&args);
    EXPECT_EQ(value, 1.25f) << row.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, SoftmaxRows, ::testing::ValuesIn(host_rows(kernels::row_softmax_kernels())),
                         RowName());

}  // namespace
}  // namespace kumiko::test
