// SPDX-License-Identifier: Apache-2.0
// Pack rows of bf16 pairs against the layout that kernels/pack/pack.h describes, bit for bit, source rows
// ending on guard pages.
#include <gtest/gtest.h>

#include <limits>

#include "kernels/pack/pack.h"
#include "tests/kernels/elements.h"
#include "tests/kernels/pairs.h"
#include "tests/support/random.h"
#include "tests/support/tensor.h"

namespace kumiko::test {
namespace {

using kernels::PackKernel;

constexpr std::int64_t kPairDims[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 80, 129};

std::int64_t half(std::int64_t n) {
  return (n + 1) / 2;
}

ElementOperand source(std::int64_t rows, std::int64_t dim, std::int64_t stride, Place place, Random& random) {
  ElementOperand src(kernels::Element::bf16, sz((rows - 1) * stride + dim), place);
  for (std::size_t i = 0; i < src.size(); ++i) src.set(i, poison());
  for (std::int64_t j = 0; j < rows; ++j)
    for (std::int64_t d = 0; d < dim; ++d) src.set(sz(j * stride + d), random.normal());
  return src;
}

struct PackPairs : ::testing::TestWithParam<PackKernel> {
  const PackKernel& row = GetParam();
  std::int64_t mr = row.mr;
  Random random{test_seed(47)};

  void expect_panels(const Operand<float>& dst, const std::vector<float>& want) {
    for (std::size_t i = 0; i < want.size(); ++i)
      ASSERT_EQ(std::bit_cast<std::uint32_t>(dst[i]), std::bit_cast<std::uint32_t>(want[i]))
          << "dst[" << i << "]";
    ASSERT_TRUE(dst.intact());
  }
};

TEST_P(PackPairs, QueriesTakeTheSignOfTheScale) {
  for (const std::int64_t dim : kPairDims) {
    for (const float scale : {1.0f, -1.0f, 0.0f}) {
      for (const Place place : kPlaces) {
        const std::int64_t nr = random.between(1, 3) * row.lanes, used = random.between(1, nr);
        SCOPED_TRACE(::testing::Message() << row.name << " nr " << nr << " used " << used << " dim " << dim);
        std::vector<ElementOperand> src;
        std::vector<const void*> rows;
        for (std::int64_t n = 0; n < used; ++n) src.push_back(source(1, dim, dim, place, random));
        for (std::int64_t n = 0; n < used; ++n) rows.push_back(src[sz(n)].data());
        const auto at = [&](std::int64_t n, std::int64_t d) {
          const float x = n < used && d < dim ? src[sz(n)].get(sz(d)) : 0.0f;
          return scale == 0.0f  ? 0.0f
                 : scale < 0.0f ? -x
                                : x;  // missing ones get a sign too, and are still 0
        };
        Operand<float> dst(sz(half(dim) * nr), place);
        row.query({rows.data(), used, nr, dim, scale, dst.data()});
        for (std::int64_t d = 0; d < half(dim); ++d) {
          for (std::int64_t n = 0; n < nr; ++n) {
            for (const int which : {0, 1})
              ASSERT_EQ(element_of_pair(dst[sz(d * nr + n)], which), at(n, 2 * d + which)) << d << " " << n;
          }
        }
        ASSERT_TRUE(dst.intact());
      }
    }
  }
}

TEST_P(PackPairs, AScaleOfZeroKeepsWhatIsNotFinite) {
  ElementOperand src(kernels::Element::bf16, 4, Place::back);
  src.set(0, 3.0f), src.set(1, std::numeric_limits<float>::infinity());
  src.set(2, std::numeric_limits<float>::quiet_NaN()), src.set(3, -2.0f);
  const void* rows[] = {src.data()};
  Operand<float> dst(sz(2 * row.lanes), Place::front);
  row.query({rows, 1, row.lanes, 4, 0.0f, dst.data()});
  EXPECT_EQ(element_of_pair(dst[0], 0), 0.0f);
  EXPECT_TRUE(std::isnan(element_of_pair(dst[0], 1)));
  EXPECT_TRUE(std::isnan(element_of_pair(dst[sz(row.lanes)], 0)));
  EXPECT_EQ(element_of_pair(dst[sz(row.lanes)], 1), 0.0f);
}

TEST_P(PackPairs, KeysBecomePanelsOfPairsOfDims) {
  for (const std::int64_t rows : {1, 2, 7, 8, 9, 15, 16, 17, 33, 100}) {
    for (const std::int64_t dim : kPairDims) {
      const Place place = random.pick({Place::front, Place::back, Place::misaligned});
      const std::int64_t stride = random.pick({dim, dim + 3, 2 * dim, std::int64_t{0}});
      SCOPED_TRACE(::testing::Message()
                   << row.name << " rows " << rows << " dim " << dim << " stride " << stride);
      const auto src = source(rows, dim, stride, place, random);
      const auto at = [&](std::int64_t j, std::int64_t d) {
        return j < rows && d < dim ? src.get(sz(j * stride + d)) : 0.0f;
      };
      const std::int64_t panels = (rows + mr - 1) / mr;
      Operand<float> dst(sz(panels * half(dim) * mr), place);
      std::vector<float> want(dst.size());
      for (std::int64_t j = 0; j < panels * mr; ++j)
        for (std::int64_t d = 0; d < half(dim); ++d)
          want[sz((j / mr * half(dim) + d) * mr + j % mr)] = pair_of(at(j, 2 * d), at(j, 2 * d + 1));
      row.key({src.data(), stride, rows, dim, dst.data()});
      ASSERT_NO_FATAL_FAILURE(expect_panels(dst, want));
    }
  }
}

TEST_P(PackPairs, ValuesBecomePanelsOfPairsOfKeys) {
  for (const std::int64_t rows : {1, 2, 3, 8, 17, 64}) {
    for (const std::int64_t dim : kPairDims) {
      const Place place = random.pick({Place::front, Place::back, Place::misaligned});
      const std::int64_t stride = random.pick({dim, dim + 3, 2 * dim, std::int64_t{0}});
      SCOPED_TRACE(::testing::Message()
                   << row.name << " rows " << rows << " dim " << dim << " stride " << stride);
      const auto src = source(rows, dim, stride, place, random);
      const auto at = [&](std::int64_t j, std::int64_t d) {
        return j < rows && d < dim ? src.get(sz(j * stride + d)) : 0.0f;
      };
      const std::int64_t panels = (dim + mr - 1) / mr;
      Operand<float> dst(sz(panels * half(rows) * mr), place);
      std::vector<float> want(dst.size());
      for (std::int64_t j = 0; j < half(rows); ++j)
        for (std::int64_t d = 0; d < panels * mr; ++d)
          want[sz((d / mr * half(rows) + j) * mr + d % mr)] = pair_of(at(2 * j, d), at(2 * j + 1, d));
      EXPECT_TRUE(row.value({src.data(), stride, rows, dim, dst.data()}));
      ASSERT_NO_FATAL_FAILURE(expect_panels(dst, want));
    }
  }
}

TEST_P(PackPairs, ValuesReportWhetherAllAreFiniteWhereverTheOneIs) {
  for (const std::int64_t dim : {1, 3, 8, 17, 33}) {
    constexpr std::int64_t rows = 5;
    auto src = source(rows, dim, dim, Place::back, random);
    Operand<float> dst(sz((dim + mr - 1) / mr * mr * half(rows)), Place::back);
    for (std::size_t i = 0; i < src.size(); ++i) {
      const float kept = src.get(i);
      for (const float bad : {kInf, -kInf, std::numeric_limits<float>::quiet_NaN()}) {
        src.set(i, bad);
        EXPECT_FALSE(row.value({src.data(), dim, rows, dim, dst.data()}))
            << row.name << " dim " << dim << " at " << i;
      }
      src.set(i, 0x1.fep127f);
      EXPECT_TRUE(row.value({src.data(), dim, rows, dim, dst.data()}));
      src.set(i, kept);
    }
  }
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(PackPairs);  // a machine without bf16 products has no row
INSTANTIATE_TEST_SUITE_P(Rows, PackPairs,
                         ::testing::ValuesIn(host_rows(kernels::pack_kernels(), kernels::Element::bf16)),
                         RowName());

}  // namespace
}  // namespace kumiko::test
