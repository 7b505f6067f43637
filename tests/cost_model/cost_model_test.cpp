// SPDX-License-Identifier: Apache-2.0
// The cost model of attention over ranks: small cases whose times follow by hand.
#include <gtest/gtest.h>
#include <kumiko/cost_model.h>

#include <cmath>
#include <limits>
#include <string>

namespace kumiko::distributed {
namespace {

Work one_head(std::int64_t q_len, std::int64_t kv_len) {
  Work work;
  work.sequences = {{q_len, kv_len}};
  return work;
}

constexpr double kBlockBytes = 512 * 2 * 4;  // 512 keys of one_head(): K and V of one element

Forecast forecast_of(const Work& work, int ranks, const Rank& rank, const Link& link, Algorithm algorithm) {
  Forecast made;
  const Status status = forecast(work, ranks, rank, link, algorithm, &made);
  EXPECT_TRUE(status.ok()) << status.message();
  return made;
}

const Link kFree{.bandwidth = std::numeric_limits<double>::infinity()};

TEST(CostModel, OneRankTakesItsOwnTimeWhateverTheLink) {
  for (const Algorithm algorithm : kAlgorithms) {
    const Forecast made =
        forecast_of(one_head(64, 4096), 1, {3, 0.5}, {.latency_seconds = 9, .bandwidth = 1e-3}, algorithm);
    EXPECT_TRUE(made.is_possible);
    EXPECT_EQ(made.seconds, 3.5) << name(algorithm);
    EXPECT_EQ(made.compute_seconds, 3.5);
    EXPECT_EQ(made.link_seconds + made.latency_seconds + made.imbalance_seconds, 0);
    EXPECT_EQ(made.sent_bytes, 0);
  }
}

// Each rank computes both blocks, 2 s each. The other's block comes after 3.5 s; rank 1 must have block 0
// first.
TEST(CostModel, TwoRanksExchangeABlockEach) {
  const Link link{.latency_seconds = 0.5, .bandwidth = kBlockBytes / 3};
  for (const Algorithm algorithm : {Algorithm::ring, Algorithm::broadcast}) {
    const Forecast made = forecast_of(one_head(1024, 1024), 2, {8, 0}, link, algorithm);
    EXPECT_DOUBLE_EQ(made.seconds, 7.5) << name(algorithm);
    EXPECT_DOUBLE_EQ(made.compute_seconds, 4);
    EXPECT_DOUBLE_EQ(made.link_seconds, 3);
    EXPECT_DOUBLE_EQ(made.latency_seconds, 0.5);
    EXPECT_DOUBLE_EQ(made.imbalance_seconds, 0);
    EXPECT_EQ(made.sent_bytes, kBlockBytes);
    EXPECT_STREQ(made.bound(), "compute");
  }
}

TEST(CostModel, WhatIsNotHiddenStopsTheRank) {
  const Link link{.bandwidth = kBlockBytes / 3, .overlap = 0.5};
  // Both ranks lose 1.5 s for each of two transfers, one of them sent and one received.
  EXPECT_DOUBLE_EQ(forecast_of(one_head(1024, 1024), 2, {8, 0}, link, Algorithm::ring).seconds,
                   3 + 4 + 2 * 1.5);
}

TEST(CostModel, EachBlockStartsACall) {
  const Forecast made = forecast_of(one_head(1024, 1024), 2, {8, 0.25}, kFree, Algorithm::ring);
  EXPECT_DOUBLE_EQ(made.seconds, 4.5);
  EXPECT_DOUBLE_EQ(made.compute_seconds, 4.25) << "one call";
  EXPECT_DOUBLE_EQ(made.latency_seconds, 0.25) << "the other";
}

// The last 512 rows see blocks 2 and 3 alone; their owners, and those of 0 and 1, have 128 of these rows
// each.
TEST(CostModel, AnOwnerThatSeesNothingOfItsBlockStartsNoCall) {
  Work work = one_head(512, 2048);
  work.is_causal = true;
  work.window_left = 511;
  EXPECT_DOUBLE_EQ(forecast_of(work, 4, {0, 0.25}, kFree, Algorithm::ring).seconds, 2 * 0.25);
}

TEST(CostModel, TheGapOfMessagesIsLatency) {
  Link link = kFree;
  link.message_seconds = 3;
  Work work = one_head(2048, 2048);
  work.block_keys = 512;
  for (const Algorithm algorithm : kAlgorithms) {
    const Forecast made = forecast_of(work, 3, {1, 0}, link, algorithm);
    if (!made.is_possible) continue;
    EXPECT_GT(made.latency_seconds, 0) << name(algorithm);
    EXPECT_EQ(made.link_seconds, 0) << name(algorithm);
  }
}

// A block is 1 s of computing and 1 s of travelling. Rank 1 needs two of rank 0 before its own two.
TEST(CostModel, ABlockIsReceivedWhenABufferIsFree) {
  Work work = one_head(2048, 2048);
  work.block_keys = 512;
  const Link link{.bandwidth = kBlockBytes};
  for (const Algorithm algorithm : {Algorithm::ring, Algorithm::broadcast}) {
    work.blocks_in_flight = 2;
    EXPECT_DOUBLE_EQ(forecast_of(work, 2, {8, 0}, link, algorithm).seconds, 5);
    work.blocks_in_flight = 1;
    EXPECT_DOUBLE_EQ(forecast_of(work, 2, {8, 0}, link, algorithm).seconds, 6);
  }
}

// Both hand blocks of 1 s on whole; the tree at half the rate to two children.
TEST(CostModel, AChainAndATreeHandOnBlocks) {
  Work work = one_head(2048, 2048);
  work.is_causal = true;
  const Link link{.bandwidth = kBlockBytes};
  // Without computing: rank 3 has block 0 after three hops, then blocks 1 and 2.
  EXPECT_DOUBLE_EQ(forecast_of(work, 4, {0, 0}, link, Algorithm::ring).seconds, 5);
  // Block 0 is at ranks 1 and 2 after 2 s and at rank 3 after 3 s; then block 1 comes there at half the rate,
  // until 5 s, and block 2 at the full rate.
  EXPECT_DOUBLE_EQ(forecast_of(work, 4, {0, 0}, link, Algorithm::broadcast).seconds, 6);
}

TEST(CostModel, RanksThatSeeNothingOfABlockDoNotGetIt) {
  Work work = one_head(2048, 2048);
  work.is_causal = true;
  // Block 0 goes 0 -> 1, 2 and 1 -> 3; block 1 goes 1 -> 2, 3: rank 1 sends three.
  EXPECT_EQ(forecast_of(work, 4, {1, 0}, kFree, Algorithm::broadcast).sent_bytes, 3 * kBlockBytes);
  work.window_left = 511;  // its own rows' and the next part's
  EXPECT_EQ(forecast_of(work, 4, {1, 0}, kFree, Algorithm::broadcast).sent_bytes, kBlockBytes);
  // All rows are among the last 512: nobody sees blocks 0 and 1. Block 2 goes 2 -> 3, 0 and 3 -> 1; block 3
  // goes 3 -> 0, 1: rank 3 sends three.
  work.sequences = {{512, 2048}};
  EXPECT_EQ(forecast_of(work, 4, {1, 0}, kFree, Algorithm::broadcast).sent_bytes, 3 * kBlockBytes);
}

TEST(CostModel, CausalPartsAreUneven) {
  Work work = one_head(1024, 1024);
  work.is_causal = true;
  const double first = 512 * 513 / 2, second = 512 * 512 + first;  // visible pairs
  const Forecast made = forecast_of(work, 2, {first + second, 0}, kFree, Algorithm::ring);
  EXPECT_DOUBLE_EQ(made.seconds, second);
  EXPECT_DOUBLE_EQ(made.imbalance_seconds, (second - first) / 2);
}

// In order and with two blocks in memory, ranks advance together: the first half of the blocks costs zigzag's
// late ranks twice what it costs the early ones, the second half the reverse: 3/2. Pieces in turn are even in
// each block.
TEST(CostModel, BlocksInOrderCostZigzagAHalf) {
  Work work = one_head(1 << 18, 1 << 18);
  work.is_causal = true;
  const auto ratio = [&](Distribution distribution) {
    work.distribution = distribution;
    const Forecast made = forecast_of(work, 64, {64, 0}, kFree, Algorithm::broadcast);
    return made.seconds / made.compute_seconds;
  };
  EXPECT_NEAR(ratio(Distribution::contiguous), 2, 0.05);
  EXPECT_NEAR(ratio(Distribution::zigzag), 1.5, 0.05);
  EXPECT_LT(ratio(Distribution::cyclic), 1.15);
  work.blocks_in_flight = 1024;  // all of them
  EXPECT_NEAR(ratio(Distribution::zigzag), 1, 0.05);
}

TEST(CostModel, StatesGoToTheRanksThatMergeAndResultsToAll) {
  Work work = one_head(1, 1024);
  work.q_heads = work.kv_heads = 2;
  work.head_dim = work.v_head_dim = 6;
  // Each rank has one split: states of 2 rows, 8 floats each. Half of them go, and 12 bytes of results come
  // for each.
  const Forecast made =
      forecast_of(work, 2, {8, 0.5}, {.latency_seconds = 0.25, .bandwidth = 1}, Algorithm::states);
  EXPECT_DOUBLE_EQ(made.seconds, 4.5 + 2 * 0.25 + 32 + 24);
  EXPECT_DOUBLE_EQ(made.latency_seconds, 0.5);
  EXPECT_DOUBLE_EQ(made.link_seconds, 56);
  EXPECT_EQ(made.sent_bytes, 56);
  EXPECT_STREQ(made.bound(), "link");
}

// 64 ranks send the states of one row to one: 63 messages, or 6 steps. The result goes to all in 6 steps.
TEST(CostModel, ManySmallMessagesGoInSteps) {
  Link link = kFree;
  link.latency_seconds = 1;
  link.message_seconds = 0.01;
  const Work work = one_head(1, 64 * 512);
  EXPECT_DOUBLE_EQ(forecast_of(work, 64, {64, 0}, link, Algorithm::states).seconds, 1 + 1 + 62 * 0.01 + 6);
  link.message_seconds = 1;
  EXPECT_DOUBLE_EQ(forecast_of(work, 64, {64, 0}, link, Algorithm::states).seconds, 1 + 6 + 6);
}

TEST(CostModel, SplitsAreNotCut) {
  const Forecast made = forecast_of(one_head(1, 3 * 512), 2, {3, 0}, kFree, Algorithm::states);
  EXPECT_DOUBLE_EQ(made.seconds, 2) << "two splits and one";
  EXPECT_DOUBLE_EQ(made.imbalance_seconds, 0.5);
}

TEST(CostModel, HeadsAreNotCut) {
  Work work = one_head(512, 512);
  work.q_heads = work.kv_heads = 3;
  const Forecast made = forecast_of(work, 2, {3, 0}, kFree, Algorithm::head_parallel);
  EXPECT_DOUBLE_EQ(made.seconds, 2);
  EXPECT_DOUBLE_EQ(made.imbalance_seconds, 0.5);
  // 512 rows of q, k, v and of out; two heads of three, half of them from the other rank.
  const Forecast slow = forecast_of(work, 2, {3, 0}, {.bandwidth = 1}, Algorithm::head_parallel);
  EXPECT_DOUBLE_EQ(slow.link_seconds, 512 * 4 * 4 * 3 * (2.0 / 3) / 2);
  const Forecast none = forecast_of(work, 4, {3, 0}, kFree, Algorithm::head_parallel);
  EXPECT_FALSE(none.is_possible);
  EXPECT_EQ(none.seconds, 0);
}

TEST(CostModel, ChoosesTheFastestThatIsPossible) {
  const Link link{.latency_seconds = 1e-6, .bandwidth = 1e9};
  Work work = one_head(1, 65536);
  work.head_dim = work.v_head_dim = 128;
  Choice choice;
  ASSERT_TRUE(choose(work, 8, {1e-2, 0}, link, &choice).ok());
  ASSERT_EQ(choice.forecasts.size(), 4u);
  EXPECT_EQ(choice.forecasts[choice.best].algorithm, Algorithm::states) << "one query: its states are small";
  EXPECT_FALSE(choice.forecasts[3].is_possible);
  work.sequences = {{65536, 65536}};
  ASSERT_TRUE(choose(work, 8, {10, 0}, link, &choice).ok());
  EXPECT_NE(choice.forecasts[choice.best].algorithm, Algorithm::states)
      << "65536 queries: their states are large";
  for (const Forecast& one : choice.forecasts) {
    if (one.is_possible) {
      EXPECT_GE(one.seconds, choice.forecasts[choice.best].seconds) << name(one.algorithm);
    }
  }
}

TEST(CostModel, TimeWithoutAPlanIsArithmeticOrReading) {
  Work work = one_head(2, 4);
  work.q_heads = 2;
  work.head_dim = 3;
  work.v_head_dim = 5;
  EXPECT_DOUBLE_EQ(whole_seconds(work, 10, 1e9), 8 * 2 * (16 + 32) / 10.0);
  EXPECT_DOUBLE_EQ(whole_seconds(work, 1e12, 2), 4 * 8 * 4 / 2.0);
  work.is_causal = true;
  EXPECT_DOUBLE_EQ(whole_seconds(work, 10, 1e9), 7 * 2 * (16 + 32) / 10.0);
}

// Every field at the most that is taken: no product or sum wraps.
TEST(CostModel, TheLargestWorkHasAForecast) {
  constexpr std::int64_t kMost = 65536, kKeys = std::int64_t{1} << 31;
  Work work;
  work.sequences.assign(4, {kKeys, kKeys});
  work.q_heads = work.kv_heads = work.head_dim = work.v_head_dim = work.element_bytes = kMost;
  work.block_keys = kKeys;
  Work one = work;
  one.sequences.resize(1);
  EXPECT_DOUBLE_EQ(whole_seconds(work, 1e12, 1e12), 4 * whole_seconds(one, 1e12, 1e12));
  for (const Algorithm algorithm : kAlgorithms) {
    const Forecast made =
        forecast_of(work, 2, {1e6, 1}, {.latency_seconds = 1, .bandwidth = 1e18}, algorithm);
    EXPECT_TRUE(made.is_possible) << name(algorithm);
    EXPECT_GT(made.link_seconds, 0) << name(algorithm);
    EXPECT_GT(made.sent_bytes, 0) << name(algorithm);
    EXPECT_DOUBLE_EQ(made.compute_seconds, 5e5 + 1);
    EXPECT_GE(made.seconds, made.compute_seconds);
    EXPECT_TRUE(std::isfinite(made.seconds));
  }
}

TEST(CostModel, FaultsAreNamed) {
  const auto refused = [](const char* field, auto&& spoil) {
    Work work = one_head(64, 64);
    int ranks = 2;
    Rank rank{1, 0};
    Link link{.bandwidth = 1};
    Algorithm algorithm = Algorithm::ring;
    spoil(work, ranks, rank, link, algorithm);
    Forecast made;
    made.seconds = -7;
    const Status status = forecast(work, ranks, rank, link, algorithm, &made);
    EXPECT_EQ(status.code(), Code::invalid_argument) << field;
    EXPECT_NE(status.message().find(field), std::string::npos) << status.message();
    EXPECT_NE(status.message().find("expected"), std::string::npos) << status.message();
    EXPECT_EQ(made.seconds, -7) << field;
  };
  refused("ranks", [](auto&, int& ranks, auto&, auto&, auto&) { ranks = 0; });
  refused("whole_seconds", [](auto&, auto&, Rank& r, auto&, auto&) { r.whole_seconds = -1; });
  refused("start_seconds", [](auto&, auto&, Rank& r, auto&, auto&) { r.start_seconds = NAN; });
  refused("latency_seconds", [](auto&, auto&, auto&, Link& l, auto&) { l.latency_seconds = -1; });
  refused("message_seconds", [](auto&, auto&, auto&, Link& l, auto&) { l.message_seconds = INFINITY; });
  refused("bandwidth", [](auto&, auto&, auto&, Link& l, auto&) { l.bandwidth = 0; });
  refused("bandwidth", [](auto&, auto&, auto&, Link& l, auto&) { l.bandwidth = NAN; });
  refused("overlap", [](auto&, auto&, auto&, Link& l, auto&) { l.overlap = 1.5; });
  refused("algorithm", [](auto&, auto&, auto&, auto&, Algorithm& a) { a = static_cast<Algorithm>(9); });
  refused("q_heads", [](Work& w, auto&, auto&, auto&, auto&) { w.kv_heads = 2; });
  refused("kv_heads", [](Work& w, auto&, auto&, auto&, auto&) { w.kv_heads = 0; });
  refused("head_dim", [](Work& w, auto&, auto&, auto&, auto&) { w.head_dim = 0; });
  refused("v_head_dim", [](Work& w, auto&, auto&, auto&, auto&) { w.v_head_dim = 1 << 20; });
  refused("element_bytes", [](Work& w, auto&, auto&, auto&, auto&) { w.element_bytes = 0; });
  refused("window_left", [](Work& w, auto&, auto&, auto&, auto&) { w.window_left = -2; });
  refused("window_right", [](Work& w, auto&, auto&, auto&, auto&) { w.window_right = -2; });
  refused("cyclic_rows", [](Work& w, auto&, auto&, auto&, auto&) { w.cyclic_rows = 100; });
  refused("block_keys", [](Work& w, auto&, auto&, auto&, auto&) { w.block_keys = 513; });
  refused("blocks_in_flight", [](Work& w, auto&, auto&, auto&, auto&) { w.blocks_in_flight = 0; });
  refused("distribution",
          [](Work& w, auto&, auto&, auto&, auto&) { w.distribution = static_cast<Distribution>(3); });
  refused("sequences[0].q_len", [](Work& w, auto&, auto&, auto&, auto&) { w.sequences[0].q_len = -1; });
  refused("sequences[0].kv_len",
          [](Work& w, auto&, auto&, auto&, auto&) { w.sequences[0].kv_len = std::int64_t{1} << 40; });
}

TEST(CostModel, BlocksAreShortAndHave64MiBTogether) {
  Work work;
  work.sequences = {{8192, 8192}};
  work.kv_heads = 8, work.head_dim = work.v_head_dim = 128;
  choose_blocks(&work);
  EXPECT_EQ(work.block_keys, 512);
  EXPECT_EQ(work.blocks_in_flight, 16);  // of 4 MiB
  work.sequences.push_back({5, 700});
  choose_blocks(&work);
  EXPECT_EQ(work.blocks_in_flight, 8);
  work.kv_heads = 1000;
  choose_blocks(&work);
  EXPECT_EQ(work.blocks_in_flight, 2);
  work.kv_heads = work.head_dim = work.v_head_dim = 1;
  choose_blocks(&work);
  EXPECT_EQ(work.blocks_in_flight, 16);
}

}  // namespace
}  // namespace kumiko::distributed
