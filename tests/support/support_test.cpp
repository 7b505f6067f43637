// SPDX-License-Identifier: Apache-2.0
// Tests of the test tools: each must detect the fault it is made for.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <set>

#include "tests/support/alloc_counter.h"
#include "tests/support/bits.h"
#include "tests/support/bochs.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/host.h"
#include "tests/support/numbers.h"
#include "tests/support/random.h"
#include "tests/support/tensor.h"

namespace kumiko::test {
namespace {

void poke(volatile std::byte* p) {
  *p = std::byte{1};
}

TEST(GuardedBuffer, WritingPastEitherEndDies) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  GuardedBuffer front(12, Flush::front), back(12, Flush::back);
  EXPECT_DEATH(poke(front.data() - 1), "");
  EXPECT_DEATH(poke(back.data() + 12), "");
  poke(front.data());
  poke(back.data() + 11);
  EXPECT_TRUE(front.slack_untouched());
  EXPECT_TRUE(back.slack_untouched());
}

TEST(GuardedBuffer, SlackShowsWrites) {
  GuardedBuffer front(12, Flush::front), back(12, Flush::back);
  poke(front.data() + 12);
  poke(back.data() - 1);
  EXPECT_FALSE(front.slack_untouched());
  EXPECT_FALSE(back.slack_untouched());
}

TEST(GuardedTensor, EveryElementHasItsOwnPlaceAndGapsAreSeen) {
  const Shape shape{2, 3, 4, 5};
  for (const Layout layout :
       {Layout::bhsd, Layout::bshd, Layout::sbhd, Layout::padded, Layout::padded_bshd}) {
    GuardedTensor t(shape, layout, Flush::back);
    EXPECT_TRUE(t.all_untouched());
    std::set<float*> places;
    for (int b = 0; b < 2; ++b)
      for (int h = 0; h < 3; ++h)
        for (int s = 0; s < 4; ++s)
          for (int d = 0; d < 5; ++d) places.insert(&t.at(b, h, s, d));
    EXPECT_EQ(places.size(), 120u) << to_string(layout);
    EXPECT_EQ(*places.begin(), t.data());
    EXPECT_EQ(*places.rbegin(), t.data() + t.span() - 1);
    t.fill(1.0f);
    EXPECT_TRUE(t.gaps_untouched()) << to_string(layout);
    EXPECT_FALSE(t.all_untouched());
    if (layout == Layout::padded || layout == Layout::padded_bshd) {
      (&t.at(0, 0, 0, 4))[1] = 0.0f;
      EXPECT_FALSE(t.gaps_untouched()) << to_string(layout);
    }
  }
}

TEST(GuardedTensor, ExpandedLayoutsShareMemory) {
  const Shape shape{2, 3, 4, 5};
  EXPECT_EQ(GuardedTensor(shape, Layout::expanded_heads, Flush::front).span(), 40u);
  EXPECT_EQ(GuardedTensor(shape, Layout::expanded_batch, Flush::front).span(), 60u);
  EXPECT_EQ(GuardedTensor(shape, Layout::expanded_seq, Flush::front).span(), 30u);
}

TEST(Bits, DistanceCountsRepresentableValues) {
  EXPECT_EQ(ulp_distance(0.0f, -0.0f), 0);
  EXPECT_EQ(ulp_distance(1.0f, std::nextafter(1.0f, 2.0f)), 1);
  const float tiny = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(ulp_distance(-tiny, tiny), 2);
}

TEST(Bits, RoundedOnceIsToTheNearestOfTheType) {
  const float exact[] = {1.00390625f, -3.0f}, right[] = {1.0f, -3.0f}, other[] = {1.0078125f, -3.0f};
  EXPECT_TRUE(are_rounded_once(right, exact, DataType::bf16));
  EXPECT_FALSE(are_rounded_once(other, exact, DataType::bf16));
  EXPECT_TRUE(are_rounded_once(exact, exact, DataType::f16));
  EXPECT_FALSE(are_rounded_once(std::span(right).first(1), exact, DataType::bf16));
}

TEST(Bits, SignOfZeroAndPayloadOfNanCount) {
  const float a[] = {0.0f, poison()}, b[] = {-0.0f, poison()},
              c[] = {0.0f, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_TRUE(same_bits(a, a));
  EXPECT_FALSE(same_bits(a, b));
  EXPECT_FALSE(same_bits(a, c));
}

TEST(Numbers, ANanIsTheWorstErrorAndStaysIt) {
  EXPECT_TRUE(is_worse(2, 1));
  EXPECT_FALSE(is_worse(1, 1));
  EXPECT_TRUE(is_worse(kNan, 1));
  EXPECT_FALSE(is_worse(1, kNan));
  EXPECT_FALSE(is_worse(kNan, kNan));
}

TEST(AllocationCount, SeesNewAndOnlyWhileAlive) {
  std::int64_t calls = 0;
  {
    AllocationCount count;
    auto p = std::make_unique<std::array<int, 100>>();
    *const_cast<volatile int*>(p->data()) = 1;
    calls = count.calls();
  }
  EXPECT_GE(calls, 1);
  AllocationCount idle;
  EXPECT_EQ(idle.calls(), 0);
}

TEST(Random, SameSeedSameValuesAndRangeEndsAreReached) {
  Random a(7), b(7);
  std::set<std::int64_t> seen;
  for (int i = 0; i < 200; ++i) {
    const std::int64_t x = a.between(-2, 3);
    EXPECT_EQ(x, b.between(-2, 3));
    seen.insert(x);
  }
  EXPECT_EQ(seen, (std::set<std::int64_t>{-2, -1, 0, 1, 2, 3}));
}

TEST(Bochs, OnlyATieGoneAwayFromZeroIsOne) {
  // Above 16384 the f16 numbers are 16 apart: 19656 is midway, and 19648 is even.
  EXPECT_TRUE(is_f16_tie_gone_away(19664.0f, 19656.0f));
  EXPECT_TRUE(is_f16_tie_gone_away(-19664.0f, -19656.0f));
  EXPECT_TRUE(is_f16_tie_gone_away(0x1p-24f, 0x1p-25f)) << "subnormal";
  EXPECT_FALSE(is_f16_tie_gone_away(19648.0f, 19656.0f)) << "the even one";
  EXPECT_FALSE(is_f16_tie_gone_away(19632.0f, 19640.0f)) << "toward zero, not even";
  EXPECT_FALSE(is_f16_tie_gone_away(19664.0f, 19655.998f)) << "no tie";
  EXPECT_FALSE(is_f16_tie_gone_away(19680.0f, 19656.0f)) << "two steps away";
  EXPECT_FALSE(is_f16_tie_gone_away(-19664.0f, 19656.0f));
  EXPECT_FALSE(is_f16_tie_gone_away(std::numeric_limits<float>::infinity(), 65504.0f));
  EXPECT_FALSE(is_f16_tie_gone_away(poison(), poison()));
}

TEST(Bochs, ItsTiesAreWrongOnAProcessor) {
  const float got = 19664.0f, exact = 19656.0f;
  float want = 19648.0f;
  allow_bochs_ties({&got, 1}, {&exact, 1}, {&want, 1});
  EXPECT_EQ(want, on_bochs() ? got : 19648.0f);
}

TEST(Host, ListsReferenceLastAndAtLeastOneCpu) {
  EXPECT_EQ(host_isas().back(), "reference");
  EXPECT_GE(allowed_cpus(), 1);
}

}  // namespace
}  // namespace kumiko::test
