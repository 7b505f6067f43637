// SPDX-License-Identifier: Apache-2.0
// Every decode row against a scalar walk in the order of kernels/decode/decode.h, bit for bit, keys and
// values ending on guard pages.
#include "kernels/decode/decode.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/pack/pack.h"
#include "kernels/softmax/softmax.h"
#include "tests/kernels/elements.h"
#include "tests/kernels/exp2_model.h"
#include "tests/kernels/pairs.h"
#include "tests/support/random.h"
#include "tests/support/tensor.h"

namespace kumiko::test {
namespace {

using kernels::DecodeBlockArgs;
using kernels::DecodeKernel;

constexpr float kInf = std::numeric_limits<float>::infinity();

std::size_t sz(std::int64_t n) {
  return static_cast<std::size_t>(n);
}
std::int64_t round_up(std::int64_t x, std::int64_t to) {
  return (x + to - 1) / to * to;
}

// The block's effect on one row in steps of bf16 pairs: two dims of a key, two keys of a value.
void model_row_of_pairs(const DecodeBlockArgs& a, std::int64_t r, float& m, float& l, std::vector<float>& o) {
  if (a.begin[r] >= a.end[r]) return;
  const kernels::SoftmaxKernel& softmax =
      *kernels::find_softmax(kernels::Isa::avx512_bf16, kernels::Element::bf16);
  const auto element = [](const void* data, std::int64_t i) {
    return kernels::load_element(kernels::Element::bf16, data, i);
  };
  const auto seen = [&](std::int64_t j) { return j >= a.begin[r] && j < a.end[r]; };
  std::vector<float> p(sz(round_up(a.kv, 2)), -kInf);
  float top = -kInf;
  for (std::int64_t j = a.begin[r]; j < a.end[r]; ++j) {
    float sum = 0.0f;
    for (std::int64_t d = 0; d < a.dim; d += 2) {
      const std::int64_t at = j * a.k_stride + d;
      const float key = pair_of(element(a.k, at), d + 1 < a.dim ? element(a.k, at + 1) : 0.0f);
      sum = add_pair_product(key, a.q[r * a.q_stride + d / 2], sum);
    }
    p[sz(j)] = sum;
    if (sum > top) top = sum;
  }
  const float next = top * a.scale > m ? top * a.scale : m;
  const float shift = next == -kInf ? 0.0f : next, alpha = exp2_model(kernels::Isa::avx512_bf16, m - shift);
  m = next;
  l *= alpha;
  for (float& x : o) x *= alpha;
  for (float& x : p) {
    float in[16] = {std::fma(x, a.scale, -shift)}, out[16];
    softmax.exp2(in, out, 16);
    x = out[0];
  }
  for (std::int64_t j = 0; j < a.kv; j += 2) {
    const float weights = pair_of(p[sz(j)], p[sz(j + 1)]);
    l = add_pair_product(weights, pair_of(1.0f, 1.0f), l);
    for (std::size_t d = 0; d < o.size(); ++d) {
      const auto value = [&](std::int64_t key) {
        return seen(key) ? element(a.v, key * a.v_stride + static_cast<std::int64_t>(d)) : 0.0f;
      };
      o[d] = add_pair_product(pair_of(value(j), value(j + 1)), weights, o[d]);
    }
  }
}

// The block's effect on one row, written out.
void model_row(kernels::Isa isa, kernels::Element element, const DecodeBlockArgs& a, std::int64_t r, float& m,
               float& l, std::vector<float>& o) {
  if (a.begin[r] >= a.end[r]) return;
  std::vector<float> s;
  float top = m;
  for (std::int64_t j = a.begin[r]; j < a.end[r]; ++j) {
    float sum = 0.0f;
    for (std::int64_t d = 0; d < a.dim; ++d)
      sum = std::fma(kernels::load_element(element, a.k, j * a.k_stride + d), a.q[r * a.q_stride + d], sum);
    s.push_back(sum);
    if (sum > top) top = sum;
  }
  const float shift = top == -kInf ? 0.0f : top, alpha = exp2_model(isa, m - shift);
  m = top;
  l *= alpha;
  for (float& x : o) x *= alpha;
  for (std::size_t i = 0; i < s.size(); ++i) {
    const float p = exp2_model(isa, s[i] - shift);
    l += p;
    for (std::size_t d = 0; d < o.size(); ++d)
      o[d] = std::fma(p,
                      kernels::load_element(element, a.v,
                                            (a.begin[r] + static_cast<std::int64_t>(i)) * a.v_stride +
                                                static_cast<std::int64_t>(d)),
                      o[d]);
  }
}

struct Shape1 {
  std::int64_t rows, kv, dim, v_dim;
};

struct Decode : RowTest<DecodeKernel> {
  const bool pairs = kernels::find_pack(row.isa, row.element)->product == kernels::Element::bf16;
  Random random{test_seed(61)};

  // hidden: some keys are outside some rows' intervals, and keys hidden from every row are NaN.
  void check(const Shape1& shape, bool hidden, bool started) {
    const auto [rows, kv, dim, v_dim] = shape;
    SCOPED_TRACE(::testing::Message()
                 << row.name << " rows " << rows << " kv " << kv << " dim " << dim << " v_dim " << v_dim
                 << " hidden " << hidden << " started " << started);
    const Place place = random.pick({Place::front, Place::back, Place::misaligned});
    const std::int64_t steps = pairs ? (dim + 1) / 2 : dim;
    const std::int64_t q_stride = steps + random.between(0, 2), k_stride = dim + random.between(0, 5),
                       v_stride = v_dim + random.between(0, 5);
    const std::int64_t score_stride = round_up(kv, row.score_keys), o_stride = round_up(v_dim, row.lanes);
    const auto filled = [&](kernels::Element element, std::int64_t n, std::int64_t stride,
                            std::int64_t width) {
      ElementOperand x(element, sz((n - 1) * stride + width), place);
      for (std::size_t i = 0; i < x.size(); ++i) x.set(i, poison());
      for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t d = 0; d < width; ++d) x.set(sz(i * stride + d), random.normal());
      return x;
    };
    const auto q = filled(kernels::Element::f32, rows, q_stride, steps);
    for (std::int64_t i = 0; pairs && i < rows; ++i) {
      for (std::int64_t d = 0; d < steps; ++d)
        static_cast<float*>(q.data())[i * q_stride + d] =
            pair_of(random.normal(), 2 * d + 1 < dim ? random.normal() : 0.0f);
    }
    const auto k = filled(row.element, kv, k_stride, dim), v = filled(row.element, kv, v_stride, v_dim);
    Operand<std::int32_t> begin(sz(rows), place), end(sz(rows), place);
    for (std::size_t r = 0; r < sz(rows); ++r) {
      begin[r] = hidden ? static_cast<std::int32_t>(random.between(0, kv)) : 0;
      end[r] = hidden ? static_cast<std::int32_t>(random.between(random.one_in(4) ? 0 : begin[r], kv))
                      : static_cast<std::int32_t>(kv);
    }
    for (std::int64_t j = 0; hidden && j < kv; ++j) {
      bool seen = false;
      for (std::size_t r = 0; r < sz(rows); ++r) seen = seen || (begin[r] <= j && j < end[r]);
      if (seen) continue;
      for (std::int64_t d = 0; d < dim; ++d) k.set(sz(j * k_stride + d), poison());
      for (std::int64_t d = 0; d < v_dim; ++d) v.set(sz(j * v_stride + d), d % 2 ? poison() : kInf);
    }
    Operand<float> scores(sz(rows * score_stride), place), m(sz(rows), place), l(sz(rows), place),
        o(sz(rows * o_stride), place);
    for (float& x : scores.span()) x = poison();
    for (float& x : m.span()) x = started && !random.one_in(5) ? 4 * random.normal() : -kInf;
    for (std::size_t r = 0; r < sz(rows); ++r) l[r] = m[r] == -kInf ? 0.0f : 2.0f;
    for (std::size_t i = 0; i < o.size(); ++i) o[i] = m[i / sz(o_stride)] == -kInf ? 0.0f : random.normal();

    DecodeBlockArgs args{};
    args.q = static_cast<const float*>(q.data()), args.q_stride = q_stride, args.k = k.data(),
    args.k_stride = k_stride, args.v = v.data(), args.v_stride = v_stride;
    args.rows = rows, args.dim = dim, args.v_dim = v_dim, args.kv = kv, args.begin = begin.data(),
    args.end = end.data();
    args.scores = scores.data(), args.score_stride = score_stride;
    if (pairs) args.scale = random.pick({1.0f, 0.3f, 2.5f});
    args.m = m.data(), args.l = l.data(), args.o = o.data(), args.o_stride = o_stride;

    std::vector<float> want_m, want_l;
    std::vector<std::vector<float>> want_o;
    for (std::int64_t r = 0; r < rows; ++r) {
      want_m.push_back(m[sz(r)]), want_l.push_back(l[sz(r)]);
      want_o.emplace_back(o.data() + r * o_stride, o.data() + r * o_stride + v_dim);
      if (pairs) {
        model_row_of_pairs(args, r, want_m.back(), want_l.back(), want_o.back());
      } else {
        model_row(row.isa, row.element, args, r, want_m.back(), want_l.back(), want_o.back());
      }
    }
    row.decode_block(args);
    for (std::size_t r = 0; r < sz(rows); ++r) {
      ASSERT_TRUE(same_value(m[r], want_m[r])) << "m[" << r << "] " << m[r] << ", want " << want_m[r];
      ASSERT_TRUE(same_value(l[r], want_l[r])) << "l[" << r << "] " << l[r] << ", want " << want_l[r];
      for (std::size_t d = 0; d < sz(v_dim); ++d)
        ASSERT_TRUE(same_value(o[r * sz(o_stride) + d], want_o[r][d]))
            << "o[" << r << "][" << d << "] " << o[r * sz(o_stride) + d] << ", want " << want_o[r][d];
    }
    ASSERT_TRUE(q.intact() && k.intact() && v.intact() && scores.intact() && m.intact() && l.intact() &&
                o.intact());
  }
};

TEST_P(Decode, EqualsTheScalarWalkForEveryTail) {
  for (const std::int64_t rows : {1, 2, 3, 4, 5, 7, 8, 9, 13})
    for (const std::int64_t kv : {1, 2, 7, 8, 31, 32, 33, 63, 65, 256})
      ASSERT_NO_FATAL_FAILURE(
          check({rows, kv, random.between(1, 40), random.between(1, 40)}, false, random.one_in(2)));
}

TEST_P(Decode, EqualsTheScalarWalkForEveryDim) {
  for (const std::int64_t dim :
       {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 80, 96, 127, 128, 129, 192, 256, 576})
    for (const std::int64_t rows : {1, 4, 6}) {
      ASSERT_NO_FATAL_FAILURE(check({rows, 40, dim, 16}, false, true));
      ASSERT_NO_FATAL_FAILURE(check({rows, 40, 16, dim}, false, true));
    }
}

TEST_P(Decode, HiddenKeysTouchNoRowThatDoesNotSeeThem) {
  for (int repeat = 0; repeat < 200; ++repeat)
    ASSERT_NO_FATAL_FAILURE(
        check({random.between(1, 10), random.between(1, 100), random.between(1, 24), random.between(1, 70)},
              true, random.one_in(2)));
}

INSTANTIATE_TEST_SUITE_P(Rows, Decode, ::testing::ValuesIn(host_rows(kernels::decode_kernels())), RowName());

}  // namespace
}  // namespace kumiko::test
