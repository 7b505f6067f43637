// SPDX-License-Identifier: Apache-2.0
// The micro-kernels are assembly: no compiler saves the callee-saved registers for them. These registers and
// the floating-point control register are unchanged after each call, and on x86 the upper halves of vector
// registers are 0.
#include "tests/kernels/preserved_registers.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/gemm/gemm.h"
#include "kernels/int8_scores/int8_scores.h"
#include "kernels/pack/pack.h"
#include "kernels/score_tile/score_tile.h"
#include "kernels/softmax/softmax.h"
#include "tests/kernels/rows.h"

#if defined(__x86_64__) || defined(__aarch64__)

namespace kumiko::test {
namespace {

using kernels::GemmArgs;
using kernels::GemmKernel;
using kernels::PackKernel;
using kernels::PackKeyArgs;
using kernels::PackQueryArgs;
using kernels::PackValueArgs;
using kernels::SoftmaxArgs;
using kernels::SoftmaxKernel;
using kernels::TransposedGemmKernel;

struct PreservedRegisters : ::testing::TestWithParam<GemmKernel> {};

TEST_P(PreservedRegisters, HoldWhatTheyHeld) {
  const GemmKernel& row = GetParam();
  for (const std::int64_t k : {1, 2, 3, 9}) {
    for (const std::int64_t panels : {1, 2}) {
      const auto mr = static_cast<std::size_t>(row.mr), nr = static_cast<std::size_t>(row.nr);
      const auto ks = static_cast<std::size_t>(k), ps = static_cast<std::size_t>(panels);
      const std::vector<float> a(ps * ks * mr, 0.5f), b(ks * nr, 0.25f), scale(nr, 1.0f);
      std::vector<float> c(ps * mr * nr), max(nr);
      const GemmArgs args{a.data(), row.mr * k * 4, b.data(), c.data(), k, panels, scale.data(), max.data()};
      for (const kernels::GemmFunction function : {row.init, row.init_max, row.accumulate}) {
        SCOPED_TRACE(::testing::Message() << row.name << " k " << k << " panels " << panels << " function "
                                          << (function == row.init       ? "init"
                                              : function == row.init_max ? "init_max"
                                                                         : "accumulate"));
        call_and_check(function, args);
        EXPECT_EQ(c.front(), 0.125f * static_cast<float>(k) * (function == row.accumulate ? 2 : 1));
      }
    }
  }
}

TEST(PreservedRegistersOfHalfGemm, HoldWhatTheyHeld) {
  for (const GemmKernel& row : host_rows(kernels::gemm_kernels())) {
    if (row.product != kernels::Element::f16) continue;
    const auto mr = static_cast<std::size_t>(row.mr), nr = static_cast<std::size_t>(row.nr);
    for (const std::int64_t k : {1, 6, 130}) {
      const std::vector<std::uint16_t> a(130 * mr, 0x3c00), b(130 * nr, 0x3c00);  // 1
      const std::vector<float> scale(nr, 1.0f), row_scale(mr, 1.0f);
      std::vector<float> c(mr * nr), max(nr);
      for (const kernels::GemmFunction function : {row.init, row.init_max, row.accumulate}) {
        for (std::int64_t rows = 1; rows <= row.mr; ++rows) {
          if (rows < row.mr && !row.takes_last_rows(rows)) continue;
          SCOPED_TRACE(::testing::Message() << row.name << " k " << k << " rows " << rows);
          std::fill(c.begin(), c.end(), static_cast<float>(k));
          const GemmArgs args{a.data(),
                              0,
                              b.data(),
                              c.data(),
                              k,
                              1,
                              scale.data(),
                              max.data(),
                              function == row.accumulate ? nullptr : row_scale.data(),
                              rows == row.mr ? 0 : rows};
          call_and_check(function, args);
          EXPECT_EQ(c[nr * static_cast<std::size_t>(rows) - 1],
                    static_cast<float>(function == row.accumulate ? 2 * k : k));
        }
      }
    }
  }
}

struct PreservedRegistersOfSoftmax : ::testing::TestWithParam<SoftmaxKernel> {};

TEST_P(PreservedRegistersOfSoftmax, HoldWhatTheyHeld) {
  const SoftmaxKernel& row = GetParam();
  const bool is_whole = row.product == kernels::Element::f16;  // one width: its lanes are those of a tile
  for (const std::int64_t vectors : {1, 2, 3}) {
    if (is_whole && vectors > 1) continue;
    for (const std::int64_t keys : {1, 3, 7, 16}) {
      const std::int64_t nr = vectors * row.lanes;
      std::vector<float> s(static_cast<std::size_t>(keys * nr), -1.0f),
          top(static_cast<std::size_t>(nr), 0.0f), m(top.size(), 0.0f), l(top.size(), 1.0f),
          alpha(top.size(), 0.0f);
      SCOPED_TRACE(::testing::Message() << row.name << " vectors " << vectors << " keys " << keys);
      call_and_check(row.probabilities,
                     SoftmaxArgs{s.data(), keys, nr, top.data(), m.data(), l.data(), alpha.data()},
                     UpperHalves::any);
      EXPECT_GT(l.back(), 1.0f) << "not run";
    }
  }
}

struct PreservedRegistersOfTransposedGemm : ::testing::TestWithParam<TransposedGemmKernel> {};

TEST_P(PreservedRegistersOfTransposedGemm, HoldWhatTheyHeld) {
  const TransposedGemmKernel& row = GetParam();
  const auto mr = static_cast<std::size_t>(row.mr), nr = static_cast<std::size_t>(row.nr);
  for (const std::int64_t k : {1, 3, 9, 17}) {
    const std::vector<float> a(6 * 2 * mr * mr, 0.5f), b(17 * nr, 0.25f), scale(nr, 1.0f);
    std::vector<float> c(2 * mr * nr);
    const GemmArgs args{a.data(), 2 * row.mr * row.mr * 4, b.data(), c.data(), k, 2, scale.data(), nullptr};
    for (const kernels::GemmFunction function : {row.init, row.accumulate}) {
      SCOPED_TRACE(::testing::Message() << row.name << " k " << k);
      call_and_check(function, args);
      EXPECT_EQ(c.back(), 0.125f * static_cast<float>(k) * (function == row.accumulate ? 2 : 1));
    }
  }
}

struct PreservedRegistersOfPack : ::testing::TestWithParam<PackKernel> {};

TEST_P(PreservedRegistersOfPack, HoldWhatTheyHeld) {
  const PackKernel& row = GetParam();
  for (const std::int64_t count : {1, 3, 8, 16, 35}) {  // rows and elements of a row: whole blocks and rests
    const std::vector<std::uint8_t> src(64 * 64 * 4, 0x3c);
    const std::vector<const void*> rows(48, src.data());
    std::vector<std::uint32_t> dst(64 * 64);
    SCOPED_TRACE(::testing::Message() << row.name << " " << count << " of " << count);
    const PackQueryArgs query{rows.data(), count, 48, count, 1.0f, dst.data()};
    call_and_check(row.query, query, UpperHalves::any);
    EXPECT_NE(dst.front(), 0u) << "query not run";
    dst.front() = 0;
    call_and_check(row.key, PackKeyArgs{src.data(), 64, count, count, dst.data()}, UpperHalves::any);
    EXPECT_NE(dst.front(), 0u) << "key not run";
    dst.front() = 0;
    call_and_check(row.value, PackValueArgs{src.data(), 64, count, count, dst.data()}, UpperHalves::any);
    EXPECT_NE(dst.front(), 0u) << "value not run";
  }
}

std::vector<kernels::Int8ScoresKernel> int8_rows() {
  std::vector<kernels::Int8ScoresKernel> rows = host_rows(kernels::int8_scores_kernels());
  std::erase_if(rows, [](const kernels::Int8ScoresKernel& row) { return !host_has(row.extension); });
  return rows;
}

struct PreservedRegistersOfInt8Scores : ::testing::TestWithParam<kernels::Int8ScoresKernel> {};

TEST_P(PreservedRegistersOfInt8Scores, HoldWhatTheyHeld) {
  const kernels::Int8ScoresKernel& row = GetParam();
  const std::vector<std::uint8_t> a(12 * 64 * 4, 0x01), b(12 * 64 * 4, 0x01);
  const std::vector<float> factors(64, 1.0f);
  for (const std::int64_t k : {1, 3, 4, 9}) {
    for (int vectors = 1; vectors <= 3 && row.tile[vectors - 1]; ++vectors) {
      std::vector<float> c(64 * 64), max(64);
      const GemmArgs args{a.data(), (k + 1) * row.mr * 4, b.data(),   c.data(),      k,
                          1,        factors.data(),       max.data(), factors.data()};
      SCOPED_TRACE(::testing::Message() << row.name << " k " << k << " vectors " << vectors);
      call_and_check(row.tile[vectors - 1], args);
      EXPECT_NE(c.front(), 0.0f) << "not run";
    }
  }
}

struct PreservedRegistersOfScoreTile : ::testing::TestWithParam<kernels::ScoreTileKernel> {};

TEST_P(PreservedRegistersOfScoreTile, HoldWhatTheyHeld) {
  const kernels::ScoreTileKernel& row = GetParam();
  for (const std::int64_t count : {1, 3, 16, 35}) {  // rows and keys
    const std::vector<float> src(64, 0.5f);
    const std::vector<const void*> rows(48, src.data());
    std::vector<float> s(48 * 64), top(48);
    SCOPED_TRACE(::testing::Message() << row.name << " " << count);
    call_and_check(row.load_f32,
                   kernels::LoadScoresArgs{rows.data(), count, 48, count, 2.0f, s.data(), top.data()},
                   UpperHalves::any);
    EXPECT_EQ(s.front(), 1.0f) << "not run";
    EXPECT_EQ(top.front(), 1.0f);
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, PreservedRegistersOfScoreTile,
                         ::testing::ValuesIn(host_rows(kernels::score_tile_kernels())), RowName());
INSTANTIATE_TEST_SUITE_P(Rows, PreservedRegistersOfInt8Scores, ::testing::ValuesIn(int8_rows()), RowName());
INSTANTIATE_TEST_SUITE_P(Rows, PreservedRegistersOfPack,
                         ::testing::ValuesIn(host_rows_but_half(kernels::pack_kernels())), RowName());
INSTANTIATE_TEST_SUITE_P(Rows, PreservedRegisters,
                         ::testing::ValuesIn(host_rows_but_half(kernels::gemm_kernels())), RowName());
INSTANTIATE_TEST_SUITE_P(Rows, PreservedRegistersOfSoftmax,
                         ::testing::ValuesIn(host_rows(kernels::softmax_kernels())), RowName());
INSTANTIATE_TEST_SUITE_P(Rows, PreservedRegistersOfTransposedGemm,
                         ::testing::ValuesIn(host_rows(kernels::transposed_gemm_kernels())), RowName());

}  // namespace
}  // namespace kumiko::test
#endif
