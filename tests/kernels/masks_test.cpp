// SPDX-License-Identifier: Apache-2.0
// The masks of a tile's queries, put together: which keys some, all or none of them see.
#include "kernels/pipelines/masks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/support/numbers.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

using kernels::Sees;
using kernels::TileMask;

TEST(TileMask, SaysWhatItsRowsSee) {
  Random random(test_seed(83));
  for (int i = 0; i < sweep_size(300); ++i) {
    const std::int64_t keys = random.between(1, kernels::kBlockKeys), stride = random.pick({1, 1, 3}),
                       groups = random.between(1, 3), panel = random.pick({4, 8, 16});
    SCOPED_TRACE(::testing::Message() << keys << " keys, stride " << stride << ", panels of " << panel);
    // Mostly squares that all rows see or none does.
    std::vector<std::vector<std::uint8_t>> rows(sz(TileMask::kRows * groups));
    for (auto& row : rows) row.resize(sz(keys * stride), 9);
    for (std::int64_t j = 0; j < keys; ++j) {
      const bool shown = j / 12 % 2 == 0;
      for (auto& row : rows)
        row[sz(j * stride)] =
            static_cast<std::uint8_t>(random.one_in(60) != shown ? random.between(1, 255) : 0);
    }
    TileMask mask(keys);
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::uint8_t* some[TileMask::kRows];
      for (std::int64_t r = 0; r < TileMask::kRows; ++r) some[r] = rows[sz(TileMask::kRows * g + r)].data();
      mask.add(some, stride);
    }
    for (std::int64_t first = 0; first < keys; first += panel) {
      bool any = false, all = true;
      for (const auto& row : rows) {
        for (std::int64_t j = first; j < std::min(first + panel, keys); ++j) {
          any = any || row[sz(j * stride)] != 0;
          all = all && row[sz(j * stride)] != 0;
        }
      }
      EXPECT_EQ(mask.seen(first, first + panel), !any  ? Sees::nothing
                                                 : all ? Sees::all
                                                       : Sees::some)
          << "keys from " << first;
    }
  }
}

}  // namespace
}  // namespace kumiko::test
