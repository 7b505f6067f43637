// SPDX-License-Identifier: Apache-2.0
// The micro-kernels are assembly: no compiler saves the callee-saved registers for them. These registers and
// the floating-point control register are unchanged after each call, and on x86 the upper halves of vector
// registers are 0.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "kernels/decode/decode.h"
#include "kernels/gemm/gemm.h"
#include "kernels/int8_scores/int8_scores.h"
#include "kernels/pack/pack.h"
#include "kernels/score_tile/score_tile.h"
#include "kernels/simd/fetch.h"
#include "kernels/softmax/softmax.h"
#include "tests/kernels/rows.h"

#if defined(__x86_64__) || defined(__aarch64__)

#if defined(__aarch64__)
constexpr const char* kRegisters[] = {"x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28",
                                      "x29", "d8",  "d9",  "d10", "d11", "d12", "d13", "d14", "d15"};
#else
constexpr const char* kRegisters[] = {"rbx", "rbp", "r12", "r13", "r14", "r15"};
#endif
using Registers = std::array<std::uint64_t, std::size(kRegisters)>;

extern "C" void call_with_canaries(void (*function)(), const void* args, const std::uint64_t* in,
                                   std::uint64_t* out);

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

#if defined(__aarch64__)
constexpr std::uint64_t kUnusualControl = 1u << 22 | 1u << 24;  // round up, flush to zero
std::uint64_t control() {
  std::uint64_t value;
  asm volatile("mrs %0, fpcr" : "=r"(value));
  return value;
}
void set_control(std::uint64_t value) {
  asm volatile("msr fpcr, %0" ::"r"(value));
}
#else
constexpr std::uint64_t kUnusualControl = 0x1f80 | 0x4000 | 0x8000;
std::uint64_t control() {
  return _mm_getcsr() & ~0x3fu;  // without the sticky flags
}
void set_control(std::uint64_t value) {
  _mm_setcsr(static_cast<unsigned>(value));
}

/// The upper halves of the AVX registers, as they are; 0 without AVX. If they are not 0, each change from an
/// AVX instruction to an SSE one and back takes 117 ns in the place of 1.4 (Zen 3, a loop of seven
/// instructions), and the code around the kernels is SSE.
std::array<std::uint64_t, 2 * 16> upper_halves() {
  std::array<std::uint64_t, 2 * 16> upper{};
  if (!__builtin_cpu_supports("avx")) return upper;
  asm volatile(
      ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n\t"
      "vextractf128 $1, %%ymm\\n, 16 * \\n(%0)\n\t"
      ".endr\n\t"
      "vzeroupper" ::"r"(upper.data())
      : "memory");
  return upper;
}
#endif

// `any`: of kernels that are compiled on x86, because GCC leaves 0 there from -O2 on alone.
enum class UpperHalves { zero, any };

// Calls function(&args) with canaries in every register, and checks them afterwards. A reference is passed as
// a pointer.
template <class Function, class Args>
void call_and_check(Function* function, const Args& args,
                    [[maybe_unused]] UpperHalves wanted = UpperHalves::zero) {
  Registers canaries{}, found{};
  for (std::size_t i = 0; i < canaries.size(); ++i) canaries[i] = 0xc0ffee00c0ffee00u + i;
  const std::uint64_t before = control();
  set_control(kUnusualControl);
  call_with_canaries(reinterpret_cast<void (*)()>(function), &args, canaries.data(), found.data());
#if defined(__x86_64__)
  const auto upper = upper_halves();
  if (wanted == UpperHalves::zero) {
    EXPECT_EQ(upper, decltype(upper){}) << "upper halves of vector registers";
  }
#endif
  const std::uint64_t after = control();
  set_control(before);
  for (std::size_t i = 0; i < canaries.size(); ++i)
    EXPECT_EQ(found[i], canaries[i]) << kRegisters[i] << std::hex << " holds " << found[i];
  EXPECT_EQ(after, kUnusualControl) << "floating-point control";
}

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
