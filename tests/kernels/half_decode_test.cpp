// SPDX-License-Identifier: Apache-2.0
// Decode rows of product f16: scores, softmax and values of a block against scalar models in the order of
// kernels/decode/decode.h, bit for bit. Ranges of keys and the softmax of a column are those of pack and
// softmax, which half_test.cpp compares with models of their own.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/decode/decode.h"
#include "kernels/gemm/gemm.h"
#include "kernels/pack/pack.h"
#include "kernels/softmax/softmax.h"
#include "tests/kernels/half_steps.h"
#include "tests/kernels/rows.h"
#include "tests/support/tensor.h"

namespace kumiko::test {
namespace {

using kernels::F16;
using kernels::to_float;

struct HalfDecode : RowTest<kernels::DecodeKernel> {
  Random random{test_seed(315)};

  struct Sizes {
    std::int64_t rows, kv, dim, v_dim, first_key;
  };

  float model_score(const F16* q, std::int64_t q_stride, float q_range, const F16* key,
                    std::int64_t dim) const {
    const kernels::PackKernel& pack =
        *kernels::find_pack(row.isa, kernels::Element::f16, kernels::Element::f16);
    std::vector<F16> panel(sz(pack.mr * dim));
    std::vector<float> range(sz(pack.mr));
    pack.key({key, dim, 1, dim, panel.data(), range.data()});
    float sum = 0.0f;
    const auto chain_from = [&](std::int64_t first) {
      F16 chain{};
      for (std::int64_t d = first; d < std::min(dim, first + kernels::kHalfChain); ++d)
        chain = half_step(row.isa, panel[sz(d * pack.mr)], q[d * q_stride], chain);
      return chain;
    };
    for (std::int64_t first = 0; first < dim; first += 2 * kernels::kHalfChain) {
      F16 pair = chain_from(first);
      if (first + kernels::kHalfChain < dim)
        pair = half_sum(row.isa, pair, chain_from(first + kernels::kHalfChain));
      sum = first == 0 ? to_float(pair) : sum + to_float(pair);
    }
    return sum * q_range * range[0];
  }

  /// m and l of a row raised by the scores of a block, and its weights.
  std::vector<F16> model_softmax(const std::vector<float>& scores, float* m, float* l, float* alpha) const {
    const kernels::SoftmaxKernel& softmax = *kernels::find_softmax(row.isa, kernels::Element::f16);
    const std::size_t lanes = sz(softmax.lanes), kv = scores.size();
    std::vector<float> s(kv * lanes), tops(lanes, 0.0f), ms(lanes, 0.0f), ls(lanes, 0.0f), alphas(lanes);
    for (std::size_t j = 0; j < kv; ++j) s[j * lanes] = scores[j];
    tops[0] = -kInf;
    for (const float x : scores) tops[0] = x > tops[0] ? x : tops[0];
    ms[0] = *m, ls[0] = *l;
    softmax.probabilities({s.data(), static_cast<std::int64_t>(kv), softmax.lanes, tops.data(), ms.data(),
                           ls.data(), alphas.data(), 1.0f});
    std::vector<F16> p;
    for (std::size_t j = 0; j < kv; ++j) p.push_back(reinterpret_cast<const F16*>(s.data())[j * lanes]);
    *m = ms[0], *alpha = alphas[0], *l = ls[0];
    return p;
  }

  void model_values(const std::vector<F16>& p, const F16* v, const Sizes& size, const std::vector<bool>& seen,
                    float* o) const {
    const auto value_of = [&](std::int64_t j, std::int64_t d) { return v[j * size.v_dim + d]; };
    const auto is_large = [](F16 x) { return !(std::fabs(to_float(x)) <= kernels::kHalfValueLimit); };
    for (std::int64_t d = 0; d < size.v_dim; ++d) {
      for (std::int64_t j = 0; j < size.kv;) {
        F16 chain[2] = {};
        bool is_empty = true;
        const std::int64_t number = (size.first_key + j) / (2 * kernels::kHalfChain);
        for (; j < size.kv && (size.first_key + j) / (2 * kernels::kHalfChain) == number; ++j) {
          if (!seen[sz(j)]) continue;
          is_empty = false;
          F16& of = chain[(size.first_key + j) / kernels::kHalfChain % 2];
          if (!is_large(value_of(j, d))) of = half_step(row.isa, p[sz(j)], value_of(j, d), of);
        }
        if (!is_empty) o[d] += to_float(half_sum(row.isa, chain[0], chain[1]));
      }
      for (std::int64_t j = 0; j < size.kv; ++j)
        if (seen[sz(j)] && is_large(value_of(j, d)))
          o[d] = std::fma(to_float(p[sz(j)]), to_float(value_of(j, d)), o[d]);
    }
  }

  enum class Keys { finite, some_with_infinities_or_nan, finite_and_values_within_limit };

  /// Keys that are not finite have scores that are compared; nothing is added with them.
  void check(const Sizes& size, bool is_masked, Place place, Keys kind = Keys::finite) {
    SCOPED_TRACE(::testing::Message() << row.name << " rows " << size.rows << " kv " << size.kv << " dims "
                                      << size.dim << "/" << size.v_dim << " from key " << size.first_key);
    const std::int64_t q_stride = round_up(size.rows, row.lanes),
                       score_stride = round_up(size.kv, row.score_keys),
                       o_stride = round_up(size.v_dim, row.lanes);
    Operand<std::uint16_t> q(sz(size.dim * q_stride), place), k(sz(size.kv * size.dim), place),
        v(sz(size.kv * size.v_dim), place);
    Operand<float> scores(sz(size.rows * score_stride), place), m(sz(size.rows), place),
        l(sz(size.rows), place), o(sz(size.rows * o_stride), place), range(sz(q_stride), place);
    for (auto* x : {&q, &k, &v})
      for (std::uint16_t& bits : x->span()) bits = half_draw(random).bits;
    const bool is_within = kind == Keys::finite_and_values_within_limit, has_limit = random.one_in(2);
    for (std::uint16_t& bits : v.span()) {
      if (!random.one_in(50) || (is_within && !has_limit)) continue;
      bits =
          half_of(is_within ? random.pick({256.0f, -256.0f, 200.0f}) : random.pick({300.0f, -60000.0f, kInf}))
              .bits;
    }
    if (kind == Keys::some_with_infinities_or_nan) {
      // An infinite query element times a finite key is an infinity, and NaN if that key's range made it 0.
      for (auto* x : {&q, &k})
        for (std::uint16_t& bits : x->span())
          if (random.one_in(200)) bits = half_of(random.one_in(20) ? std::nanf("") : kInf).bits;
    }
    for (float& x : scores.span()) x = poison();
    for (float& x : range.span()) x = std::ldexp(1.0f, static_cast<int>(random.between(-3, 3)));
    for (float& x : m.span()) x = random.one_in(4) ? -kInf : std::floor(4 * random.normal());
    for (std::size_t r = 0; r < sz(size.rows); ++r) l[r] = m[r] == -kInf ? 0.0f : 2.0f;
    for (std::size_t i = 0; i < o.size(); ++i) o[i] = m[i / sz(o_stride)] == -kInf ? 0.0f : random.normal();

    // What rows see: an interval, with holes where there is a mask.
    std::vector<std::int32_t> begin, end;
    std::vector<std::vector<bool>> seen;
    std::vector<std::vector<kernels::KeyRun>> run_lists(sz(size.rows));
    std::vector<kernels::KeyRuns> runs;
    for (std::int64_t r = 0; r < size.rows; ++r) {
      begin.push_back(is_masked ? static_cast<std::int32_t>(random.between(0, size.kv - 1)) : 0);
      end.push_back(static_cast<std::int32_t>(is_masked ? random.between(begin.back(), size.kv) : size.kv));
      std::vector<bool>& row_seen = seen.emplace_back(sz(size.kv), false);
      std::vector<kernels::KeyRun>& list = run_lists[sz(r)];
      for (std::int32_t j = begin.back(); j < end.back(); ++j) {
        row_seen[sz(j)] = !is_masked || !random.one_in(4);
        if (!row_seen[sz(j)]) continue;
        if (list.empty() || list.back().end != j) list.push_back({j, j});
        list.back().end = j + 1;
      }
      runs.push_back({list.data(), std::ssize(list)});
      if (list.empty()) begin.back() = end.back() = 0;
    }

    const auto* const halves_of_q = reinterpret_cast<const F16*>(q.data());
    const auto* const keys = reinterpret_cast<const F16*>(k.data());
    const auto* const values = reinterpret_cast<const F16*>(v.data());
    std::vector<const void*> key_rows, value_rows;
    for (std::int64_t j = 0; j < size.kv; j += 16) {
      key_rows.push_back(keys + j * size.dim);
      value_rows.push_back(values + j * size.v_dim);
    }
    const kernels::RowRange ahead[] = {
        {reinterpret_cast<const char*>(keys), size.dim * 2, size.dim * 2, size.kv},
        {reinterpret_cast<const char*>(values), size.v_dim * 2, size.v_dim * 2, size.kv},
        {reinterpret_cast<const char*>(keys), size.dim * 2, size.dim * 2, kernels::kNoEnd}};

    std::vector<float> want_m(m.span().begin(), m.span().end()), want_l(l.span().begin(), l.span().end()),
        want_o(o.span().begin(), o.span().end());
    for (std::int64_t r = 0; r < size.rows; ++r) {
      if (begin[sz(r)] == end[sz(r)]) continue;
      std::vector<float> s;
      for (std::int64_t j = 0; j < size.kv; ++j)
        s.push_back(seen[sz(r)][sz(j)]
                        ? model_score(halves_of_q + r, q_stride, range[sz(r)], keys + j * size.dim, size.dim)
                        : -kInf);
      float alpha = 0;
      const std::vector<F16> p = model_softmax(s, &want_m[sz(r)], &want_l[sz(r)], &alpha);
      for (std::int64_t d = 0; d < size.v_dim; ++d) want_o[sz(r * o_stride + d)] *= alpha;
      model_values(p, values, size, seen[sz(r)], &want_o[sz(r * o_stride)]);
    }

    kernels::DecodeScoresArgs score_args{reinterpret_cast<const float*>(q.data()),
                                         q_stride,
                                         {key_rows.data(), size.dim, 4},
                                         size.rows,
                                         size.dim,
                                         size.kv,
                                         scores.data(),
                                         score_stride,
                                         {ahead, ahead + 1},
                                         {}};
    score_args.range = range.data();
    row.scores(score_args);
    if (kind == Keys::some_with_infinities_or_nan) {
      for (std::int64_t r = 0; r < size.rows; ++r) {
        for (std::int64_t j = 0; j < size.kv; ++j) {
          const float want =
              model_score(halves_of_q + r, q_stride, range[sz(r)], keys + j * size.dim, size.dim);
          const float score = scores[sz(r * score_stride + j)];
          ASSERT_TRUE(same_value(score, want) || (std::isnan(score) && std::isnan(want)))
              << "score " << r << ", " << j << " is " << score << ", want " << want;
        }
      }
      return;
    }
    for (std::int64_t r = 0; r < size.rows; ++r)
      for (std::int64_t j = 0; j < size.kv; ++j)
        if (!seen[sz(r)][sz(j)]) scores[sz(r * score_stride + j)] = -kInf;
    row.softmax({scores.data(),
                 score_stride,
                 size.rows,
                 size.kv,
                 begin.data(),
                 end.data(),
                 m.data(),
                 l.data(),
                 o.data(),
                 o_stride,
                 size.v_dim,
                 1.0f,
                 {ahead + 1, ahead + 2},
                 {}});
    row.add_values({scores.data(),
                    score_stride,
                    {value_rows.data(), size.v_dim, 4},
                    size.rows,
                    size.v_dim,
                    size.kv,
                    runs.data(),
                    l.data(),
                    o.data(),
                    o_stride,
                    {ahead + 1, ahead + 2},
                    {},
                    size.first_key});
    for (std::size_t r = 0; r < sz(size.rows); ++r) {
      ASSERT_TRUE(same_value(m[r], want_m[r])) << "m[" << r << "] is " << m[r] << ", want " << want_m[r];
      ASSERT_TRUE(same_value(l[r], want_l[r])) << "l[" << r << "] is " << l[r] << ", want " << want_l[r];
      for (std::size_t d = 0; d < sz(size.v_dim); ++d) {
        const std::size_t at = r * sz(o_stride) + d;
        ASSERT_TRUE(same_value(o[at], want_o[at]))
            << "o[" << r << "][" << d << "] is " << o[at] << ", want " << want_o[at];
      }
    }
    ASSERT_TRUE(q.intact() && k.intact() && v.intact() && scores.intact() && m.intact() && l.intact() &&
                o.intact() && range.intact());
  }
};

TEST_P(HalfDecode, BlocksEqualTheScalarWalk) {
  for (const std::int64_t dim : {1, 16, 31, 64, 80, 128, 129, 256, 576})
    for (const std::int64_t kv : {1, 17, 64, 100, 170})
      ASSERT_NO_FATAL_FAILURE(check(
          {random.between(1, 9), kv, dim, random.pick({1, 32, 40, 128, 200}), random.pick({0, 96, 1000})},
          false, random.pick({Place::front, Place::back})));
}

TEST_P(HalfDecode, ValuesOfFourRowsEqualTheScalarWalk) {
  for (const std::int64_t rows : {4, 6, 8, 13})
    for (const std::int64_t kv : {3, 5, 64, 230})
      for (const Keys kind : {Keys::finite, Keys::finite_and_values_within_limit})
        ASSERT_NO_FATAL_FAILURE(
            check({rows, kv, 8, random.pick({128, 256}), random.pick({0, 96})}, false, Place::back, kind));
}

TEST_P(HalfDecode, HiddenKeysAreLeftOut) {
  for (int repeat = 0; repeat < thinned(40, 20, 10); ++repeat)
    ASSERT_NO_FATAL_FAILURE(check({random.between(1, 9), random.between(1, 200), random.between(1, 40),
                                   random.between(1, 70), 64 * random.between(0, 3)},
                                  true, Place::back));
}

TEST_P(HalfDecode, RangesAreThoseOfFiniteElements) {
  for (const std::int64_t dim : {32, 80, 128, 256})
    ASSERT_NO_FATAL_FAILURE(
        check({3, 200, dim, 1, 0}, false, Place::back, Keys::some_with_infinities_or_nan));
}

INSTANTIATE_TEST_SUITE_P(Rows, HalfDecode,
                         ::testing::ValuesIn(host_rows(kernels::decode_kernels(), kernels::Element::f16)),
                         RowName());

}  // namespace
}  // namespace kumiko::test
