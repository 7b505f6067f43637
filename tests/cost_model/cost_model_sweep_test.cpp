// SPDX-License-Identifier: Apache-2.0
// The cost model of attention over ranks: what holds for every problem, machine and algorithm.
#include <gtest/gtest.h>
#include <kumiko/cost_model.h>

#include <algorithm>
#include <string>

#include "distributed/rank_rows.h"
#include "tests/support/random.h"

namespace kumiko::distributed {
namespace {

constexpr std::uint64_t kSeed = 20261123;

struct Draw {
  Work work;
  int ranks = 2;
  Rank rank;
  Link link;
};

class Draws {
 public:
  Draw next() {
    Draw draw;
    Work& work = draw.work;
    for (std::int64_t n = below(4); n >= 0; --n) {
      const std::int64_t keys = below(20000);
      work.sequences.push_back({below(3) == 0 ? below(3) : below(keys + 600), keys});
    }
    work.kv_heads = 1 + below(9);
    work.q_heads = work.kv_heads * (1 + below(4));
    work.head_dim = 1 + below(128);
    work.v_head_dim = 1 + below(128);
    work.is_causal = below(2) == 0;
    if (below(3) == 0) work.window_left = below(3000);
    if (below(3) == 0) work.window_right = below(3000);
    work.distribution = static_cast<Distribution>(below(3));
    work.cyclic_rows = 512 * (1 + below(3));
    work.block_keys = 512 * (1 + below(9));
    work.blocks_in_flight = 1 + below(3);
    draw.ranks = static_cast<int>(1 + below(12));
    draw.rank = {real() * 10, real() * 0.01};
    draw.link = {real() * 0.01, 1e5 * (1 + real() * 1e4), real() * 1e-3, real()};
    return draw;
  }

 private:
  std::int64_t below(std::int64_t end) { return random_.between(0, end - 1); }
  double real() { return static_cast<double>(below(1 << 20)) / (1 << 20); }
  test::Random random_{kSeed};
};

double seconds_of(const Draw& draw, Algorithm algorithm) {
  Forecast made;
  EXPECT_TRUE(forecast(draw.work, draw.ranks, draw.rank, draw.link, algorithm, &made).ok());
  return made.seconds;
}

// Never faster than equal parts of the computing, nor than the link carries what the busiest rank sends.
TEST(CostModelSweep, LimitsHoldAndPartsAddUp) {
  Draws draws;
  for (int i = 0; i < 400; ++i) {
    const Draw draw = draws.next();
    for (const Algorithm algorithm : kAlgorithms) {
      SCOPED_TRACE("draw " + std::to_string(i) + " of seed " + std::to_string(kSeed) + ", " +
                   name(algorithm));
      Forecast made;
      ASSERT_TRUE(forecast(draw.work, draw.ranks, draw.rank, draw.link, algorithm, &made).ok());
      if (!made.is_possible) continue;
      const bool has_work = all_pairs(draw.work) > 0;
      const double near = 1 - 1e-12;
      if (has_work) {
        EXPECT_GE(made.seconds, draw.rank.whole_seconds / draw.ranks * near);
        EXPECT_NEAR(made.compute_seconds + made.link_seconds + made.latency_seconds + made.imbalance_seconds,
                    made.seconds, 1e-9 * made.seconds);
      }
      EXPECT_GE(made.seconds, static_cast<double>(made.sent_bytes - 1) / draw.link.bandwidth * near);
      for (const double part :
           {made.compute_seconds, made.link_seconds, made.latency_seconds, made.imbalance_seconds})
        EXPECT_GE(part, 0);
    }
  }
}

TEST(CostModelSweep, NoCostThatGrowsMakesItFaster) {
  Draws draws;
  for (int i = 0; i < 200; ++i) {
    const Draw draw = draws.next();
    for (const Algorithm algorithm : kAlgorithms) {
      SCOPED_TRACE("draw " + std::to_string(i) + " of seed " + std::to_string(kSeed) + ", " +
                   name(algorithm));
      const double before = seconds_of(draw, algorithm);
      const auto grown = [&](auto&& grow) {
        Draw other = draw;
        grow(other);
        return seconds_of(other, algorithm);
      };
      EXPECT_GE(grown([](Draw& d) { d.link.latency_seconds *= 3; }), before);
      EXPECT_GE(grown([](Draw& d) { d.link.bandwidth /= 3; }), before);
      EXPECT_GE(grown([](Draw& d) { d.link.message_seconds *= 30; }), before);
      EXPECT_GE(grown([](Draw& d) { d.link.overlap /= 2; }), before);
      EXPECT_GE(grown([](Draw& d) { d.rank.whole_seconds *= 2; }), before);
      EXPECT_GE(grown([](Draw& d) { d.rank.start_seconds *= 2; }), before);
    }
  }
}

TEST(CostModelSweep, PairsAreThoseOfACount) {
  Draws draws;
  for (int i = 0; i < 300; ++i) {
    Work work = draws.next().work;
    work.window_left = std::min<std::int64_t>(work.window_left, 40);
    work.window_right = std::min<std::int64_t>(work.window_right, 30);
    const SequenceLengths sequence{1 + i % 90, i * 7 % 100};
    const Interval rows{i % 3, sequence.q_len},
        keys{sequence.kv_len / 4, sequence.kv_len - sequence.kv_len / 5};
    if (rows.size() <= 0) continue;
    std::int64_t pairs = 0, seeing = 0;
    for (std::int64_t row = 0; row < sequence.q_len; ++row) {
      const std::int64_t position = sequence.kv_len - sequence.q_len + row;
      std::int64_t seen = 0;
      for (std::int64_t key = keys.begin; key < keys.end; ++key)
        seen += (!work.is_causal || key <= position) &&
                (work.window_left < 0 || key >= position - work.window_left) &&
                (work.window_right < 0 || key <= position + work.window_right);
      if (row >= rows.begin) pairs += seen;
      seeing += seen > 0;
    }
    EXPECT_EQ(visible_pairs(work, sequence, rows, keys), pairs) << "draw " << i << " of seed " << kSeed;
    EXPECT_EQ(seeing_rows(work, sequence, keys), seeing) << "draw " << i << " of seed " << kSeed;
  }
}

TEST(CostModelSweep, PartsCoverEveryRowOnceAndKeysInWholeSplits) {
  Draws draws;
  for (int i = 0; i < 100; ++i) {
    const Draw draw = draws.next();
    for (const SequenceLengths& sequence : draw.work.sequences) {
      for (const std::int64_t unit : {std::int64_t{1}, kKeysPerSplit, 4 * kKeysPerSplit}) {
        std::int64_t at = 0;
        const std::int64_t parts = part_count(draw.work, sequence.kv_len, draw.ranks);
        for (std::int64_t part = 0; part < parts; ++part) {
          const Interval one = part_of(draw.work, sequence.kv_len, unit, part, draw.ranks);
          EXPECT_EQ(one.begin, at);
          EXPECT_GE(one.size(), 0);
          EXPECT_TRUE(one.end % unit == 0 || one.end == sequence.kv_len);
          const int owner = owner_of_part(draw.work, part, draw.ranks);
          EXPECT_TRUE(owner >= 0 && owner < draw.ranks);
          at = one.end;
        }
        EXPECT_EQ(at, sequence.kv_len);
      }
    }
  }
}

// 8 x 2048 splits on 4096 ranks would be 2^26 steps; with blocks of 1024 keys they are 2^25.
TEST(CostModelSweep, ThousandsOfRanksAndAMillionTokensAreSimulatedInLongerBlocks) {
  Work work;
  work.sequences.assign(8, {1 << 20, 1 << 20});
  work.is_causal = true;
  const auto blocks_on = [&](int ranks) {
    Forecast made;
    EXPECT_TRUE(forecast(work, ranks, {4096, 0}, {1e-6, 1e9}, Algorithm::broadcast, &made).ok());
    EXPECT_GE(made.seconds, 4096.0 / ranks);
    return made.blocks;
  };
  EXPECT_EQ(blocks_on(4096), 8 * 1024);
  EXPECT_EQ(blocks_on(2048), 8 * 2048);
}

}  // namespace
}  // namespace kumiko::distributed
