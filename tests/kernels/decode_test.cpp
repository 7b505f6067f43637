// SPDX-License-Identifier: Apache-2.0
// Every decode row against a scalar walk in the order of kernels/decode/decode.h, bit for bit, keys and
// values ending on guard pages.
#include "kernels/decode/decode.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/pack/pack.h"
#include "kernels/softmax/softmax.h"
#include "tests/kernels/elements.h"
#include "tests/kernels/exp2_model.h"
#include "tests/kernels/pairs.h"
#include "tests/support/random.h"
#include "tests/support/tensor.h"

namespace kumiko::test {
namespace {

using kernels::DecodeKernel;

// The three operations on one block.
struct Block {
  kernels::DecodeScoresArgs scores{};
  kernels::DecodeSoftmaxArgs softmax{};
  kernels::DecodeValuesArgs values{};

  // What the terms of a score leave of a key that a mask hides.
  void hide(std::int64_t r) const {
    for (std::int64_t j = 0; j < scores.kv; ++j)
      if (!sees(r, j)) scores.scores[r * scores.score_stride + j] = -kInf;
  }
  bool sees(std::int64_t r, std::int64_t j) const {
    const kernels::KeyRuns& runs = values.runs[r];
    return std::any_of(runs.run, runs.run + runs.count,
                       [j](const kernels::KeyRun& run) { return run.begin <= j && j < run.end; });
  }
  bool sees_some(std::int64_t r) const { return softmax.begin[r] < softmax.end[r]; }
};

// State of one row.
struct RunningState {
  float m, l;
  std::vector<float> o;
};

const void* row_of(kernels::Element element, const kernels::RowGroups& rows, std::int64_t j) {
  const std::int64_t keys = std::int64_t{1} << rows.shift;
  return kernels::element_at(element, rows.group[j / keys], j % keys * rows.stride);
}

// All rows' keys or values, widened once: under an emulator the model takes most of a test's time.
std::vector<float> widened(kernels::Element element, const kernels::RowGroups& rows, std::int64_t count,
                           std::int64_t dim) {
  std::vector<float> wide;
  for (std::int64_t j = 0; j < count; ++j)
    for (std::int64_t d = 0; d < dim; ++d)
      wide.push_back(kernels::load_element(element, row_of(element, rows, j), d));
  return wide;
}

float model_score(const float* key, const float* query, std::int64_t dim) {
  float sum = 0.0f;
  for (std::int64_t d = 0; d < dim; ++d) sum = std::fma(key[d], query[d], sum);
  return sum;
}

// In steps of bf16 pairs, two dims of a key.
float model_score_of_pairs(const float* key, const float* query, std::int64_t dim) {
  float sum = 0.0f;
  for (std::int64_t d = 0; d < dim; d += 2)
    sum = add_pair_product(pair_of(key[d], d + 1 < dim ? key[d + 1] : 0.0f), query[d / 2], sum);
  return sum;
}

// The scores of the keys that a row sees; -inf of the others.
std::vector<float> model_scores(kernels::Element element, const Block& block, bool pairs) {
  const kernels::DecodeScoresArgs& a = block.scores;
  const std::vector<float> keys = widened(element, a.k, a.kv, a.dim);
  std::vector<float> scores(sz(a.rows * a.kv), -kInf);
  for (std::int64_t r = 0; r < a.rows; ++r) {
    for (std::int64_t j = 0; j < a.kv; ++j) {
      const float *key = keys.data() + j * a.dim, *query = a.q + r * a.q_stride;
      if (block.sees(r, j))
        scores[sz(r * a.kv + j)] =
            pairs ? model_score_of_pairs(key, query, a.dim) : model_score(key, query, a.dim);
    }
  }
  return scores;
}

// The block's effect on one row in steps of bf16 pairs: two dims of a key, two keys of a value.
void model_row_of_pairs(const Block& block, std::int64_t r, const float* scores, const float* values,
                        RunningState& state) {
  if (!block.sees_some(r)) return;
  const kernels::SoftmaxKernel& softmax =
      *kernels::find_softmax(kernels::Isa::avx512_bf16, kernels::Element::bf16);
  const float scale = block.softmax.scale;
  std::vector<float> p(sz(round_up(block.scores.kv, 2)), -kInf);
  std::copy_n(scores, block.scores.kv, p.data());
  const float top = *std::max_element(p.begin(), p.end());
  const float m = top * scale > state.m ? top * scale : state.m, shift = m == -kInf ? 0.0f : m,
              alpha = exp2_model(kernels::Isa::avx512_bf16, state.m - shift);
  state.m = m;
  state.l *= alpha;
  for (float& x : state.o) x *= alpha;
  for (float& x : p) {
    float in[16] = {std::fma(x, scale, -shift)}, out[16];
    softmax.exp2(in, out, 16);
    x = out[0];
  }
  const std::size_t v_dim = state.o.size();
  for (std::int64_t j = 0; j < block.values.kv; j += 2) {
    const float weights = pair_of(p[sz(j)], p[sz(j + 1)]);
    state.l = add_pair_product(weights, pair_of(1.0f, 1.0f), state.l);
    const bool first = block.sees(r, j), second = block.sees(r, j + 1);
    const float* value = values + sz(j) * v_dim;
    for (std::size_t d = 0; d < v_dim; ++d)
      state.o[d] = add_pair_product(pair_of(first ? value[d] : 0.0f, second ? value[v_dim + d] : 0.0f),
                                    weights, state.o[d]);
  }
}

// The block's effect on one row, written out.
void model_row(kernels::Isa isa, const Block& block, std::int64_t r, const float* scores, const float* values,
               RunningState& state) {
  if (!block.sees_some(r)) return;
  const float m = std::max(state.m, *std::max_element(scores, scores + block.scores.kv));
  const float shift = m == -kInf ? 0.0f : m, alpha = exp2_model(isa, state.m - shift);
  state.m = m;
  state.l *= alpha;
  for (float& x : state.o) x *= alpha;
  for (std::int64_t j = 0; j < block.values.kv; ++j) {
    if (!block.sees(r, j)) continue;
    const float p = exp2_model(isa, scores[j] - shift);
    state.l += p;
    const float* value = values + sz(j) * state.o.size();
    for (std::size_t d = 0; d < state.o.size(); ++d) state.o[d] = std::fma(p, value[d], state.o[d]);
  }
}

struct Shape1 {
  std::int64_t rows, kv, dim, v_dim;
};

struct Decode : RowTest<DecodeKernel> {
  const bool pairs = row.product == kernels::Element::bf16;
  Random random{test_seed(61)};

  // What rows see: all keys; of an interval each; of it what a mask of long or short runs shows.
  enum class Hidden { nothing, outside, masked };

  // Runs of a row within [begin, end), as a mask has them.
  std::vector<kernels::KeyRun> runs_within(std::int32_t begin, std::int32_t end, bool masked) {
    std::vector<kernels::KeyRun> runs;
    if (!masked && begin < end) runs.push_back({begin, end});
    const std::int64_t longest = random.pick({1, 3, 40});
    for (std::int64_t at = begin + random.between(0, 2); masked && at < end;) {
      const std::int64_t stop = std::min<std::int64_t>(at + random.between(1, longest), end);
      runs.push_back({static_cast<std::int32_t>(at), static_cast<std::int32_t>(stop)});
      at = stop + random.between(1, longest);
    }
    return runs;
  }

  // Keys in groups of 2^shift that lie in any order; the last one, perhaps not full, last.
  struct Order {
    std::int64_t rows, keys;          // keys: of a group
    std::vector<std::int64_t> place;  // of each group

    Order(std::int64_t count, int shift, Random& random) : rows(count), keys(std::int64_t{1} << shift) {
      for (std::int64_t g = 0; g < rows / keys; ++g) {
        place.push_back(g);
        std::swap(place.back(), place[sz(random.between(0, g))]);
      }
      if (rows % keys != 0) place.push_back(rows / keys);
    }
    std::int64_t row_of(std::int64_t key) const { return place[sz(key / keys)] * keys + key % keys; }
  };
  struct Groups {
    std::vector<const void*> group;
    std::vector<kernels::RowRange> ranges;
  };
  Groups groups_of(const Order& order, const ElementOperand& x, std::int64_t stride, std::int64_t dim) const {
    const std::int64_t bytes = kernels::bytes_of(row.element);
    Groups groups;
    for (std::int64_t key = 0; key < order.rows; key += order.keys) {
      const void* first = kernels::element_at(row.element, x.data(), order.row_of(key) * stride);
      groups.group.push_back(first);
      groups.ranges.push_back({static_cast<const char*>(first), stride * bytes, dim * bytes,
                               std::min(order.keys, order.rows - key)});
    }
    return groups;
  }

  // The operations in their order, with what a mask does between the first two.
  void run(const Block& block, const std::vector<float>& want_scores, bool masked) {
    const kernels::DecodeScoresArgs& a = block.scores;
    row.scores(a);
    for (std::int64_t r = 0; r < a.rows; ++r) {
      for (std::int64_t j = 0; j < a.kv; ++j) {
        if (!block.sees(r, j)) continue;
        const float want = want_scores[sz(r * a.kv + j)];
        ASSERT_TRUE(same_value(a.scores[r * a.score_stride + j], want))
            << "score[" << r << "][" << j << "] " << a.scores[r * a.score_stride + j] << ", want " << want;
      }
      if (masked) block.hide(r);
    }
    row.softmax(block.softmax);
    row.add_values(block.values);
  }

  // Keys hidden from every row are NaN.
  void check(const Shape1& shape, Hidden what, bool started) {
    const bool hidden = what != Hidden::nothing, masked = what == Hidden::masked;
    const auto [rows, kv, dim, v_dim] = shape;
    SCOPED_TRACE(::testing::Message()
                 << row.name << " rows " << rows << " kv " << kv << " dim " << dim << " v_dim " << v_dim
                 << " hidden " << static_cast<int>(what) << " started " << started);
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
    const int shift = static_cast<int>(random.between(4, 8));
    const Order k_order(kv, shift, random), v_order(kv, shift, random);
    Operand<std::int32_t> begin(sz(rows), place), end(sz(rows), place);
    for (std::size_t r = 0; r < sz(rows); ++r) {
      begin[r] = hidden ? static_cast<std::int32_t>(random.between(0, kv)) : 0;
      end[r] = hidden ? static_cast<std::int32_t>(random.between(random.one_in(4) ? 0 : begin[r], kv))
                      : static_cast<std::int32_t>(kv);
    }
    std::vector<std::vector<kernels::KeyRun>> row_runs;
    std::vector<kernels::KeyRuns> runs;
    for (std::size_t r = 0; r < sz(rows); ++r) row_runs.push_back(runs_within(begin[r], end[r], masked));
    for (const auto& of_row : row_runs) runs.push_back({of_row.data(), std::ssize(of_row)});
    Block block;
    block.values.runs = runs.data();
    for (std::int64_t j = 0; hidden && j < kv; ++j) {
      bool seen = false;
      for (std::int64_t r = 0; r < rows; ++r) seen = seen || block.sees(r, j);
      if (seen) continue;
      for (std::int64_t d = 0; d < dim; ++d) k.set(sz(k_order.row_of(j) * k_stride + d), poison());
      for (std::int64_t d = 0; d < v_dim; ++d)
        v.set(sz(v_order.row_of(j) * v_stride + d), d % 2 ? poison() : kInf);
    }
    Operand<float> scores(sz(rows * score_stride), place), m(sz(rows), place), l(sz(rows), place),
        o(sz(rows * o_stride), place);
    for (float& x : scores.span()) x = poison();
    for (float& x : m.span()) x = started && !random.one_in(5) ? 4 * random.normal() : -kInf;
    for (std::size_t r = 0; r < sz(rows); ++r) l[r] = m[r] == -kInf ? 0.0f : 2.0f;
    for (std::size_t i = 0; i < o.size(); ++i) o[i] = m[i / sz(o_stride)] == -kInf ? 0.0f : random.normal();

    const Groups keys = groups_of(k_order, k, k_stride, dim), values = groups_of(v_order, v, v_stride, v_dim);
    std::vector<kernels::RowRange> ahead = keys.ranges;
    ahead.insert(ahead.end(), values.ranges.begin(), values.ranges.end());
    ahead.push_back({keys.ranges[0].row, keys.ranges[0].stride, keys.ranges[0].width, kernels::kNoEnd});
    const kernels::RowRange *first_value = ahead.data() + keys.ranges.size(), *after = &ahead.back();
    // Distances and how many values are used together change nothing.
    const std::int64_t keys_ahead = random.pick({0, 1000, 12288});
    const kernels::FetchDistances fetch{keys_ahead, keys_ahead + random.pick({0, 900, 9000}),
                                        random.pick({0, 8192}), 0, random.pick({0, 1500, 16384, 1 << 20})};

    block.scores = {static_cast<const float*>(q.data()),
                    q_stride,
                    {keys.group.data(), k_stride, shift},
                    rows,
                    dim,
                    kv,
                    scores.data(),
                    score_stride,
                    {ahead.data(), first_value},
                    fetch};
    block.softmax = {scores.data(),
                     score_stride,
                     rows,
                     kv,
                     begin.data(),
                     end.data(),
                     m.data(),
                     l.data(),
                     o.data(),
                     o_stride,
                     v_dim,
                     pairs ? random.pick({1.0f, 0.3f, 2.5f}) : 1.0f,
                     {first_value, after},
                     fetch};
    block.values = {scores.data(),
                    score_stride,
                    {values.group.data(), v_stride, shift},
                    rows,
                    v_dim,
                    kv,
                    runs.data(),
                    l.data(),
                    o.data(),
                    o_stride,
                    {first_value, after},
                    fetch};

    const std::vector<float> want_scores = model_scores(row.element, block, pairs),
                             wide_values = widened(row.element, block.values.v, kv, v_dim);
    std::vector<RunningState> want;
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* o_row = o.data() + r * o_stride;
      RunningState& state = want.emplace_back(m[sz(r)], l[sz(r)], std::vector<float>(o_row, o_row + v_dim));
      const float* row_scores = want_scores.data() + r * kv;
      if (pairs) {
        model_row_of_pairs(block, r, row_scores, wide_values.data(), state);
      } else {
        model_row(row.isa, block, r, row_scores, wide_values.data(), state);
      }
    }
    ASSERT_NO_FATAL_FAILURE(run(block, want_scores, masked));
    for (std::size_t r = 0; r < sz(rows); ++r) {
      ASSERT_TRUE(same_value(m[r], want[r].m)) << "m[" << r << "] " << m[r] << ", want " << want[r].m;
      ASSERT_TRUE(same_value(l[r], want[r].l)) << "l[" << r << "] " << l[r] << ", want " << want[r].l;
      for (std::size_t d = 0; d < sz(v_dim); ++d)
        ASSERT_TRUE(same_value(o[r * sz(o_stride) + d], want[r].o[d]))
            << "o[" << r << "][" << d << "] " << o[r * sz(o_stride) + d] << ", want " << want[r].o[d];
    }
    ASSERT_TRUE(q.intact() && k.intact() && v.intact() && scores.intact() && m.intact() && l.intact() &&
                o.intact());
  }
};

TEST_P(Decode, EqualsTheScalarWalkForEveryTail) {
  for (const std::int64_t rows : {1, 2, 3, 4, 5, 7, 8, 9, 13})
    for (const std::int64_t kv : {1, 2, 7, 8, 31, 32, 33, 63, 65, 256})
      ASSERT_NO_FATAL_FAILURE(
          check({rows, kv, random.between(1, 40), random.between(1, 40)}, Hidden::nothing, random.one_in(2)));
}

TEST_P(Decode, EqualsTheScalarWalkForEveryDim) {
  int n = 0;
  for (const std::int64_t dim :
       {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 80, 96, 127, 128, 129, 192, 256, 576})
    for (const std::int64_t rows : {1, 4, 6}) {
      if (n++ % thinned(1, 1, 2) != 0) continue;  // a step coprime to 3: each dim occurs
      ASSERT_NO_FATAL_FAILURE(check({rows, 40, dim, 16}, Hidden::nothing, true));
      ASSERT_NO_FATAL_FAILURE(check({rows, 40, 16, dim}, Hidden::nothing, true));
    }
}

TEST_P(Decode, EqualsTheScalarWalkForManyKeysOfFourRows) {
  int n = 0;
  for (const std::int64_t rows : {4, 12})
    for (const std::int64_t kv : {64, 95, 129, 330})
      for (const std::int64_t dim : {8, 16, 24, 80, 128}) {
        if (n++ % thinned(1, 1, 3) != 0) continue;  // a step coprime to the lists' lengths: each entry occurs
        ASSERT_NO_FATAL_FAILURE(
            check({rows, kv, dim, random.pick({64, 128})}, Hidden::nothing, random.one_in(2)));
      }
}

TEST_P(Decode, HiddenKeysTouchNoRowThatDoesNotSeeThem) {
  for (int repeat = 0; repeat < thinned(200, 200, 60); ++repeat)
    ASSERT_NO_FATAL_FAILURE(
        check({random.between(1, 10), random.between(1, 100), random.between(1, 24), random.between(1, 70)},
              Hidden::outside, random.one_in(2)));
}

TEST_P(Decode, MasksLeaveRunsOfKeys) {
  for (int repeat = 0; repeat < thinned(200, 200, 60); ++repeat)
    ASSERT_NO_FATAL_FAILURE(
        check({random.between(1, 10), random.between(1, 100), random.between(1, 24), random.between(1, 70)},
              Hidden::masked, random.one_in(2)));
}

INSTANTIATE_TEST_SUITE_P(Rows, Decode, ::testing::ValuesIn(host_rows_but_half(kernels::decode_kernels())),
                         RowName());

}  // namespace
}  // namespace kumiko::test
