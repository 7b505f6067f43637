// SPDX-License-Identifier: Apache-2.0
// quantize_rows against its definition, bit for bit, and its checks.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "tests/runtime/contexts.h"
#include "tests/runtime/int8_case.h"
#include "tests/support/bits.h"
#include "tests/support/numbers.h"

namespace kumiko::test {
namespace {

struct Quantized {
  std::vector<std::int8_t> rows;
  std::vector<float> scales;
};

Quantized model(const GuardedTensor& x) {
  Quantized made;
  const std::vector<float> all = x.elements();
  const auto dim = static_cast<std::size_t>(x.shape()[3]);
  for (std::size_t row = 0; row < all.size(); row += dim) {
    float most = 0;
    bool is_finite = true;
    for (std::size_t d = 0; d < dim; ++d) {
      is_finite = is_finite && std::isfinite(all[row + d]);
      most = std::max(most, std::abs(all[row + d]));
    }
    const bool is_zero = !is_finite || most < 0x1p-118f;
    made.scales.push_back(!is_finite ? std::bit_cast<float>(0x7fc00000u) : is_zero ? 0.0f : most / 127.0f);
    const float inverse = 127.0f / most;
    for (std::size_t d = 0; d < dim; ++d)
      made.rows.push_back(is_zero ? std::int8_t{0}
                                  : static_cast<std::int8_t>(std::nearbyint(all[row + d] * inverse)));
  }
  return made;
}

struct QuantizeRows : ::testing::Test {
  Context context = context_of("", "openmp");
  Random random{test_seed(882)};

  void check(const GuardedTensor& wide, const ConstTensor& x, Layout layout) {
    const auto [b, h, s, d] = wide.shape();
    const Quantized want = model(wide);
    const GuardedTensor out(wide.shape(), layout, Flush::back);  // Four times the memory that is written.
    const GuardedLse scale(b, h, s, GuardedLse::Layout::padded, Flush::back);
    Tensor bytes = out.output();
    bytes.dtype = DataType::i8;
    const Status status = quantize_rows(context, x, bytes, scale.view());
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_TRUE(same_bits(scale.elements(), want.scales));
    ASSERT_TRUE(scale.gaps_untouched());
    auto* const got = static_cast<std::int8_t*>(bytes.data);
    std::size_t n = 0;
    for (std::int64_t i = 0; i < b; ++i)
      for (std::int64_t j = 0; j < h; ++j)
        for (std::int64_t k = 0; k < s; ++k)
          for (std::int64_t m = 0; m < d; ++m, ++n) {
            const std::size_t at = sz(i * bytes.stride[0] + j * bytes.stride[1] + k * bytes.stride[2] + m);
            ASSERT_EQ(got[at], want.rows[n]) << n;
            std::memcpy(got + at, reinterpret_cast<const char*>(&kPoisonBits) + at % 4, 1);
          }
    ASSERT_TRUE(out.all_untouched()) << "written beside the rows";
  }
};

TEST_F(QuantizeRows, EqualsItsDefinition) {
  for (const std::int64_t dim : {1, 3, 8, 64, 100, 576}) {
    for (const Layout layout : {Layout::bhsd, Layout::padded_bshd}) {
      const GuardedTensor x({2, 3, 70, dim}, layout, Flush::back);
      x.fill_normal(random, random.pick({1.0f, 1e-30f, 1e30f}));
      x.at(0, 1, 2, 0) = std::numeric_limits<float>::infinity();
      x.at(1, 1, 3, dim - 1) = std::numeric_limits<float>::quiet_NaN();
      for (std::int64_t d = 0; d < dim; ++d) {
        x.at(0, 0, 5, d) = 0.0f;
        x.at(0, 0, 6, d) = -0x1p-119f;
        x.at(0, 0, 7, d) = 0x1p-118f;
        x.at(0, 0, 8, d) = d % 2 ? -127.0f : static_cast<float>(d % 120) + 0.5f;  // Ties.
        x.at(0, 0, 9, d) = std::numeric_limits<float>::max();
      }
      ASSERT_NO_FATAL_FAILURE(check(x, x.input(), layout));
    }
  }
}

TEST_F(QuantizeRows, OfSixteenBits) {
  for (const DataType type : {DataType::bf16, DataType::f16}) {
    const GuardedTensor x({1, 2, 300, 40}, Layout::padded, Flush::back);
    x.fill_normal(random);
    x.at(0, 0, 3, 39) = std::numeric_limits<float>::infinity();
    x.at(0, 1, 0, 0) = std::numeric_limits<float>::quiet_NaN();
    for (std::int64_t d = 0; d < 40; ++d) x.at(0, 1, 299, d) = type == DataType::f16 ? 0x1p-24f : 0x1p-119f;
    x.round_to(type);
    const NarrowTensor narrow(x, type, Flush::back);
    narrow.copy(x);
    ASSERT_NO_FATAL_FAILURE(check(x, narrow.input(), Layout::bshd));
  }
}

// What the rounding costs, beside the bound of docs/numerics.md: half a step an element.
TEST_F(QuantizeRows, IsWithinHalfAStep) {
  const GuardedTensor x({1, 1, 64, 128}, Layout::bhsd, Flush::back);
  x.fill_normal(random);
  std::vector<std::int8_t> rows(64 * 128);
  std::vector<float> scales(64);
  ASSERT_TRUE(quantize_rows(context, x.input(), {rows.data(), x.shape(), x.stride(), DataType::i8},
                            {scales.data(), {}})
                  .ok());
  for (std::int64_t i = 0; i < 64; ++i) {
    const double scale = scales[static_cast<std::size_t>(i)];
    for (std::int64_t d = 0; d < 128; ++d)
      ASSERT_LE(std::abs(x.at(0, 0, i, d) - scale * rows[static_cast<std::size_t>(i * 128 + d)]),
                0.50001 * scale);
  }
}

TEST_F(QuantizeRows, RefusesWhatItCannotDo) {
  const GuardedTensor x({1, 2, 3, 4}, Layout::bhsd, Flush::back);
  std::vector<std::int8_t> rows(24, 5);
  std::vector<float> scales(6, 5.0f);
  const ConstTensor in = x.input();
  const Tensor out{rows.data(), in.shape, in.stride, DataType::i8};
  const auto message = [&](const ConstTensor& from, const Tensor& to, const LseView& scale) {
    const Status status = quantize_rows(context, from, to, scale);
    EXPECT_EQ(status.code(), Code::invalid_argument);
    return status.message();
  };
  Tensor changed = out;
  changed.dtype = DataType::f32;
  EXPECT_EQ(message(in, changed, {scales.data()}), "out.dtype is f32; expected i8");
  changed = out;
  changed.shape[2] = 4;
  EXPECT_EQ(message(in, changed, {scales.data()}), "out.shape[2] (seq) is 4; expected 3, as in x.shape");
  EXPECT_EQ(message(in, out, {}), "scale.data is null; expected a tensor");
  EXPECT_NE(message(in, out, {scales.data(), {6, 0, 1}}).find("scale.stride[1]"), std::string::npos);
  changed = out;
  changed.stride[2] = 0;
  EXPECT_NE(message(in, changed, {scales.data()}).find("out.stride[2]"), std::string::npos);
  ConstTensor bytes = in;
  bytes.dtype = DataType::i8;
  EXPECT_EQ(message(bytes, out, {scales.data()}), "x.dtype is i8; expected f32, bf16 or f16");
  changed = out;
  changed.data = x.data();
  EXPECT_NE(message(in, changed, {scales.data()}).find("expected memory apart from x"), std::string::npos);
  EXPECT_NE(message(in, out, {x.data()}).find("expected memory apart from x"), std::string::npos);
  std::vector<float> both(6);
  changed.data = both.data();
  EXPECT_NE(message(in, changed, {both.data()}).find("expected memory apart from out"), std::string::npos);
  EXPECT_EQ(rows, std::vector<std::int8_t>(24, 5));
  EXPECT_EQ(scales, std::vector<float>(6, 5.0f));
  EXPECT_NE(quantize_rows(Context(), in, out, {scales.data()}).message().find("context is empty"),
            std::string::npos);
  const ConstTensor none{nullptr, {0, 2, 3, 4}, in.stride};
  EXPECT_TRUE(quantize_rows(context, none, {nullptr, none.shape, none.stride, DataType::i8}, {}).ok());
}

}  // namespace
}  // namespace kumiko::test
