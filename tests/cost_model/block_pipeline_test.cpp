// SPDX-License-Identifier: Apache-2.0
// When blocks that travel arrive and are computed, by hand: a byte takes a second unless said otherwise.
#include "distributed/block_pipeline.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace kumiko::distributed {
namespace {

using Members = std::vector<int>;

const Link kByteASecond{.bandwidth = 1}, kPieceASecond{.bandwidth = kPieceBytes};

TEST(BlockPipeline, ARankSendsOneBlockAfterTheOther) {
  for (const Algorithm algorithm : {Algorithm::ring, Algorithm::broadcast}) {
    BlockPipeline pipeline(3, 2, kByteASecond, algorithm);
    pipeline.add(Members{0, 1}, {0, 0}, 1);
    pipeline.add(Members{0, 2}, {0, 0}, 1);
    EXPECT_EQ(pipeline.end(), 2) << name(algorithm);
    EXPECT_EQ(pipeline.most_sent(), 2);
  }
}

TEST(BlockPipeline, ARankReceivesOneBlockAfterTheOther) {
  for (const Algorithm algorithm : {Algorithm::ring, Algorithm::broadcast}) {
    BlockPipeline pipeline(3, 2, kByteASecond, algorithm);
    pipeline.add(Members{0, 2}, {0, 0}, 1);
    pipeline.add(Members{1, 2}, {0, 0}, 1);
    EXPECT_EQ(pipeline.end(), 2) << name(algorithm);
    EXPECT_EQ(pipeline.most_sent(), 1);
  }
}

// Rank 1 has computed the first block at 1 s, but passes it on until 2 s.
TEST(BlockPipeline, ABufferIsFreeWhenItsBlockIsPassedOn) {
  BlockPipeline pipeline(3, 1, kByteASecond, Algorithm::ring);
  pipeline.add(Members{0, 1, 2}, {0, 0, 0}, 1);
  pipeline.add(Members{0, 1}, {0, 0}, 1);
  EXPECT_EQ(pipeline.end(), 3);
}

TEST(BlockPipeline, BlocksAreComputedInOrder) {
  BlockPipeline pipeline(2, 2, kByteASecond, Algorithm::ring);
  pipeline.add(Members{0, 1}, {0, 1}, 4);
  pipeline.add(Members{1}, {10}, 4);  // rank 1's own, there from the start
  EXPECT_EQ(pipeline.end(), 15);
}

// 8 bytes to two ranks at half the rate: 16 s. One of them passes the block on, to rank 3 alone, in 8 s.
TEST(BlockPipeline, ATreePassesShortBlocksOnWhenTheyAreThere) {
  BlockPipeline pipeline(4, 2, kByteASecond, Algorithm::broadcast);
  pipeline.add(Members{0, 1, 2, 3}, {0, 0, 0, 0}, 8);
  EXPECT_EQ(pipeline.end(), 24);
}

// A piece takes a second, so that a rank has all four after 4 s, and the rank after it 1 s later.
TEST(BlockPipeline, ARingPassesEachPieceOnWhenItIsThere) {
  BlockPipeline pipeline(3, 2, kPieceASecond, Algorithm::ring);
  pipeline.add(Members{0, 1, 2}, {0, 0, 0}, 4 * kPieceBytes);
  EXPECT_EQ(pipeline.end(), 5);
}

// To two ranks at half the rate: 8 s. One of them passes the last piece on, to rank 3 alone, in 1 s.
TEST(BlockPipeline, ATreePassesEachPieceOnWhenItIsThere) {
  BlockPipeline pipeline(4, 2, kPieceASecond, Algorithm::broadcast);
  pipeline.add(Members{0, 1, 2, 3}, {0, 0, 0, 0}, 4 * kPieceBytes);
  EXPECT_EQ(pipeline.end(), 9);
}

TEST(BlockPipeline, EachPieceHasAGap) {
  const Link link{.bandwidth = std::numeric_limits<double>::infinity(), .message_seconds = 0.5};
  for (const Algorithm algorithm : {Algorithm::ring, Algorithm::broadcast}) {
    BlockPipeline pipeline(2, 2, link, algorithm);
    pipeline.add(Members{0, 1}, {0, 0}, 4 * kPieceBytes);
    EXPECT_EQ(pipeline.end(), 1.5) << name(algorithm);
    pipeline.add(Members{0, 1}, {0, 0}, 1);
    EXPECT_EQ(pipeline.end(), 2) << name(algorithm);
  }
}

TEST(BlockPipeline, MessagesHaveAGapAndALatency) {
  const Link link{
      .latency_seconds = 10, .bandwidth = std::numeric_limits<double>::infinity(), .message_seconds = 0.5};
  for (const Algorithm algorithm : {Algorithm::ring, Algorithm::broadcast}) {
    BlockPipeline pipeline(2, 2, link, algorithm);
    pipeline.add(Members{0, 1}, {0, 0}, 1);
    pipeline.add(Members{0, 1}, {0, 0}, 1);
    EXPECT_EQ(pipeline.end(), 10.5) << name(algorithm);
  }
}

}  // namespace
}  // namespace kumiko::distributed
