// SPDX-License-Identifier: Apache-2.0
// Every pack row against the layouts drawn in kernels/pack/pack.h, with source rows that end on guard pages.
#include "kernels/pack/pack.h"

#include <gtest/gtest.h>

#include <limits>
#include <utility>

#include "tests/kernels/elements.h"
#include "tests/support/random.h"
#include "tests/support/tensor.h"

namespace kumiko::test {
namespace {

using kernels::PackKernel;

constexpr std::int64_t kDims[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 80, 129};

// rows x dim values, `stride` apart, the gaps poisoned; the last row ends flush.
ElementOperand source(kernels::Element element, std::int64_t rows, std::int64_t dim, std::int64_t stride,
                      Place place, Random& random) {
  ElementOperand src(element, sz((rows - 1) * stride + dim), place);
  for (std::size_t i = 0; i < src.size(); ++i) src.set(i, poison());
  for (std::int64_t j = 0; j < rows; ++j)
    for (std::int64_t d = 0; d < dim; ++d) src.set(sz(j * stride + d), random.normal());
  return src;
}

struct Pack : RowTest<PackKernel> {
  std::int64_t mr = row.mr, lanes = row.lanes;
  Random random{test_seed(41)};

  void expect_panels(const Operand<float>& dst, const std::vector<float>& want) {
    for (std::size_t i = 0; i < want.size(); ++i) ASSERT_EQ(dst[i], want[i]) << "dst[" << i << "]";
    ASSERT_TRUE(dst.intact());
  }
};

TEST_P(Pack, QueriesBecomeScaledColumnsAndAbsentOnesZero) {
  for (const std::int64_t vectors : {1, 2, 3}) {
    for (const std::int64_t dim : kDims) {
      for (const Place place : places(vectors + dim)) {
        const std::int64_t nr = vectors * lanes, used = random.between(1, nr);
        SCOPED_TRACE(::testing::Message() << row.name << " nr " << nr << " used " << used << " dim " << dim);
        const float scale = random.normal();
        // Each row in its own page, in random order: rows are found by pointer.
        std::vector<ElementOperand> src;
        std::vector<const void*> rows;
        for (std::int64_t n = 0; n < used; ++n)
          src.push_back(source(row.element, 1, dim, dim, place, random));
        for (std::int64_t n = 0; n < used; ++n) rows.push_back(src[sz(n)].data());
        Operand<float> dst(sz(dim * nr), place);
        std::vector<float> want(dst.size(), 0.0f);
        for (std::int64_t d = 0; d < dim; ++d)
          for (std::int64_t n = 0; n < used; ++n) want[sz(d * nr + n)] = src[sz(n)].get(sz(d)) * scale;
        row.query({rows.data(), used, nr, dim, scale, dst.data()});
        ASSERT_NO_FATAL_FAILURE(expect_panels(dst, want));
      }
    }
  }
}

TEST_P(Pack, KeysBecomePanelsOfMrAndAbsentOnesZero) {
  for (const std::int64_t rows : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100}) {
    for (const std::int64_t dim : kDims) {
      const Place place = random.pick({Place::front, Place::back, Place::misaligned});
      const std::int64_t stride = random.pick({dim, dim + 3, 2 * dim, std::int64_t{0}});
      SCOPED_TRACE(::testing::Message()
                   << row.name << " rows " << rows << " dim " << dim << " stride " << stride);
      const auto src = source(row.element, rows, dim, stride, place, random);
      const std::int64_t panels = (rows + mr - 1) / mr;
      Operand<float> dst(sz(panels * dim * mr), place);
      std::vector<float> want(dst.size());
      for (std::int64_t j = 0; j < panels * mr; ++j)
        for (std::int64_t d = 0; d < dim; ++d)
          want[sz((j / mr * dim + d) * mr + j % mr)] = j < rows ? src.get(sz(j * stride + d)) : 0.0f;
      row.key({src.data(), stride, rows, dim, dst.data()});
      ASSERT_NO_FATAL_FAILURE(expect_panels(dst, want));
    }
  }
}

TEST_P(Pack, ValuesBecomePanelsOfMrDims) {
  for (const std::int64_t rows : {1, 2, 3, 8, 17, 64}) {
    for (const std::int64_t dim : kDims) {
      const Place place = random.pick({Place::front, Place::back, Place::misaligned});
      const std::int64_t stride = random.pick({dim, dim + 3, 2 * dim, std::int64_t{0}});
      SCOPED_TRACE(::testing::Message()
                   << row.name << " rows " << rows << " dim " << dim << " stride " << stride);
      const auto src = source(row.element, rows, dim, stride, place, random);
      const std::int64_t panels = (dim + mr - 1) / mr;
      Operand<float> dst(sz(panels * rows * mr), place);
      std::vector<float> want(dst.size());
      for (std::int64_t j = 0; j < rows; ++j)
        for (std::int64_t d = 0; d < panels * mr; ++d)
          want[sz((d / mr * rows + j) * mr + d % mr)] = d < dim ? src.get(sz(j * stride + d)) : 0.0f;
      EXPECT_TRUE(row.value({src.data(), stride, rows, dim, dst.data()}));
      ASSERT_NO_FATAL_FAILURE(expect_panels(dst, want));
    }
  }
}

TEST_P(Pack, ValuesReportWhetherAllAreFiniteWhereverTheOneIs) {
  for (const auto& [rows, dim] : {std::pair{5, 1}, {5, 3}, {5, 8}, {5, 17}, {5, 33}, {19, 9}, {27, 16}}) {
    auto src = source(row.element, rows, dim, dim, Place::back, random);
    Operand<float> dst(sz((dim + mr - 1) / mr * mr * rows), Place::back);
    for (std::size_t i = 0; i < src.size(); ++i) {
      for (const float bad : {kInf, -kInf, std::numeric_limits<float>::quiet_NaN()}) {
        const float kept = src.get(i);
        src.set(i, bad);
        EXPECT_FALSE(row.value({src.data(), dim, rows, dim, dst.data()}))
            << row.name << " dim " << dim << " at " << i << " " << bad;
        src.set(i, kept);
      }
      const float kept = src.get(i);
      src.set(i, row.element == kernels::Element::f16 ? 65504.0f : 0x1.fep127f);
      EXPECT_TRUE(row.value({src.data(), dim, rows, dim, dst.data()}));
      src.set(i, kept);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, Pack,
                         ::testing::ValuesIn(host_rows(kernels::pack_kernels(), kernels::Element::f32)),
                         RowName());

}  // namespace
}  // namespace kumiko::test
