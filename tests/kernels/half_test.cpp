// SPDX-License-Identifier: Apache-2.0
// Rows of product f16: tiles, panels and softmax against scalar models in the order of their contracts, bit
// for bit. Their decode has half_decode_test.cpp.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/gemm/gemm.h"
#include "kernels/pack/pack.h"
#include "kernels/simd/half_scalar.h"
#include "kernels/softmax/softmax.h"
#include "tests/kernels/exp2_model.h"
#include "tests/kernels/half_steps.h"
#include "tests/kernels/rows.h"
#include "tests/support/tensor.h"

namespace kumiko::test {
namespace {

using kernels::F16;
using kernels::Isa;
using kernels::to_float;

bool same_half(F16 a, F16 b) {
  return same_value(to_float(a), to_float(b));
}
template <class Row>
std::vector<Row> half_rows(std::span<const Row> rows) {
  return host_rows(rows, kernels::Element::f16);
}

struct HalfGemm : RowTest<kernels::GemmKernel> {
  enum class Mode { init, init_max, accumulate };
  Random random{test_seed(311)};

  void check(std::int64_t k, std::int64_t panels, Mode mode, bool has_scales, Place place, float special,
             std::int64_t last_rows = 0) {
    const std::int64_t first_steps =
        random.one_in(2) ? kernels::kHalfChain : random.between(1, kernels::kHalfChain);
    const std::int64_t rows = panels * row.mr - (last_rows == 0 ? 0 : row.mr - last_rows);
    const std::int64_t gap = random.between(0, 3), mr = row.mr, nr = row.nr;
    // A in panels, or in rows of a step each, of which nothing past the rows that are wanted may be read.
    const bool is_packed = random.one_in(2);
    const std::int64_t panel = is_packed ? k * mr + gap : mr, step = is_packed ? mr : rows + gap;
    SCOPED_TRACE(::testing::Message() << row.name << " mode " << static_cast<int>(mode) << " k " << k
                                      << " panels " << panels << " scales " << has_scales << " last rows "
                                      << last_rows << " first steps " << first_steps << " step " << step);
    Operand<std::uint16_t> a(sz(is_packed ? panels * panel - gap : k * step - gap), place),
        b(sz(k * nr), place);
    Operand<float> c(sz(panels * mr * nr), place), scale(sz(nr), place), max(sz(nr), place),
        row_scale(sz(panels * mr), place);
    for (auto& x : a.span()) x = half_draw(random).bits;
    for (auto& x : b.span()) x = half_draw(random).bits;
    if (special != 0.0f) a[sz((k - 1) * step)] = half_of(special).bits, b[0] = half_of(-special).bits;
    for (float& x : c.span()) x = mode == Mode::accumulate ? random.normal() : poison();
    for (float& x : scale.span()) x = std::ldexp(1.0f, static_cast<int>(random.between(-9, 9)));
    for (float& x : row_scale.span()) x = std::ldexp(1.0f, static_cast<int>(random.between(-9, 9)));
    for (float& x : max.span()) x = random.pick({-kInf, 0.0f, 3.0f});
    std::vector<float> want(c.span().begin(), c.span().end()), want_max(max.span().begin(), max.span().end());
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t n = 0; n < nr; ++n) {
        const std::size_t at = sz(i * nr + n);
        float sum = mode == Mode::accumulate ? c[at] * scale[sz(n)] : 0.0f;
        std::int64_t j = 0;
        const auto next_chain = [&](std::int64_t steps) {
          F16 chain{};
          for (const std::int64_t end = std::min(k, j + steps); j < end; ++j)
            chain = half_step(row.isa, F16{a[sz(i / mr * panel + j * step + i % mr)]}, F16{b[sz(j * nr + n)]},
                              chain);
          return chain;
        };
        while (j < k) {
          const bool is_first = j == 0;
          F16 pair = next_chain(is_first ? first_steps : kernels::kHalfChain);
          if (j < k) pair = half_sum(row.isa, pair, next_chain(kernels::kHalfChain));
          sum = mode != Mode::accumulate && is_first ? to_float(pair) : sum + to_float(pair);
        }
        if (mode != Mode::accumulate && has_scales) sum = sum * scale[sz(n)] * row_scale[sz(i)];
        want[at] = sum;
        if (mode == Mode::init_max && sum > want_max[sz(n)]) want_max[sz(n)] = sum;
      }
    }
    const bool reads_scales = has_scales || mode == Mode::accumulate;
    const kernels::GemmArgs args{a.data(),
                                 panel * 2,
                                 b.data(),
                                 c.data(),
                                 k,
                                 panels,
                                 reads_scales ? scale.data() : nullptr,
                                 max.data(),
                                 has_scales && mode != Mode::accumulate ? row_scale.data() : nullptr,
                                 last_rows,
                                 first_steps,
                                 is_packed ? 0 : step * 2};
    (mode == Mode::init ? row.init : mode == Mode::init_max ? row.init_max : row.accumulate)(&args);
    for (std::size_t i = 0; i < want.size(); ++i)
      ASSERT_TRUE(same_value(c[i], want[i])) << "C[" << i << "] is " << c[i] << ", want " << want[i];
    for (std::size_t n = 0; n < max.size(); ++n) ASSERT_EQ(max[n], want_max[n]) << "c_max[" << n << "]";
    ASSERT_TRUE(a.intact() && b.intact() && c.intact() && scale.intact() && max.intact() &&
                row_scale.intact());
  }
};

// What the models below round with: halfway between two neighbours to the even one, else to the nearer one.
TEST(HalfScalar, RoundsToTheNearestAndTiesToEven) {
  const auto value = [](std::uint16_t bits) { return static_cast<double>(to_float(F16{bits})); };
  for (std::uint16_t bits = 0; bits < 0x7bff; ++bits) {
    const auto next = static_cast<std::uint16_t>(bits + 1);
    const double low = value(bits), high = value(next), middle = 0.5 * (low + high);
    for (const double sign : {1.0, -1.0}) {
      const std::uint16_t minus = sign < 0 ? 0x8000 : 0;
      ASSERT_EQ(kernels::round_to_half(sign * middle).bits, (bits % 2 == 0 ? bits : next) | minus) << bits;
      ASSERT_EQ(kernels::round_to_half(sign * std::nextafter(middle, low)).bits, bits | minus) << bits;
      ASSERT_EQ(kernels::round_to_half(sign * std::nextafter(middle, high)).bits, next | minus) << bits;
    }
  }
}

// The first sum is stored as it is: added to a zero it would lose its sign.
TEST_P(HalfGemm, ASumThatUnderflowsKeepsItsSign) {
  std::vector<std::uint16_t> a(sz(row.mr), half_of(0x1p-14f).bits), b(sz(row.nr), half_of(-0x1p-14f).bits);
  std::vector<float> c(sz(row.mr * row.nr), 1.0f);
  const kernels::GemmArgs args{a.data(), row.mr * 2, b.data(), c.data(), 1, 1, nullptr, nullptr};
  row.init(&args);
  for (const float x : c) ASSERT_TRUE(x == 0.0f && std::signbit(x)) << x;
}

TEST_P(HalfGemm, EqualsChainsOfStepsAddedInSinglePrecision) {
  for (const Mode mode : {Mode::init, Mode::init_max, Mode::accumulate})
    for (const std::int64_t k : {1, 31, 128, 129, 256, 257, 400})
      for (const std::int64_t panels : {1, 2})
        for (const Place place : places(k)) {
          if (k * panels > thinned(600, 400, 400) || (k == 256 && mode == Mode::init)) continue;
          ASSERT_NO_FATAL_FAILURE(check(k, panels, mode, random.one_in(2), place, 0.0f));
        }
}

TEST_P(HalfGemm, WhatIsNotFiniteStaysInItsRowsAndColumns) {
  for (const Mode mode : {Mode::init, Mode::init_max, Mode::accumulate})
    for (const float special : {kInf, std::numeric_limits<float>::quiet_NaN(), 65504.0f})
      ASSERT_NO_FATAL_FAILURE(check(130, 2, mode, true, Place::back, special));
}

// Elements of what is no row are kept: those of A would change their sums and the maxima.
TEST_P(HalfGemm, LeavesOutWhatIsNotWantedOfTheLastPanel) {
  int numbers = 0;
  for (std::int64_t rows = 0; rows <= row.mr; ++rows) {
    if (!row.takes_last_rows(rows)) continue;
    ++numbers;
    for (const Mode mode : {Mode::init, Mode::init_max, Mode::accumulate})
      for (const std::int64_t k : {2, 7, 128, 133})
        for (const std::int64_t panels : {1, 2})
          ASSERT_NO_FATAL_FAILURE(
              check(k, panels, mode, random.one_in(2), random.pick({Place::front, Place::back}), 0.0f, rows));
  }
  EXPECT_GT(numbers, 2);
}

struct HalfPack : RowTest<kernels::PackKernel> {
  static constexpr std::int64_t kWidths[] = {1, 2, 15, 16, 17, 31, 32, 33, 64, 72, 129, 290};
  Random random{test_seed(312)};

  struct Source {
    Operand<std::uint16_t> memory;
    std::int64_t stride;
    const F16* row(std::int64_t j) const { return reinterpret_cast<const F16*>(memory.data()) + j * stride; }
  };
  Source source(std::int64_t rows, std::int64_t dim, std::int64_t stride, Place place) {
    Source made{{sz((rows - 1) * stride + dim), place}, stride};
    for (auto& x : made.memory.span()) x = 0x7fc5;
    for (std::int64_t j = 0; j < rows; ++j) {
      // Rows of all sizes: subnormal, beyond the square root of the largest, zero.
      const float size = random.pick({1.0f, 1.0f, 0x1p-9f, 0x1p-16f, 3000.0f, 0.0f});
      for (std::int64_t d = 0; d < dim; ++d)
        made.memory[sz(j * stride + d)] = half_of(size * random.normal()).bits;
      if (random.one_in(6)) made.memory[sz(j * stride + random.between(0, dim - 1))] = half_of(kInf).bits;
    }
    return made;
  }
};

TEST_P(HalfPack, QueriesGetTheRangeOfTheirMagnitudes) {
  for (const std::int64_t dim : kWidths) {
    for (const float scale : {0.18f, -3.0f, 0.0f, 1e30f}) {
      const Place place = random.pick({Place::front, Place::back, Place::misaligned});
      const std::int64_t nr = row.lanes, used = random.between(1, nr);
      SCOPED_TRACE(::testing::Message()
                   << row.name << " used " << used << " dim " << dim << " scale " << scale);
      const Source src = source(used, dim, dim + random.between(0, 4), place);
      std::vector<const void*> rows;
      for (std::int64_t n = 0; n < used; ++n) rows.push_back(src.row(n));
      Operand<std::uint16_t> dst(sz(dim * nr), place);
      Operand<float> range(sz(nr), place);
      row.query({rows.data(), used, nr, dim, scale, dst.data(), range.data()});
      for (std::int64_t n = 0; n < nr; ++n) {
        float sums[16] = {};
        for (std::int64_t d = 0; n < used && d < dim; ++d) {
          const float x = std::abs(to_float(src.row(n)[d]));
          if (std::isfinite(x)) sums[d % 16] += x;
        }
        for (int half = 8; half > 0; half /= 2)
          for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
        const float total = sums[0] * std::abs(scale);
        int e = 14;
        if (total > 0.0f) std::frexp(total, &e);
        ASSERT_EQ(range[sz(n)], std::ldexp(1.0f, e - 14)) << n;
        double sum = 0;
        for (std::int64_t d = 0; d < dim; ++d) {
          const F16 got{dst[sz(d * nr + n)]};
          const F16 want = n < used ? half_of(to_float(src.row(n)[d]) * std::ldexp(scale, 14 - e)) : F16{};
          ASSERT_TRUE(same_half(got, want)) << n << " " << d;
          if (std::isfinite(to_float(want))) sum += std::abs(static_cast<double>(to_float(want)));
        }
        ASSERT_LE(sum, 16384 * 1.001) << "scores may overflow";
      }
      ASSERT_TRUE(dst.intact() && range.intact());
    }
  }
}

TEST_P(HalfPack, KeysGetTheRangeOfTheirLargestElement) {
  for (const std::int64_t rows : {1, 3, 12, 13, 14, 40}) {
    for (const std::int64_t dim : kWidths) {
      const Place place = random.pick({Place::front, Place::back, Place::misaligned});
      SCOPED_TRACE(::testing::Message() << row.name << " rows " << rows << " dim " << dim);
      const Source src = source(rows, dim, random.pick({dim, dim + 3}), place);
      const std::int64_t mr = row.mr, panels = (rows + mr - 1) / mr;
      Operand<std::uint16_t> dst(sz(panels * dim * mr), place);
      Operand<float> range(sz(panels * mr), place);
      row.key({src.row(0), src.stride, rows, dim, dst.data(), range.data()});
      for (std::int64_t j = 0; j < panels * mr; ++j) {
        float largest = 0;
        for (std::int64_t d = 0; j < rows && d < dim; ++d) {
          const float x = std::abs(to_float(src.row(j)[d]));
          if (std::isfinite(x)) largest = std::max(largest, x);
        }
        const int e = largest < 0x1p-14f ? 0 : std::ilogb(largest);
        ASSERT_EQ(range[sz(j)], std::ldexp(1.0f, e)) << j;
        for (std::int64_t d = 0; d < dim; ++d) {
          const F16 got{dst[sz((j / mr * dim + d) * mr + j % mr)]};
          const double x = j < rows ? kept_half(row.isa, static_cast<double>(to_float(src.row(j)[d]))) : 0.0;
          ASSERT_TRUE(same_half(got, kernels::round_to_half(kept_half(row.isa, std::ldexp(x, -e)))))
              << j << " " << d << ": " << to_float(got);
        }
      }
      ASSERT_TRUE(dst.intact() && range.intact());
    }
  }
}

TEST_P(HalfPack, ValuesAreCopiedAndThoseBeyondTheLimitReported) {
  for (const std::int64_t rows : {1, 2, 8, 41}) {
    for (const std::int64_t dim : kWidths) {
      const std::int64_t mr = row.mr, panels = (dim + mr - 1) / mr, stride = random.pick({dim, dim + 3});
      SCOPED_TRACE(::testing::Message() << row.name << " rows " << rows << " dim " << dim);
      Operand<std::uint16_t> src(sz((rows - 1) * stride + dim), Place::back),
          dst(sz(panels * rows * mr), Place::back);
      for (auto& x : src.span()) x = half_draw(random).bits;
      const std::size_t at = sz(random.between(0, rows - 1) * stride + random.between(0, dim - 1));
      for (const auto& [value, within] : {std::pair{256.0f, true},
                                          {-256.25f, false},
                                          {kInf, false},
                                          {std::numeric_limits<float>::quiet_NaN(), false}}) {
        src[at] = half_of(value).bits;
        ASSERT_EQ(row.value({src.data(), stride, rows, dim, dst.data()}), within) << value;
        ASSERT_EQ(row.value({src.data(), stride, rows, dim, nullptr}), within) << value;
        for (std::int64_t d = 0; d < panels * mr; ++d)
          for (std::int64_t j = 0; j < rows; ++j)
            ASSERT_EQ(dst[sz((d / mr * rows + j) * mr + d % mr)], d < dim ? src[sz(j * stride + d)] : 0)
                << j << " " << d;
      }
      ASSERT_TRUE(dst.intact());
    }
  }
}

struct HalfSoftmax : RowTest<kernels::SoftmaxKernel> {
  float exp2(float x) const { return exp2_model(row.isa, x); }
  /// 2^15 times a key's weight against the whole number b.
  float exponential(float s, float b) const {
    return uses_fexpa(row.isa) ? half_fexpa_model(s, b) : std::ldexp(exp2(s - b), 15);
  }
  // P as f16 has it.
  static float weight(float p) {
    return std::abs(p) < 0x1p-14f ? std::copysign(0.0f, p) : to_float(half_of(p));
  }
  static float not_minus_infinity(float m) { return m == -kInf ? 0.0f : m; }

  struct Column {
    float m, l, alpha;
    std::vector<float> p;
  };
  Column model(const std::vector<float>& s, float top, float m, float l) const {
    Column c{m, l, 0, {}};
    const float b = std::ceil(top);
    std::uint64_t sum = 0;
    bool has_nan = false;
    for (const float x : s) {
      const float p = exponential(x, not_minus_infinity(b));
      c.p.push_back(weight(p));
      has_nan = has_nan || std::isnan(p);
      // Halves of the last place go to the even whole number.
      if (!std::isnan(p)) sum += static_cast<std::uint64_t>(std::nearbyint(static_cast<double>(p) * 256));
    }
    const int e = sum == 0 ? 0 : static_cast<int>(std::floor(std::log2(static_cast<double>(sum)))) - 23;
    c.m = std::max(b - static_cast<float>(6 - e), m);
    const float exponent = b - not_minus_infinity(c.m);
    c.alpha = exp2(m - not_minus_infinity(c.m));
    c.l = has_nan ? std::numeric_limits<float>::quiet_NaN()
                  : std::fma(static_cast<float>(sum), exp2(exponent) * 0x1p-23f, l * c.alpha);
    for (float& p : c.p) p = weight(p * exp2(std::max(exponent, -100.0f)) * 0x1p-15f);
    return c;
  }
  Column model_without_softmax(const std::vector<float>& s, float m, float l) const {
    float largest = 0;
    for (const float x : s)
      if (std::isfinite(x)) largest = std::max(largest, std::abs(x));
    int e = 0;
    std::frexp(largest, &e);
    Column c{std::max(largest == 0.0f ? -kInf : static_cast<float>(std::min(e + 1, 126)), m), l, 0, {}};
    c.alpha = exp2(m - not_minus_infinity(c.m));
    for (const float x : s) c.p.push_back(weight(x * exp2(-not_minus_infinity(c.m))));
    return c;
  }

  void check(std::int64_t kv, Place place, bool has_softmax, Random& random) {
    const std::int64_t nr = row.lanes;
    const bool all_finite = !has_softmax && random.one_in(2);
    SCOPED_TRACE(::testing::Message() << row.name << " kv " << kv << " softmax " << has_softmax);
    Operand<float> s(sz(kv * nr), place), top(sz(nr), place), m(sz(nr), place), l(sz(nr), place),
        alpha(sz(nr), place);
    std::vector<Column> want;
    for (std::int64_t n = 0; n < nr; ++n) {
      // Ordinary, first block, no key seen so far, reference far above, far below, all -inf, NaN, all equal.
      const float far = n % 24 == 12 ? 1e9f : n % 24 == 20 ? -0x1p22f : 90.0f;
      const std::int64_t part = n % 8;
      float& m_n = m[sz(n)];
      m_n = part == 1 || part == 2 || part == 5 ? -kInf
            : part == 3                         ? 100.0f
                                                : std::floor(8 * random.normal());
      l[sz(n)] = m_n == -kInf ? 0.0f : 64.0f + std::abs(random.normal());
      top[sz(n)] = -kInf;
      std::vector<float> column;
      for (std::int64_t j = 0; j < kv; ++j) {
        float x = part == 7 ? 3.5f : 6 * random.normal() + (part == 4 ? far : 0.0f);
        if (part == 2 || part == 5 || random.one_in(8)) x = has_softmax ? -kInf : 0.0f;
        if (part == 6 && j == kv / 2 && !all_finite) x = std::numeric_limits<float>::quiet_NaN();
        if (part == 3 && j == kv / 2 && !all_finite && !has_softmax) x = -kInf;
        column.push_back(x), s[sz(j * nr + n)] = x;
        top[sz(n)] = x > top[sz(n)] ? x : top[sz(n)];
      }
      want.push_back(has_softmax ? model(column, top[sz(n)], m_n, l[sz(n)])
                                 : model_without_softmax(column, m_n, l[sz(n)]));
    }
    (has_softmax ? row.probabilities
                 : row.weights)({s.data(), kv, nr, top.data(), m.data(), l.data(), alpha.data()});
    const auto* const p = reinterpret_cast<const F16*>(s.data());
    for (std::int64_t n = 0; n < nr; ++n) {
      const Column& c = want[sz(n)];
      if (std::isnan(c.l)) {  // Its sum, reference and other weights may be any.
        ASSERT_TRUE(std::isnan(l[sz(n)])) << n;
        for (std::int64_t j = 0; j < kv; ++j)
          ASSERT_TRUE(!std::isnan(c.p[sz(j)]) || std::isnan(to_float(p[j * nr + n]))) << j << " " << n;
        continue;
      }
      for (std::int64_t j = 0; j < kv; ++j)
        ASSERT_TRUE(same_value(to_float(p[j * nr + n]), c.p[sz(j)]))
            << "P[" << j << "][" << n << "] is " << to_float(p[j * nr + n]) << ", want " << c.p[sz(j)];
      ASSERT_TRUE(same_value(m[sz(n)], c.m)) << "m[" << n << "] " << m[sz(n)] << ", want " << c.m;
      ASSERT_TRUE(same_value(l[sz(n)], c.l)) << "l[" << n << "] " << l[sz(n)] << ", want " << c.l;
      ASSERT_TRUE(same_value(alpha[sz(n)], c.alpha)) << "alpha[" << n << "]";
      if (has_softmax && std::abs(top[sz(n)]) < 0x1p22f && n % 8 != 6) {
        ASSERT_GE(l[sz(n)], 63.0f) << n;
        float sum = 0;
        for (const float x : c.p) sum += x;
        ASSERT_LE(sum, 128.1f) << n;
      }
    }
    ASSERT_TRUE(s.intact() && top.intact() && m.intact() && l.intact() && alpha.intact());
  }
};

TEST_P(HalfSoftmax, TilesEqualTheScalarWalk) {
  Random random(test_seed(313));
  for (const std::int64_t kv : {1, 2, 3, 65, 256})
    for (const Place place : kPlaces)
      for (const bool has_softmax : {true, false})
        ASSERT_NO_FATAL_FAILURE(check(kv, place, has_softmax, random));
}

TEST_P(HalfSoftmax, MasksHideAndRaiseMaxima) {
  Random random(test_seed(314));
  const std::int64_t nr = row.lanes, kv = 20;
  Operand<float> s(sz(kv * nr), Place::back), top(sz(nr), Place::back);
  Operand<std::int32_t> begin(sz(nr), Place::back), end(sz(nr), Place::back);
  for (float& x : s.span()) x = random.normal();
  std::fill_n(top.data(), nr, -kInf);
  for (std::size_t n = 0; n < sz(nr); ++n) {
    begin[n] = static_cast<std::int32_t>(random.between(0, kv + 3));
    end[n] = static_cast<std::int32_t>(random.between(0, kv + 3));
  }
  std::vector<float> want(s.span().begin(), s.span().end()), want_top(sz(nr), -kInf);
  for (std::size_t i = 0; i < want.size(); ++i) {
    const std::size_t n = i % sz(nr);
    const auto j = static_cast<std::int32_t>(i / sz(nr)) + 3;
    if (j < begin[n] || j >= end[n]) want[i] = -kInf;
    want_top[n] = std::max(want_top[n], want[i]);
  }
  row.mask_scores({s.data(), kv, nr, 3, begin.data(), end.data(), top.data()});
  for (std::size_t i = 0; i < want.size(); ++i) ASSERT_EQ(s[i], want[i]) << i;
  for (std::size_t n = 0; n < sz(nr); ++n) ASSERT_EQ(top[n], want_top[n]) << n;
}

INSTANTIATE_TEST_SUITE_P(Rows, HalfGemm, ::testing::ValuesIn(half_rows(kernels::gemm_kernels())), RowName());
INSTANTIATE_TEST_SUITE_P(Rows, HalfPack, ::testing::ValuesIn(half_rows(kernels::pack_kernels())), RowName());
INSTANTIATE_TEST_SUITE_P(Rows, HalfSoftmax, ::testing::ValuesIn(half_rows(kernels::softmax_kernels())),
                         RowName());

}  // namespace
}  // namespace kumiko::test
