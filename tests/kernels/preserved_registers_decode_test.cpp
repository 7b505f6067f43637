// SPDX-License-Identifier: Apache-2.0
// As preserved_registers_test.cpp, of the kernels of decode.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/decode/decode.h"
#include "kernels/simd/fetch.h"
#include "tests/kernels/preserved_registers.h"
#include "tests/kernels/rows.h"

#if defined(__x86_64__) || defined(__aarch64__)

namespace kumiko::test {
namespace {

struct PreservedRegistersOfDecode : ::testing::TestWithParam<kernels::DecodeKernel> {};

// Everything is 0, which all element types and products have in common.
TEST_P(PreservedRegistersOfDecode, HoldWhatTheyHeld) {
  const kernels::DecodeKernel& row = GetParam();
  constexpr std::int64_t kKeys = 70, kDim = 64, kStride = 128, kRowBytes = kDim * 4;
  const std::vector<float> zeros(kKeys * kDim + kDim * kStride);
  const void* const group[] = {zeros.data()};
  const kernels::RowGroups keys{group, kDim, 7};
  const auto* const first = reinterpret_cast<const char*>(zeros.data());
  const kernels::RowRange ranges[] = {{first, kRowBytes, kRowBytes, kKeys},
                                      {first, kRowBytes, kRowBytes, kernels::kNoEnd}};
  const kernels::RowList ahead{ranges, ranges + 1};
  const kernels::KeyRun run{0, kKeys};
  for (const std::int64_t rows : {1, 3, 4, 8}) {
    SCOPED_TRACE(::testing::Message() << row.name << " rows " << rows);
    const std::vector<kernels::KeyRuns> runs(8, kernels::KeyRuns{&run, 1});
    const std::vector<std::int32_t> begin(8, 0), end(8, kKeys);
    const std::vector<float> range(64, 1.0f);
    std::vector<float> scores(8 * kStride, 7.0f), m(8, 1.0f), l(8, 1.0f), o(8 * kStride, 2.0f);
    kernels::DecodeScoresArgs score{};
    score.q = zeros.data(), score.q_stride = kDim, score.k = keys, score.rows = rows, score.dim = kDim;
    score.kv = kKeys, score.scores = scores.data(), score.score_stride = kStride;
    score.rows_ahead = ahead, score.range = range.data();
    call_and_check(row.scores, score, UpperHalves::any);
    EXPECT_EQ(scores.front(), 0.0f) << "scores not run";
    kernels::DecodeSoftmaxArgs softmax{};
    softmax.scores = scores.data(), softmax.score_stride = kStride, softmax.rows = rows, softmax.kv = kKeys;
    softmax.begin = begin.data(), softmax.end = end.data(), softmax.m = m.data(), softmax.l = l.data();
    softmax.o = o.data(), softmax.o_stride = kStride, softmax.v_dim = kDim, softmax.rows_ahead = ahead;
    call_and_check(row.softmax, softmax, UpperHalves::any);
    EXPECT_NE(scores.front(), 0.0f) << "softmax not run";
    std::fill(o.begin(), o.end(), 2.0f);
    kernels::DecodeValuesArgs values{};
    values.p = scores.data(), values.p_stride = kStride, values.v = keys, values.rows = rows;
    values.v_dim = kDim, values.kv = kKeys, values.runs = runs.data(), values.l = l.data();
    values.o = o.data(), values.o_stride = kStride, values.rows_ahead = ahead;
    call_and_check(row.add_values, values, UpperHalves::any);
    EXPECT_EQ(o.front(), 2.0f);
    EXPECT_GT(l.front(), 1.0f);
  }
}

#if defined(__aarch64__)
// The loops of decode that save more registers than those of vectors: around them a compiler may save the
// same.
extern "C" void decode_f32_sve512_scores_of_keys(const void*);
extern "C" void decode_f16_sve512_turn_keys(const void*);

TEST(PreservedRegistersOfDecodeLoops, HoldWhatTheyHeld) {
  if (!(kernels::host_isas() & kernels::bit(kernels::Isa::sve512))) GTEST_SKIP() << "no sve512";
  constexpr std::int64_t kKeys = 64, kDim = 16;
  const std::vector<float> zeros(kKeys * kDim);
  const auto* const first = reinterpret_cast<const char*>(zeros.data());
  const kernels::RowRange ranges[] = {{first, kDim * 4, kDim * 4, kernels::kNoEnd},
                                      {first, kDim * 4, kDim * 4, kernels::kNoEnd}};
  kernels::RowFetcher ahead({ranges, ranges + 1}, 0, 1, 1);
  const std::vector<const void*> rows(kKeys + 16, zeros.data());
  std::vector<float> out(4 * kKeys, 7.0f);
  std::vector<float> room(3 * 1024);  // 4 KiB of it that are aligned to as much
  const auto turned = (reinterpret_cast<std::uintptr_t>(room.data()) + 4095) / 4096 * 4096;
  const struct {  // as in decode/arm_sve512_scores.h
    const void* group;
    std::int64_t k_bytes;
    const float* q;
    std::int64_t q_bytes, turns, count;
    float* scores;
    std::int64_t score_bytes;
    std::uintptr_t turned;
    kernels::RowFetcher* ahead;
  } scores{rows.data(), kDim * 4, zeros.data(), kDim * 4, kDim / 8, 1, out.data(), kKeys * 4, turned, &ahead};
  call_and_check(decode_f32_sve512_scores_of_keys, scores);
  EXPECT_EQ(out.back(), 0.0f) << "scores not run";
  std::vector<std::uint16_t> to(kKeys * kDim, 7), most(kKeys, 7);
  const struct {  // as in decode/arm_sve512_half_scores.h
    const void* row;
    std::int64_t dim, groups;
    std::uint16_t *to, *most;
    kernels::RowFetcher* ahead;
  } keys{rows.data(), kDim, kKeys / 32, to.data(), most.data(), &ahead};
  call_and_check(decode_f16_sve512_turn_keys, keys);
  EXPECT_EQ(most.back(), 0) << "turn not run";
}
#endif

INSTANTIATE_TEST_SUITE_P(Rows, PreservedRegistersOfDecode,
                         ::testing::ValuesIn(host_rows(kernels::decode_kernels())), RowName());

}  // namespace
}  // namespace kumiko::test
#endif
