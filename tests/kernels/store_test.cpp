// SPDX-License-Identifier: Apache-2.0
// Every store row: rows rounded to their element type, and nothing else written.
#include "kernels/store/store.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "tests/kernels/elements.h"
#include "tests/support/bochs.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

using kernels::StoreKernel;

struct Store : RowTest<StoreKernel> {
  Random random{test_seed(52)};

  // Mostly ordinary values, sometimes those that conversions can get wrong: ties, overflow of f16,
  // subnormals, NaNs of either sign with and without a payload (with all bits set, rounding it as a number
  // gives -0), infinity, -0.
  float value() {
    if (!random.one_in(4)) return random.normal();
    return random.pick({1.00390625f, 1.01171875f, 65519.9f, 65520.0f, 1e30f, -1e30f, 3e-8f, 6e-5f, 1e-40f,
                        -0.0f, std::bit_cast<float>(0xffc00000u), std::bit_cast<float>(0x7fd2a001u),
                        std::bit_cast<float>(0xff8a6000u), std::bit_cast<float>(0x7fffffffu),
                        std::numeric_limits<float>::infinity()});
  }
  ::testing::AssertionResult matches(float got, float exact) {
    float want = rounded(row.element, exact + 0.0f);
    if (row.element == kernels::Element::f16) allow_bochs_ties({&got, 1}, {&exact, 1}, {&want, 1});
    if (std::isnan(exact)) want = std::bit_cast<float>(0x7fc00000u);  // 0x7fc0 and 0x7e00, widened
    if (std::bit_cast<std::uint32_t>(got) == std::bit_cast<std::uint32_t>(want))
      return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure()
           << (::testing::Message() << row.name << ": " << got << ", bits 0x" << std::hex
                                    << std::bit_cast<std::uint32_t>(got) << ", want " << want);
  }
};

TEST_P(Store, TileWritesItsRowsAndNothingElse) {
  for (const std::int64_t vectors : {1, 2, 3}) {
    for (const std::int64_t dim : {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 80}) {
      for (int repeat = 0; repeat < thinned(4, 4, 1); ++repeat) {
        const std::int64_t nr = vectors * row.lanes, used = random.between(1, nr);
        SCOPED_TRACE(::testing::Message() << row.name << " nr " << nr << " used " << used << " dim " << dim);
        const Place place = random.pick({Place::front, Place::back, Place::misaligned});
        Operand<float> o(sz(nr * dim), place), inverse(sz(nr), place);
        for (float& x : o.span()) x = value();
        for (float& x : inverse.span()) x = random.one_in(3) ? 1.0f : random.normal();
        std::vector<ElementOperand> out;
        std::vector<void*> rows;
        for (std::int64_t n = 0; n < used; ++n) out.emplace_back(row.element, sz(dim), place);
        for (auto& r : out) rows.push_back(r.data());
        row.tile({o.data(), inverse.data(), nr, dim, rows.data(), used});
        for (std::size_t n = 0; n < out.size(); ++n) {
          for (std::size_t d = 0; d < sz(dim); ++d)
            ASSERT_TRUE(matches(out[n].get(d), o[d * sz(nr) + n] * inverse[n]));
          ASSERT_TRUE(out[n].intact());
        }
      }
    }
  }
}

TEST_P(Store, RowScalesAndRounds) {
  for (const std::int64_t dim : {1, 7, 8, 9, 16, 17, 33, 576}) {
    for (const Place place : kPlaces) {
      Operand<float> o(sz(dim), place);
      const ElementOperand out(row.element, sz(dim), place);
      for (float& x : o.span()) x = value();
      row.row({o.data(), 0.3f, dim, out.data()});
      for (std::size_t d = 0; d < o.size(); ++d) ASSERT_TRUE(matches(out.get(d), o[d] * 0.3f));
      EXPECT_TRUE(o.intact() && out.intact());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, Store, ::testing::ValuesIn(host_rows(kernels::store_kernels())), RowName());

}  // namespace
}  // namespace kumiko::test
