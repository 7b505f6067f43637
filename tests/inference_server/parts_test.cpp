// SPDX-License-Identifier: Apache-2.0
// Parts of the server that tests over HTTP do not cover alone: layout of a batch, element-wise functions,
// exact search.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "batch_layout.h"
#include "elementwise.h"
#include "search_index.h"

namespace inference {
namespace {

TEST(BatchLayout, PacksAllTokensAndGroupsByLength) {
  std::mt19937 random(11);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::int64_t> lengths(1 + random() % 40);
    for (std::int64_t& length : lengths) length = 1 + static_cast<std::int64_t>(random() % 256);
    const BatchLayout layout = BatchLayout::make(lengths);
    ASSERT_EQ(layout.sequences.size(), lengths.size());
    std::vector<bool> seen(lengths.size());
    std::int64_t packed = 0, padded = 0, first = 0;
    for (const BatchLayout::Group& group : layout.groups) {
      EXPECT_EQ(group.first, first);
      EXPECT_EQ(group.padded_row, padded);
      for (const std::int32_t length : group.lengths) {
        const BatchLayout::Sequence& sequence = layout.sequences[static_cast<std::size_t>(first++)];
        EXPECT_EQ(sequence.length, length);
        EXPECT_EQ(sequence.length, lengths[static_cast<std::size_t>(sequence.text)]);
        EXPECT_EQ(sequence.packed_row, packed);
        EXPECT_EQ(sequence.padded_row, padded);
        EXPECT_GE(group.q_len, length);
        EXPECT_LT(group.q_len - length, kGroupStep);
        if (length <= kGroupStep) {
          EXPECT_EQ(group.q_len, length);
        }
        EXPECT_EQ((group.q_len + 7) / 8, (length + 7) / 8);  // as many vectors of 8 lanes as the text alone
        seen[static_cast<std::size_t>(sequence.text)] = true;
        packed += length;
        padded += group.q_len;
      }
    }
    EXPECT_EQ(layout.tokens, packed);
    EXPECT_EQ(layout.padded_rows, padded);
    EXPECT_EQ(std::vector<bool>(lengths.size(), true), seen);
  }
}

TEST(Elementwise, LayerNormMatchesFp64AtAnyWidth) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(3.0f, 2.0f);
  for (const std::int64_t width : {1, 2, 15, 16, 17, 31, 384, 385}) {
    const auto fill = [&](std::int64_t count) {
      std::vector<float> values(static_cast<std::size_t>(count));
      for (float& value : values) value = normal(random);
      return values;
    };
    const std::vector<float> x = fill(3 * width), gain = fill(width), shift = fill(width);
    std::vector<float> out = x;
    layer_norm(3, width, out.data(), gain.data(), shift.data(), 1e-3f);
    for (std::int64_t r = 0; r < 3; ++r) {
      const auto at = [&](std::int64_t i) -> double { return x[static_cast<std::size_t>(r * width + i)]; };
      double mean = 0, variance = 0;
      for (std::int64_t i = 0; i < width; ++i) mean += at(i) / static_cast<double>(width);
      for (std::int64_t i = 0; i < width; ++i)
        variance += (at(i) - mean) * (at(i) - mean) / static_cast<double>(width);
      for (std::int64_t i = 0; i < width; ++i) {
        const auto column = static_cast<std::size_t>(i);
        const double exact = (at(i) - mean) / std::sqrt(variance + 1e-3) * gain[column] + shift[column];
        EXPECT_NEAR(out[static_cast<std::size_t>(r * width + i)], exact, 2e-4)
            << width << " " << r << " " << i;
      }
    }
  }
}

TEST(Elementwise, PoolingAveragesAndNormalises) {
  const std::vector<float> rows{1, 0, 0, 3, 2, 0};  // mean (2, 1, 0)... over two rows of three: (2, 1, 0)
  std::vector<float> out(3);
  mean_pool_normalize(2, 3, rows.data(), out.data());
  EXPECT_NEAR(out[0], 2 / std::sqrt(5.0), 1e-6);
  EXPECT_NEAR(out[1], 1 / std::sqrt(5.0), 1e-6);
  EXPECT_EQ(out[2], 0.0f);
  const std::vector<float> nothing(3, 0.0f);
  mean_pool_normalize(1, 3, nothing.data(), out.data());
  EXPECT_EQ(out, nothing);  // no direction: zeros, not NaN
}

TEST(Elementwise, DecodesOfRowsMatchFp64AtAnyWidth) {
  std::mt19937 random(6);
  std::normal_distribution<float> normal;
  for (const std::int64_t width : {1, 15, 16, 17, 384, 385}) {
    std::vector<float> matrix(static_cast<std::size_t>(3 * width)), x(static_cast<std::size_t>(width)),
        scores(3);
    for (float& value : matrix) value = normal(random);
    for (float& value : x) value = normal(random);
    dot_rows(3, width, matrix.data(), x.data(), scores.data());
    for (std::size_t r = 0; r < 3; ++r) {
      double exact = 0;
      for (std::size_t i = 0; i < x.size(); ++i)
        exact += static_cast<double>(matrix[r * x.size() + i]) * x[i];
      EXPECT_NEAR(scores[r], exact, 2e-5) << width << " " << r;
    }
  }
}

TEST(SearchIndex, RanksByCosineAndBreaksTiesByAge) {
  SearchIndex index(2, 4);
  EXPECT_EQ(index.add({"east", "north", "also east"}, std::vector<float>{1, 0, 0, 1, 1, 0}), 3);
  EXPECT_EQ(index.add({"north"}, std::vector<float>{0, 1}), 0);
  const auto hits = index.search(std::vector<float>{1, 0}, 10);
  ASSERT_EQ(hits.size(), 3u);
  EXPECT_EQ(hits[0].text, "east");
  EXPECT_EQ(hits[1].text, "also east");
  EXPECT_EQ(hits[2].text, "north");
  EXPECT_EQ(hits[0].score, 1.0f);
  EXPECT_EQ(index.search(std::vector<float>{0, 1}, 1).at(0).id, 1);
  EXPECT_THROW(index.add({"south", "west"}, std::vector<float>{0, -1, -1, 0}), IndexFull);
  EXPECT_EQ(index.size(), 3);
  index.clear();
  EXPECT_TRUE(index.search(std::vector<float>{1, 0}, 1).empty());
}

TEST(SearchIndex, TextsTogetherAreBounded) {
  SearchIndex index(1, 10, 8);
  EXPECT_EQ(index.add({"abc", "abc"}, std::vector<float>{1, 1}), 1);
  try {
    index.add({"defg", "hi"}, std::vector<float>{1, 1});
    FAIL() << "added 9 bytes";
  } catch (const IndexFull& error) {
    EXPECT_STREQ(error.what(), "the texts of the index have 3 bytes and room for 8, the request adds 6");
  }
  EXPECT_EQ(index.size(), 1);
  EXPECT_EQ(index.add({"abc", "defg", "h"}, std::vector<float>{1, 1, 1}), 2);
  EXPECT_THROW(index.add({"i"}, std::vector<float>{1}), IndexFull);
  index.clear();
  EXPECT_EQ(index.add({"12345678"}, std::vector<float>{1}), 1);
}

TEST(SearchIndex, TakesNoTextOrVectorThatWouldSpoilAnAnswer) {
  SearchIndex index(2, 10);
  const float nan = std::nanf("");
  EXPECT_THROW(index.add({"a", "b"}, std::vector<float>{1, 0, 0, nan}), std::invalid_argument);
  EXPECT_THROW(index.add({"a", "b"}, std::vector<float>{1, 0, 2, 0}), std::invalid_argument);
  EXPECT_THROW(index.add({"a", "\xc3"}, std::vector<float>{1, 0, 0, 1}), std::invalid_argument);
  EXPECT_THROW(index.add({"a", "b"}, std::vector<float>{1, 0, 0}), std::invalid_argument);
  EXPECT_EQ(index.size(), 0);
}

}  // namespace
}  // namespace inference
