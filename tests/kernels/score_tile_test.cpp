// SPDX-License-Identifier: Apache-2.0
// Every score_tile row against the scalar steps of score_tile.h, bit for bit.
#include "kernels/score_tile/score_tile.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/kernels/rows.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

using kernels::ScoreTileKernel;

struct ScoreTile : ::testing::TestWithParam<ScoreTileKernel> {
  const ScoreTileKernel& row = GetParam();
  Random random{test_seed(131)};

  float value(float*) { return random.one_in(30) ? kNan : random.one_in(30) ? -kInf : 3 * random.normal(); }
  std::int32_t value(std::int32_t*) {
    return random.one_in(30) ? std::numeric_limits<std::int32_t>::min()
                             : static_cast<std::int32_t>(random.between(-(1 << 28), 1 << 28));
  }

  template <class T, class Load>
  void load_turns_rows_into_lanes(Load load) {
    for (const std::int64_t kv : {1, 3, 4, 15, 16, 17, 70}) {
      for (const Place place : kPlaces) {
        const std::int64_t nr = random.between(1, 3) * row.lanes, used = random.between(1, nr);
        SCOPED_TRACE(::testing::Message() << row.name << " kv " << kv << " nr " << nr << " used " << used);
        const auto size = static_cast<std::size_t>(kv * nr);
        std::vector<Operand<T>> rows;
        std::vector<const void*> pointers;
        for (std::int64_t n = 0; n < used; ++n) {
          rows.emplace_back(static_cast<std::size_t>(kv), place);
          for (T& x : rows.back().span()) x = value(static_cast<T*>(nullptr));
          pointers.push_back(rows.back().data());
        }
        Operand<float> s(size, place), block_max(static_cast<std::size_t>(nr), place);
        std::vector<float> want(size), want_max;
        for (float& m : block_max.span()) want_max.push_back(m = random.pick({-kInf, 0.25f}));
        const float scale = random.pick({1.0f, -0.37f, 1.4426950f});
        for (std::int64_t j = 0; j < kv; ++j) {
          for (std::int64_t n = 0; n < nr; ++n) {
            const auto lane = static_cast<std::size_t>(n);
            const float x =
                n < used ? static_cast<float>(rows[lane][static_cast<std::size_t>(j)]) * scale : 0;
            want[static_cast<std::size_t>(j * nr + n)] = x;
            if (x > want_max[lane]) want_max[lane] = x;
          }
        }
        load({pointers.data(), used, kv, nr, scale, s.data(), block_max.data()});
        for (std::size_t i = 0; i < size; ++i) ASSERT_TRUE(same_value(s[i], want[i])) << "at " << i;
        for (std::size_t n = 0; n < want_max.size(); ++n)
          ASSERT_EQ(block_max[n], want_max[n]) << "lane " << n;
        ASSERT_TRUE(s.intact() && block_max.intact());
      }
    }
  }
};

TEST_P(ScoreTile, LoadsFloats) {
  load_turns_rows_into_lanes<float>(row.load_f32);
}

TEST_P(ScoreTile, LoadsIntegers) {
  load_turns_rows_into_lanes<std::int32_t>(row.load_i32);
}

TEST_P(ScoreTile, HiddenScoresBecomeZeroAndNoOthersChange) {
  for (const std::int64_t kv : {1, 2, 7, 33}) {
    for (const Place place : kPlaces) {
      const std::int64_t nr = random.between(1, 3) * row.lanes, first = random.between(0, 2'000'000'000);
      Operand<float> s(static_cast<std::size_t>(kv * nr), place);
      Operand<std::int32_t> begin(static_cast<std::size_t>(nr), place),
          end(static_cast<std::size_t>(nr), place);
      for (float& x : s.span()) x = random.one_in(10) ? kNan : random.one_in(10) ? kInf : random.normal();
      std::vector<float> want(s.span().begin(), s.span().end());
      for (std::int64_t n = 0; n < nr; ++n) {
        const auto lane = static_cast<std::size_t>(n);
        begin[lane] = static_cast<std::int32_t>(random.between(first - 3, first + kv));
        end[lane] = static_cast<std::int32_t>(random.between(begin[lane] - 2, first + kv + 3));
        for (std::int64_t j = 0; j < kv; ++j) {
          if (first + j < begin[lane] || first + j >= end[lane])
            want[static_cast<std::size_t>(j * nr + n)] = 0;
        }
      }
      row.zero_hidden(
          {s.data(), kv, nr, static_cast<std::int32_t>(first), begin.data(), end.data(), nullptr});
      for (std::size_t i = 0; i < want.size(); ++i)
        ASSERT_TRUE(same_value(s[i], want[i])) << row.name << " kv " << kv << " at " << i;
      ASSERT_TRUE(s.intact());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, ScoreTile, ::testing::ValuesIn(host_rows(kernels::score_tile_kernels())),
                         RowName());

}  // namespace
}  // namespace kumiko::test
