// SPDX-License-Identifier: Apache-2.0
// Every row of kernels/gemm/panels.inc against scalar models of the order that kernels/gemm/panels.h
// promises, bit for bit: f16 steps are computed exactly, in integers, and rounded once.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/element.h"
#include "kernels/gemm/panels.h"
#include "tests/kernels/rows.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

using kernels::F16;
using kernels::Isa;
using kernels::PanelArgs;
using kernels::PanelKernel;
using kernels::PanelType;
using kernels::to_float;

__extension__ using Exact = __int128;  // Holds any product or sum of f16 as a multiple of 2^-48.

// As a multiple of 2^-24, the smallest subnormal.
Exact exact(F16 x) {
  const int exponent = x.bits >> 10 & 31;
  const Exact fraction = (x.bits & 1023) + (exponent > 0 ? 1024 : 0);
  const Exact magnitude = fraction << std::max(exponent - 1, 0);
  return x.bits & 0x8000 ? -magnitude : magnitude;
}
F16 zero_if_subnormal(F16 x) {
  return {static_cast<std::uint16_t>((x.bits & 0x7c00) == 0 ? x.bits & 0x8000 : x.bits)};
}

// a * b + c with one rounding. `flush`: FPCR.FZ16, under which subnormal operands count as zero and a result
// below 2^-14 before rounding becomes zero.
F16 fused(F16 a, F16 b, F16 c, bool flush) {
  if (flush) a = zero_if_subnormal(a), b = zero_if_subnormal(b), c = zero_if_subnormal(c);
  const auto finite = [](F16 x) { return (x.bits & 0x7c00) != 0x7c00; };
  if (!finite(a) || !finite(b) || !finite(c)) {
    F16 out;
    kernels::from_float(std::fma(to_float(a), to_float(b), to_float(c)), &out);
    return out;
  }
  const bool product_negative = (a.bits ^ b.bits) >> 15 & 1, c_negative = c.bits >> 15;
  const Exact sum = exact(a) * exact(b) + exact(c) * (Exact{1} << 24);
  if (sum == 0) return {static_cast<std::uint16_t>(product_negative && c_negative ? 0x8000 : 0)};
  const auto sign = static_cast<std::uint16_t>(sum < 0 ? 0x8000 : 0);
  const Exact magnitude = sum < 0 ? -sum : sum;
  if (flush && magnitude < Exact{1} << 34) return {sign};
  int shift = 24;  // An ulp: 2^-24 for subnormals and the first binade.
  while (magnitude >> (shift + 11)) ++shift;
  Exact rounded = magnitude >> shift;
  const Exact rest = magnitude - (rounded << shift), tie = Exact{1} << (shift - 1);
  if (rest > tie || (rest == tie && rounded % 2 == 1)) ++rounded;
  // The leading bit of `rounded` carries into the exponent, also when rounding up reaches the next binade.
  const auto bits = static_cast<unsigned>(rounded) + (static_cast<unsigned>(shift - 24) << 10);
  return {static_cast<std::uint16_t>(sign | std::min(bits, 0x7c00u))};
}

bool same_value(std::int32_t a, std::int32_t b) {
  return a == b;
}
using test::same_value;

struct Problem {
  std::int64_t k, m, n, gap, k_block;  ///< gap: elements of C between rows, not to be touched
  Place place;
  bool accumulates;
  bool flush;          ///< Kernel and model run with subnormals flushed.
  float scale = 1.0f;  ///< Of the operands: small ones give subnormals.
  float special = 0.0f;
};
std::ostream& operator<<(std::ostream& os, const Problem& p) {
  return os << "k " << p.k << " m " << p.m << " n " << p.n << " gap " << p.gap << " k_block " << p.k_block
            << " place " << static_cast<int>(p.place) << (p.accumulates ? " accumulate" : " init")
            << (p.flush ? " flush" : "") << " scale " << p.scale << " special " << p.special;
}

void set(float x, float* to) {
  *to = x;
}
void set(float x, F16* to) {
  kernels::from_float(x, to);
}
void set(float x, std::int8_t* to) {
  *to = static_cast<std::int8_t>(std::clamp(x * 40.0f, -128.0f, 127.0f));
}
void set(float x, std::int32_t* to) {
  *to = static_cast<std::int32_t>(x * 1e8f);
}

struct Panel : ::testing::TestWithParam<PanelKernel> {
  const PanelKernel& row = GetParam();
  std::int64_t mr = row.mr, nr = row.nr;
  std::int64_t group = row.type == PanelType::i8 ? 4 : 1;
  bool can_flush = kernels::flushes_subnormals(row.isa);

  template <class T>
  static T at(const Operand<T>& x, std::int64_t i) {
    return x[static_cast<std::size_t>(i)];
  }

  // One element of C by the order of panels.h.
  float model(const Problem& p, std::int64_t m, std::int64_t n, const Operand<F16>& a, const Operand<F16>& b,
              float c) const {
    for (std::int64_t first = 0; first < p.k; first += std::min(p.k_block, p.k)) {
      F16 sum{0};
      for (std::int64_t k = first; k < first + std::min(p.k_block, p.k - first); ++k)
        sum = fused(at(a, k * mr + m), at(b, k * nr + n), sum, p.flush);
      c = first == 0 && !p.accumulates ? to_float(sum) : c + to_float(sum);
    }
    return c;
  }
  std::int32_t model(const Problem& p, std::int64_t m, std::int64_t n, const Operand<std::int8_t>& a,
                     const Operand<std::int8_t>& b, std::int32_t c) const {
    std::int64_t sum = p.accumulates ? c : 0;
    for (std::int64_t k = 0; k < p.k; ++k)
      sum += at(a, (k / 4 * mr + m) * 4 + k % 4) * at(b, (k / 4 * nr + n) * 4 + k % 4);
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(sum));
  }

  // A panel: the values that count, surrounded by values that must not reach C.
  template <class T>
  void fill(const Operand<T>& panel, std::int64_t width, std::int64_t used, const Problem& p, bool zero_tail,
            Random& random) const {
    for (std::size_t i = 0; i < panel.size(); ++i) {
      const auto index = static_cast<std::int64_t>(i);
      const std::int64_t lane = index / group % width, k = index / (group * width) * group + index % group;
      float x = random.one_in(16) ? -0.0f : random.normal() * p.scale;
      if (lane >= used) x = std::is_same_v<T, std::int8_t> ? 3.0f : std::numeric_limits<float>::quiet_NaN();
      if (lane < used && k >= p.k && zero_tail) x = 0.0f;
      if (lane == used - 1 && k == p.k - 1 && p.special != 0.0f) x = p.special;
      set(x, panel.data() + i);
    }
  }

  template <class In, class Out>
  void check(const Problem& p, Random& random) const {
    SCOPED_TRACE(::testing::Message() << row.name << " " << p);
    const kernels::FloatState state(p.flush ? Isa::sve512 : Isa::reference);
    const auto steps = static_cast<std::size_t>((p.k + group - 1) / group * group);
    const std::int64_t ldc = p.n + p.gap;
    const Operand<In> a(steps * static_cast<std::size_t>(mr), p.place),
        b(steps * static_cast<std::size_t>(nr), p.place);
    const Operand<Out> c(static_cast<std::size_t>((p.m - 1) * ldc + p.n), p.place);
    const bool zero_a = random.one_in(2);  // int8, k not a multiple of 4: zeros in one of the two suffice.
    fill(a, mr, p.m, p, zero_a, random);
    fill(b, nr, p.n, p, !zero_a, random);
    constexpr std::uint8_t kUntouched = 0x5c;
    std::memset(c.data(), kUntouched, c.size() * sizeof(Out));
    std::vector<Out> before(c.size()), want(c.size());
    for (std::int64_t m = 0; m < p.m && p.accumulates; ++m)
      for (std::int64_t n = 0; n < p.n; ++n)
        set(random.one_in(16) ? -0.0f : random.normal() * p.scale, c.data() + m * ldc + n);
    std::copy(c.span().begin(), c.span().end(), before.begin());
    want = before;
    for (std::int64_t m = 0; m < p.m; ++m) {
      for (std::int64_t n = 0; n < p.n; ++n) {
        const auto i = static_cast<std::size_t>(m * ldc + n);
        want[i] = model(p, m, n, a, b, before[i]);
      }
    }
    const PanelArgs args{a.data(), b.data(), c.data(), ldc * static_cast<std::int64_t>(sizeof(Out)),
                         p.k,      p.m,      p.n,      p.k_block};
    (p.accumulates ? row.accumulate : row.init)(&args);
    for (std::size_t i = 0; i < want.size(); ++i) {
      const auto index = static_cast<std::int64_t>(i);
      ASSERT_TRUE(same_value(c[i], want[i])) << "C[" << index / ldc << "][" << index % ldc << "] is wrong"
                                             << (index % ldc >= p.n ? ": written between rows" : "");
    }
    ASSERT_TRUE(a.intact() && b.intact() && c.intact());
  }

  void check(const Problem& p, Random& random) const {
    switch (row.type) {
      case PanelType::f16_blocked:
        return check<F16, float>(p, random);
      case PanelType::i8:
        return check<std::int8_t, std::int32_t>(p, random);
    }
  }
};

TEST_P(Panel, EqualsTheModelOnRaggedTiles) {
  Random random(test_seed(31));
  // Around 1, 2 and 4 steps a turn of the loop (int8: 4 times that); rows and columns around every register.
  std::vector<std::int64_t> ks;
  for (std::int64_t k = 1; k <= 9; ++k) ks.push_back(k);
  for (const std::int64_t k : {13, 16, 17, 31, 33, 64, 127, 130}) ks.push_back(k);
  const std::vector<std::int64_t> ms = {1, 2, mr / 2, mr - 1, mr, mr, mr};
  const std::vector<std::int64_t> ns = {1,          2,          nr / 4 - 1, nr / 4, nr / 4 + 1, nr / 2 - 1,
                                        nr / 2 + 1, nr * 3 / 4, nr - 1,     nr,     nr,         nr};
  for (const bool accumulates : {false, true}) {
    for (const std::int64_t k : ks) {
      for (const Place place : kPlaces) {
        for (int draw = 0; draw < sweep_size(20); ++draw) {
          const Problem p = {.k = k,
                             .m = random.pick(ms),
                             .n = random.pick(ns),
                             .gap = random.pick<std::int64_t>({0, 0, 1, 16, 37}),
                             .k_block = random.pick<std::int64_t>({1, 2, 3, 5, 8, 32, k, k + 1, 256}),
                             .place = place,
                             .accumulates = accumulates,
                             .flush = can_flush && random.one_in(2),
                             .scale = random.pick({1.0f, 1.0f, 0x1p-6f})};
          ASSERT_NO_FATAL_FAILURE(check(p, random));
        }
      }
    }
  }
}

TEST_P(Panel, EqualsTheModelOnEveryRowAndColumnCount) {
  Random random(test_seed(32));
  for (std::int64_t m = 1; m <= mr; ++m)
    for (std::int64_t n = 1; n <= nr; n += kThinned ? 5 : 1)
      ASSERT_NO_FATAL_FAILURE(check({.k = 5,
                                     .m = m,
                                     .n = n,
                                     .gap = 3,
                                     .k_block = 3,
                                     .place = Place::back,
                                     .accumulates = n % 2 == 0,
                                     .flush = can_flush},
                                    random));
}

TEST_P(Panel, SubnormalsInfinitiesAndOverflow) {
  Random random(test_seed(33));
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const bool flush : {false, can_flush})
    for (const bool accumulates : {false, true})
      for (const std::int64_t k :
           kThinned ? std::vector<std::int64_t>{9} : std::vector<std::int64_t>{1, 4, 9})
        for (const float scale : {1.0f, 0x1p-7f, 0x1p-13f, 0x1p-16f, 0x1p-64f, 0x1p-70f, 100.0f, 200.0f})
          for (const float special : {0.0f, kInf, -kInf, std::numeric_limits<float>::quiet_NaN(), 65504.0f,
                                      std::numeric_limits<float>::max(), 0x1p-24f, 1e-40f}) {
            if (row.type == PanelType::i8 && special != 0.0f) continue;
            ASSERT_NO_FATAL_FAILURE(check({.k = k,
                                           .m = mr,
                                           .n = nr - 1,
                                           .gap = 0,
                                           .k_block = 3,
                                           .place = Place::misaligned,
                                           .accumulates = accumulates,
                                           .flush = flush,
                                           .scale = scale,
                                           .special = special},
                                          random));
          }
}

// Sums that pass 2^31 wrap, and -128 * -128 counts four times a group.
TEST(Panels, Int8SumsWrap) {
  constexpr std::int64_t kSteps = 4 * 33000;
  for (const PanelKernel& row : host_rows(kernels::panel_kernels())) {
    if (row.type != PanelType::i8) continue;
    const std::vector<std::int8_t> a(static_cast<std::size_t>(kSteps * row.mr), -128),
        b(static_cast<std::size_t>(kSteps * row.nr), -128);
    std::vector<std::int32_t> c(static_cast<std::size_t>(row.mr * row.nr), 7);
    const PanelArgs args{a.data(), b.data(), c.data(), row.nr * 4, kSteps, row.mr, row.nr, 1};
    row.accumulate(&args);
    const auto want = static_cast<std::int32_t>(static_cast<std::uint32_t>(kSteps * 128 * 128 + 7));
    for (const std::int32_t x : c) ASSERT_EQ(x, want) << row.name;
  }
}

TEST(Panels, EveryTypeIsFoundOnEveryIsaThatHasIt) {
  for (const PanelType type : {PanelType::f16_blocked, PanelType::i8}) {
    const PanelKernel* row = find_panel(Isa::reference, type);
    ASSERT_NE(row, nullptr) << name(type);
    EXPECT_EQ(row->type, type);
  }
#if defined(__aarch64__)
  const PanelKernel* row = find_panel(Isa::sve512, PanelType::i8);
  ASSERT_NE(row, nullptr);
  EXPECT_EQ(row->isa, Isa::sve512);
#endif
}

INSTANTIATE_TEST_SUITE_P(Rows, Panel, ::testing::ValuesIn(host_rows(kernels::panel_kernels())), RowName());

}  // namespace
}  // namespace kumiko::test
