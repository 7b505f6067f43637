// SPDX-License-Identifier: Apache-2.0
// Every softmax row: against the reference row bit for bit, and the reference row against double.
#include "kernels/softmax/softmax.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/exp2_model.h"
#include "tests/kernels/rows.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

using kernels::MaskArgs;
using kernels::SoftmaxArgs;
using kernels::SoftmaxKernel;

struct Softmax : RowTest<SoftmaxKernel> {};

TEST_P(Softmax, MaskHidesExactlyWhatIsOutsideTheInterval) {
  Random random(test_seed(31));
  for (std::size_t vectors = 1; vectors <= 3; ++vectors) {
    for (const std::size_t kv : {1u, 2u, 7u, 8u, 33u}) {
      for (const Place place : kPlaces) {
        const std::size_t nr = vectors * static_cast<std::size_t>(row.lanes);
        const auto first = static_cast<std::int32_t>(random.between(0, 2000000000));
        Operand<float> s(kv * nr, place), block_max(nr, place);
        Operand<std::int32_t> begin(nr, place), end(nr, place);
        for (float& x : s.span()) x = random.one_in(20) ? kNan : random.one_in(20) ? -kInf : random.normal();
        const auto last = static_cast<std::int64_t>(first) + static_cast<std::int64_t>(kv);
        for (std::size_t n = 0; n < nr; ++n) {
          block_max[n] = random.pick({-kInf, 0.5f});
          begin[n] = static_cast<std::int32_t>(random.between(first - 3, last));
          end[n] =
              random.one_in(4) ? begin[n] : static_cast<std::int32_t>(random.between(begin[n] - 2, last + 3));
        }
        std::vector<float> want(s.span().begin(), s.span().end()),
            want_max(block_max.span().begin(), block_max.span().end());
        for (std::size_t j = 0; j < kv; ++j) {
          for (std::size_t n = 0; n < nr; ++n) {
            const std::int64_t at = first + static_cast<std::int64_t>(j);
            if (at < begin[n] || at >= end[n]) want[j * nr + n] = -kInf;
            if (want[j * nr + n] > want_max[n]) want_max[n] = want[j * nr + n];
          }
        }
        row.mask_scores({s.data(), static_cast<std::int64_t>(kv), static_cast<std::int64_t>(nr), first,
                         begin.data(), end.data(), block_max.data()});
        for (std::size_t i = 0; i < want.size(); ++i)
          ASSERT_TRUE(same_value(s[i], want[i])) << row.name << " kv " << kv << " at " << i;
        for (std::size_t n = 0; n < nr; ++n)
          ASSERT_EQ(block_max[n], want_max[n]) << row.name << " kv " << kv << " query " << n;
        ASSERT_TRUE(s.intact() && block_max.intact() && begin.intact() && end.intact());
      }
    }
  }
}

// One tile and the state of its queries.
struct Tile {
  std::size_t kv, nr;
  Operand<float> s, block_max, m, l, alpha;
  Tile(std::size_t kv_, std::size_t nr_, Place place)
      : kv(kv_),
        nr(nr_),
        s(kv_ * nr_, place),
        block_max(nr_, place),
        m(nr_, place),
        l(nr_, place),
        alpha(nr_, place) {}
  SoftmaxArgs args() const {
    return {s.data(),
            static_cast<std::int64_t>(kv),
            static_cast<std::int64_t>(nr),
            block_max.data(),
            m.data(),
            l.data(),
            alpha.data()};
  }
  // Query n is of kind `n % 8`: ordinary, first block, no key seen so far, maximum unchanged, maximum far
  // higher, all -inf, NaN, +inf.
  void fill(Random& random) const {
    for (std::size_t n = 0; n < nr; ++n) {
      const std::size_t part = n % 8;
      m[n] = part == 1 || part == 2 || part == 5 ? -kInf : part == 3 ? 1000.0f : 4 * random.normal();
      l[n] = m[n] == -kInf ? 0.0f : 1.0f + std::abs(random.normal());
      alpha[n] = kNan;
      float top = -kInf;
      for (std::size_t j = 0; j < kv; ++j) {
        float& x = s[j * nr + n];
        x = 8 * random.normal() + (part == 4 ? 300.0f : 0.0f);
        if (part == 2 || part == 5 || random.one_in(8)) x = -kInf;
        if (part == 6 && j == kv / 2) x = kNan;
        if (part == 7 && j == kv - 1) x = kInf;
        if (x > top) top = x;
      }
      block_max[n] = top;
    }
  }
  void copy(const Tile& other) const {
    const auto copy_one = [](const Operand<float>& to, const Operand<float>& from) {
      for (std::size_t i = 0; i < to.size(); ++i) to[i] = from[i];
    };
    copy_one(s, other.s), copy_one(block_max, other.block_max), copy_one(m, other.m), copy_one(l, other.l),
        copy_one(alpha, other.alpha);
  }
};

// The order of arithmetic of softmax.h, written out.
void model(kernels::Isa isa, const SoftmaxArgs& args) {
  for (std::int64_t n = 0; n < args.nr; ++n) {
    const float m = args.block_max[n] > args.m[n] ? args.block_max[n] : args.m[n];
    const float shift = m == -kInf ? 0.0f : m;
    args.alpha[n] = exp2_model(isa, args.m[n] - shift);
    args.m[n] = m;
    args.l[n] *= args.alpha[n];
    for (std::int64_t j = 0; j < args.kv; ++j) {
      float& s = args.s[j * args.nr + n];
      s = exp2_model(isa, s - shift);
      args.l[n] += s;
    }
  }
}

TEST_P(Softmax, ProbabilitiesFollowTheStatedOrderBitForBit) {
  Random random(test_seed(32));
  for (std::size_t vectors = 1; vectors <= 3; ++vectors) {
    for (const std::size_t kv : {1u, 2u, 3u, 8u, 64u, 129u}) {
      for (const Place place : kPlaces) {
        Tile tile(kv, vectors * static_cast<std::size_t>(row.lanes), place),
            want(tile.kv, tile.nr, Place::front);
        tile.fill(random);
        want.copy(tile);
        row.probabilities(tile.args());
        model(row.isa, want.args());
        for (std::size_t i = 0; i < tile.s.size(); ++i)
          ASSERT_TRUE(same_value(tile.s[i], want.s[i]))
              << row.name << " kv " << kv << " P[" << i << "] " << tile.s[i] << ", " << want.s[i];
        for (std::size_t n = 0; n < tile.nr; ++n) {
          ASSERT_TRUE(same_value(tile.m[n], want.m[n]))
              << row.name << " m[" << n << "] " << tile.m[n] << ", " << want.m[n];
          ASSERT_TRUE(same_value(tile.l[n], want.l[n]))
              << row.name << " l[" << n << "] " << tile.l[n] << ", " << want.l[n];
          ASSERT_TRUE(same_value(tile.alpha[n], want.alpha[n])) << row.name << " alpha[" << n << "]";
        }
        ASSERT_TRUE(tile.s.intact() && tile.block_max.intact() && tile.m.intact() && tile.l.intact() &&
                    tile.alpha.intact());
      }
    }
  }
}

TEST_P(Softmax, ProbabilitiesAgreeWithDouble) {
  Random random(test_seed(33));
  Tile tile(64, static_cast<std::size_t>(row.lanes), Place::back), before(tile.kv, tile.nr, Place::front);
  tile.fill(random);
  before.copy(tile);
  row.probabilities(tile.args());
  for (std::size_t n = 0; n < tile.nr; ++n) {
    SCOPED_TRACE(::testing::Message() << row.name << " query " << n);
    const std::size_t part = n % 8;
    if (part == 6 || part == 7) {  // a NaN or +inf among the scores reaches the sum
      EXPECT_TRUE(std::isnan(tile.l[n]));
      continue;
    }
    const double m = std::max(before.m[n], before.block_max[n]), shift = std::isinf(m) ? 0.0 : m;
    double l = before.l[n] * std::exp2(before.m[n] - shift);
    for (std::size_t j = 0; j < tile.kv; ++j) {
      const double p = std::exp2(before.s[j * tile.nr + n] - shift);
      // 8 * 2^-24: the rounding of s - m' (|.| up to 300: 128 roundoffs of the exponent) dominates exp2's
      // own.
      EXPECT_NEAR(tile.s[j * tile.nr + n], p, 300 * 0x1p-24 * p + 0x1p-126) << "key " << j;
      l += p;
    }
    EXPECT_EQ(tile.m[n], static_cast<float>(m));
    EXPECT_NEAR(tile.l[n], l, 300 * 0x1p-24 * l);
    if (part == 2 || part == 5) {
      EXPECT_EQ(tile.l[n], 0.0f);
      EXPECT_EQ(tile.m[n], -kInf);
    }
    if (part == 3) {
      EXPECT_EQ(tile.alpha[n], 1.0f);
    }
    EXPECT_GE(tile.alpha[n], 0.0f);
    EXPECT_LE(tile.alpha[n], 1.0f);
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, Softmax,
                         ::testing::ValuesIn(host_rows(kernels::softmax_kernels(), kernels::Element::f32)),
                         RowName());

}  // namespace
}  // namespace kumiko::test
