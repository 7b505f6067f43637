// SPDX-License-Identifier: Apache-2.0
// Every append row against the order of arithmetic that append.h states, bit for bit.
#include "kernels/append/append.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "kernels/float_state.h"
#include "tests/kernels/elements.h"
#include "tests/support/bochs.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

using kernels::AppendArgs;
using kernels::AppendKernel;
using kernels::RotaryPairs;

struct Append : ::testing::TestWithParam<AppendKernel> {
  const AppendKernel& row = GetParam();
  Random random{test_seed(58)};
  kernels::FloatState state{};  // subnormals are kept on every ISA

  /// What is fetched changes nothing: rows of any width, to the end of memory.
  std::vector<kernels::RowRange> some_ranges(const ElementOperand& rows) {
    const auto* from = static_cast<const char*>(rows.data());
    const auto bytes = static_cast<std::int64_t>(rows.size());
    std::vector<kernels::RowRange> ranges;
    for (std::int64_t i = random.between(0, 3); i > 0; --i)
      ranges.push_back({from, random.between(0, 200), random.between(1, bytes), random.between(1, 40), 0});
    ranges.push_back({from, 0, bytes, kernels::kNoEnd, 0});
    return ranges;
  }
  float value() {
    if (!random.one_in(6)) return random.normal();
    return random.pick({1.00390625f, 1.01171875f, 65519.9f, 65520.0f, 1e30f, 3e-8f, 6e-5f, 1e-40f, -0.0f,
                        std::bit_cast<float>(0xffc00000u), std::bit_cast<float>(0x7fd2a001u),
                        std::numeric_limits<float>::infinity()});
  }
};

/// Rows [rows, dim] as the contract computes them, before they are rounded.
std::vector<float> expected(const AppendArgs& args, const ElementOperand& in) {
  std::vector<float> all;
  for (std::int64_t r = 0; r < args.rows; ++r) {
    std::vector<float> x;
    for (std::int64_t d = 0; d < args.dim; ++d) x.push_back(in.get(sz(r * args.in_stride + d)));
    if (args.weight) {
      float sum[16] = {};
      for (std::size_t d = 0; d < x.size(); ++d) sum[d % 16] = std::fma(x[d], x[d], sum[d % 16]);
      const auto add = [&](int width) {
        for (int i = 0; i < width; ++i) sum[i] = sum[i] + sum[i + width];
      };
      add(8), add(4), add(2), add(1);
      const float inverse = 1.0f / std::sqrt(sum[0] / static_cast<float>(args.dim) + args.eps);
      for (std::size_t d = 0; d < x.size(); ++d) x[d] = (x[d] * inverse) * args.weight[d];
    }
    const std::size_t half = sz(args.rotary_dim / 2);
    for (std::size_t i = 0; args.pairs != RotaryPairs::none && i < half; ++i) {
      const bool halves = args.pairs == RotaryPairs::halves;
      float &a = x[halves ? i : 2 * i], &b = x[halves ? i + half : 2 * i + 1];
      const float cos = args.cos[halves ? i : 2 * i], sin = args.sin[halves ? i : 2 * i + 1];
      const float rotated = a * cos - b * sin;
      b = b * cos + a * sin;
      a = rotated;
    }
    all.insert(all.end(), x.begin(), x.end());
  }
  return all;
}

TEST_P(Append, EqualsTheOrderOfArithmeticForEveryTailPlaceAndPair) {
  for (const std::int64_t dim :
       {1, 2, 7, 8, 15, 16, 17, 24, 30, 33, 40, 47, 72, 80, 96, 112, 128, 255, 256, 576}) {
    for (const RotaryPairs pairs : {RotaryPairs::none, RotaryPairs::halves, RotaryPairs::adjacent}) {
      if (pairs != RotaryPairs::none && dim < 2) continue;
      for (int repeat = 0; repeat < thinned(6, 6, 2); ++repeat) {
        const Place place = random.pick({Place::front, Place::back, Place::misaligned});
        AppendArgs args{};
        args.rows = random.between(1, 3), args.dim = dim;
        args.in_stride = dim + random.between(0, 3);
        args.out_stride = dim + random.pick({std::int64_t{0}, random.between(1, 3), std::int64_t{64}});
        args.ahead = random.pick({0, 64, 4096}), args.past_caches = random.one_in(2);
        args.pairs = pairs;
        args.rotary_dim = pairs == RotaryPairs::none ? 0
                          : random.one_in(2)         ? dim / 2 * 2
                                                     : 2 * random.between(1, dim / 2);
        const bool norm = random.one_in(2);
        SCOPED_TRACE(::testing::Message() << row.name << " dim " << dim << " rotary " << args.rotary_dim
                                          << " pairs " << static_cast<int>(pairs) << " norm " << norm);
        const ElementOperand in(row.from, sz((args.rows - 1) * args.in_stride + dim), place);
        const ElementOperand out(row.to, sz((args.rows - 1) * args.out_stride + dim), place);
        const float unit = random.one_in(4) ? 1e-39f : 1.0f;  // sums of products that are subnormal, too
        for (std::size_t i = 0; i < in.size(); ++i)
          in.set(i, unit * (random.one_in(8) ? value() : random.normal()));
        Operand<float> weight(sz(dim), place);
        for (float& w : weight.span()) w = random.normal();
        const bool twice = pairs == RotaryPairs::adjacent;
        const std::int64_t factors = twice ? args.rotary_dim : args.rotary_dim / 2;
        Operand<float> cos(sz(factors), place), sin(sz(factors), place);
        for (std::size_t i = 0; i < cos.size(); ++i) {
          const bool second = twice && i % 2 == 1;
          cos[i] = second ? cos[i - 1] : random.normal();
          sin[i] = second ? -sin[i - 1] : random.normal();
        }
        args.in = in.data(), args.out = out.data();
        args.weight = norm ? weight.data() : nullptr;
        args.eps = random.pick({0.0f, 1e-6f, 0.1f});
        args.cos = cos.data(), args.sin = sin.data();
        const std::vector<float> want = expected(args, in);
        const bool copied = row.from == row.to && !norm && pairs == RotaryPairs::none;
        for (std::size_t i = 0; i < out.size(); ++i) out.set(i, -77.0f);
        // Exactly as long as the contract says: a sanitizer sees who reads past the last range.
        const std::vector<kernels::RowRange> reads = some_ranges(in), writes = some_ranges(out);
        if (random.one_in(2)) {
          args.reads = {reads.data(), &reads.back()};
          args.writes = {writes.data(), &writes.back()};
        }
        row.rows(args);
        for (std::int64_t i = 0; i < static_cast<std::int64_t>(out.size()); ++i) {
          const std::int64_t r = i / args.out_stride, d = i % args.out_stride;
          float got = out.get(sz(i)), exact = d < dim ? want[sz(r * dim + d)] : -77.0f;
          float stored = rounded(row.to, exact);
          if (row.to == kernels::Element::f16) allow_bochs_ties({&got, 1}, {&exact, 1}, {&stored, 1});
          if (std::isnan(exact) && !copied) stored = std::bit_cast<float>(0x7fc00000u);
          ASSERT_EQ(std::bit_cast<std::uint32_t>(got), std::bit_cast<std::uint32_t>(stored))
              << "row " << r << ", element " << d << ": " << got << ", want " << stored;
        }
        ASSERT_TRUE(in.intact() && out.intact() && weight.intact() && cos.intact() && sin.intact());
      }
    }
  }
}

using AppendInPlace = Append;

TEST_P(AppendInPlace, GivesTheSameBits) {
  for (const RotaryPairs pairs : {RotaryPairs::none, RotaryPairs::halves, RotaryPairs::adjacent}) {
    for (const std::int64_t dim : {40, 72, 128}) {
      const ElementOperand in(row.from, sz(2 * dim), Place::back), out(row.to, sz(2 * dim), Place::back);
      for (std::size_t i = 0; i < in.size(); ++i) in.set(i, random.normal());
      std::vector<float> factors(sz(dim), 0.6f), weight(sz(dim), 1.25f);
      AppendArgs args{in.data(), dim,     out.data(),     dim,           2, dim, weight.data(), 1e-6f,
                      pairs,     dim - 8, factors.data(), factors.data()};
      row.rows(args);
      args.out = in.data();
      row.rows(args);
      for (std::size_t i = 0; i < in.size(); ++i)
        ASSERT_EQ(std::bit_cast<std::uint32_t>(in.get(i)), std::bit_cast<std::uint32_t>(out.get(i))) << i;
    }
  }
}

std::vector<AppendKernel> rows_of_one_type() {
  std::vector<AppendKernel> rows = host_rows(kernels::append_kernels());
  std::erase_if(rows, [](const AppendKernel& row) { return row.from != row.to; });
  return rows;
}

INSTANTIATE_TEST_SUITE_P(Rows, AppendInPlace, ::testing::ValuesIn(rows_of_one_type()), RowName());
INSTANTIATE_TEST_SUITE_P(Rows, Append, ::testing::ValuesIn(host_rows(kernels::append_kernels())), RowName());

}  // namespace
}  // namespace kumiko::test
