// SPDX-License-Identifier: Apache-2.0
// merge_states: attention over parts of the keys, merged, against attention over all of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>

#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/numbers.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

struct Merge : ::testing::TestWithParam<std::tuple<std::string, std::string>> {
  Context context = context_of(std::get<0>(GetParam()), std::get<1>(GetParam()));
};

TEST_P(Merge, PartsOfTheKeysMergeIntoTheWhole) {
  const std::vector<Layout> layouts = {Layout::padded, Layout::bhsd, Layout::bshd};
  for (const DataType type : {DataType::f32, DataType::bf16, DataType::f16}) {
    for (const Layout layout : std::span(layouts).first(thinned<std::size_t>(3, 3, 1))) {
      Case c;
      c.batch = 2, c.q_heads = 4, c.kv_heads = 2, c.q_len = 37, c.kv_len = 500, c.head_dim = 24,
      c.v_head_dim = 19;
      c.out_layout = layout;
      c.lse = layout == Layout::padded ? GuardedLse::Layout::padded : GuardedLse::Layout::contiguous;
      const Problem whole(c);
      const auto fp64 = attention_fp64(whole.args());
      std::vector<std::unique_ptr<GuardedTensor>> outs;
      std::vector<std::unique_ptr<NarrowTensor>> narrow;
      std::vector<std::unique_ptr<GuardedLse>> sums;
      std::vector<AttentionState> states;
      // Parts of uneven length, one of them empty: its output rows are 0 and its LSEs -inf.
      for (const auto& [first, last] : {std::pair{0, 3}, {3, 3}, {3, 300}, {300, 499}, {499, 500}}) {
        AttentionArgs part = whole.args();
        for (ConstTensor* t : {&part.k, &part.v}) {
          t->data = static_cast<const float*>(t->data) + first * t->stride[2];
          t->shape[2] = last - first;
        }
        outs.push_back(std::make_unique<GuardedTensor>(whole.out.shape(), layout, Flush::back));
        sums.push_back(std::make_unique<GuardedLse>(c.batch, c.q_heads, c.q_len, c.lse, Flush::front));
        part.out = outs.back()->output();
        part.lse = sums.back()->view();
        ASSERT_TRUE(attention_forward(context, part).ok());
        AttentionState state{outs.back()->input(), part.lse.data, part.lse.stride};
        if (type != DataType::f32) {
          narrow.push_back(std::make_unique<NarrowTensor>(*outs.back(), type, Flush::back));
          narrow.back()->copy(*outs.back());
          state.out = narrow.back()->input();
        }
        states.push_back(state);
      }
      whole.poison_outputs();
      const Status status = merge_states(context, states, whole.args().out, whole.args().lse);
      ASSERT_TRUE(status.ok()) << status.message();
      ASSERT_TRUE(whole.borders_intact());
      const Outcome got = whole.outcome();
      // Each part is correct to about 1e-6 and the weights add up to 1; 16-bit parts are off by half an ulp.
      const double tolerance = type == DataType::f32 ? 3e-6 : type == DataType::bf16 ? 2e-2 : 2e-3;
      for (std::size_t i = 0; i < got.out.size(); ++i) ASSERT_NEAR(got.out[i], fp64.out[i], tolerance) << i;
      for (std::size_t i = 0; i < got.lse.size(); ++i) ASSERT_NEAR(got.lse[i], fp64.lse[i], 3e-6) << i;
      if (type == DataType::f32) continue;
      // An output of the states' type is the f32 one, rounded once.
      const NarrowTensor out(whole.out, type, Flush::front);
      ASSERT_TRUE(merge_states(context, states, out.output(), whole.args().lse).ok());
      ASSERT_TRUE(out.gaps_untouched());
      ASSERT_TRUE(are_rounded_once(out.elements(), got.out, type));
    }
  }
}

TEST_P(Merge, StatesThatSawNothingAreNeutralWhateverTheyHold) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float value[4] = {1.0f, -2.0f, 3.0f, 4.0f}, rubbish[4] = {nan, kInf, 1.0f, nan};
  const float seen = 0.7f, nothing = -kInf;
  const auto view = [](const float* data) { return ConstTensor::bhsd(data, 1, 1, 1, 4); };
  float out[4] = {}, lse = 0;
  const AttentionState states[] = {
      {view(rubbish), &nothing}, {view(value), &seen}, {view(rubbish), &nothing}};
  ASSERT_TRUE(merge_states(context, states, Tensor::bhsd(out, 1, 1, 1, 4), {&lse}).ok());
  for (int d = 0; d < 4; ++d) EXPECT_EQ(out[d], value[d]);
  EXPECT_FLOAT_EQ(lse, seen);
  ASSERT_TRUE(merge_states(context, {states, 1}, Tensor::bhsd(out, 1, 1, 1, 4), {&lse}).ok());
  for (int d = 0; d < 4; ++d) EXPECT_EQ(out[d], 0.0f);
  EXPECT_EQ(lse, -kInf);
}

// A finite LSE must not become +-inf in the units of the computation.
TEST_P(Merge, TheLargestAndTheSmallestSums) {
  const float left[4] = {1.0f, -2.0f, 3.0f, 4.0f}, right[4] = {3.0f, 2.0f, -3.0f, 0.0f};
  const auto view = [](const float* data) { return ConstTensor::bhsd(data, 1, 1, 1, 4); };
  for (const float sum :
       {std::numeric_limits<float>::max(), 2.5e38f, -2.5e38f, std::numeric_limits<float>::lowest()}) {
    float out[4] = {}, lse = 0;
    const AttentionState states[] = {{view(left), &sum}, {view(right), &sum}};
    ASSERT_TRUE(merge_states(context, states, Tensor::bhsd(out, 1, 1, 1, 4), LseView{&lse}).ok());
    for (int d = 0; d < 4; ++d) EXPECT_FLOAT_EQ(out[d], 0.5f * (left[d] + right[d])) << sum;
    EXPECT_EQ(lse, sum) << "log(2) is below its last place";
  }
  // As far apart as floats can be: only the greater counts.
  const float most = std::numeric_limits<float>::max(), least = std::numeric_limits<float>::lowest();
  float out[4] = {}, lse = 0;
  const AttentionState states[] = {{view(left), &least}, {view(right), &most}};
  ASSERT_TRUE(merge_states(context, states, Tensor::bhsd(out, 1, 1, 1, 4), LseView{&lse}).ok());
  for (int d = 0; d < 4; ++d) EXPECT_EQ(out[d], right[d]);
  EXPECT_EQ(lse, most);
}

// "In the order given", to the bit: f32 sums that differ in every order, with weights of exactly 1.
TEST_P(Merge, ThreeAndMoreStatesMergeInTheOrderGiven) {
  const float values[] = {1e8f, 1.0f, -1e8f, 3.0f}, same = 0.25f;
  for (const std::size_t count : {3, 4}) {
    std::vector<std::size_t> order(count);
    std::iota(order.begin(), order.end(), std::size_t{0});
    do {
      std::vector<AttentionState> states;
      float sum = 0.0f, out = 0.0f;
      for (const std::size_t n : order) {
        states.push_back({ConstTensor::bhsd(&values[n], 1, 1, 1, 1), &same});
        sum += values[n];
      }
      ASSERT_TRUE(merge_states(context, states, Tensor::bhsd(&out, 1, 1, 1, 1)).ok());
      EXPECT_EQ(out, sum * (1.0f / static_cast<float>(count)))
          << count << " states from number " << order[0] << ", then " << order[1] << ", then " << order[2];
    } while (std::next_permutation(order.begin(), order.end()));
  }
  // Weights of 0.7 * 2^-24: added to 1 one at a time they are lost, added up first they are not.
  const float most = 0.0f, least = -24.5f * 0.6931472f, one = 1.0f;
  const AttentionState top{ConstTensor::bhsd(&one, 1, 1, 1, 1), &most},
      small{ConstTensor::bhsd(&one, 1, 1, 1, 1), &least};
  const auto lse_of = [&](const std::vector<AttentionState>& states) {
    float out = 0, lse = -1;
    EXPECT_TRUE(merge_states(context, states, Tensor::bhsd(&out, 1, 1, 1, 1), LseView{&lse}).ok());
    return lse;
  };
  EXPECT_EQ(lse_of({top, small, small}), 0.0f);
  EXPECT_FLOAT_EQ(lse_of({small, small, top}), 0x1p-23f);
}

TEST_P(Merge, InPlaceIntoTheFirstState) {
  std::vector<float> a(3 * 5 * 8), b(a.size()), a_lse(15), b_lse(15), want(a.size()), want_lse(15);
  Random random(test_seed(95));
  for (auto* x : {&a, &b, &a_lse, &b_lse})
    for (float& v : *x) v = random.normal();
  const auto view = [](const float* data) { return ConstTensor::bhsd(data, 1, 3, 5, 8); };
  const AttentionState states[] = {{view(a.data()), a_lse.data()}, {view(b.data()), b_lse.data()}};
  ASSERT_TRUE(merge_states(context, states, Tensor::bhsd(want.data(), 1, 3, 5, 8), {want_lse.data()}).ok());
  ASSERT_TRUE(merge_states(context, states, Tensor::bhsd(a.data(), 1, 3, 5, 8), {a_lse.data()}).ok());
  EXPECT_EQ(a, want);
  EXPECT_EQ(a_lse, want_lse);
  for (std::size_t r = 0; r < 15;
       ++r)  // lse = log(e^x + e^y), from numbers that were overwritten only in `a`
    EXPECT_GE(want_lse[r], b_lse[r]);
}

TEST_P(Merge, BadArgumentsAreNamed) {
  std::vector<float> data(64), lse(8);
  const ConstTensor good = ConstTensor::bhsd(data.data(), 1, 2, 4, 4);
  std::vector<float> result(32);
  const Tensor out = Tensor::bhsd(result.data(), 1, 2, 4, 4);
  const auto refused = [&](const AttentionState& state, const Tensor& to, const std::string& argument) {
    const Status status = merge_states(context, {&state, 1}, to, {});
    EXPECT_EQ(status.code(), Code::invalid_argument);
    EXPECT_NE(status.message().find(argument), std::string::npos) << status.message();
  };
  EXPECT_EQ(merge_states(context, {}, out, {}).code(), Code::invalid_argument);
  refused({good, nullptr}, out, "states[0].lse is null");
  refused({good, lse.data(), {8, -4, 1}}, out, "states[0].lse_stride[1] (heads) is -4");
  ConstTensor bad = good;
  bad.data = nullptr;
  refused({bad, lse.data()}, out, "states[0].out");
  bad = good;
  bad.shape[2] = 3;
  refused({bad, lse.data()}, out, "states[0].out.shape[2]");
  bad = good;
  bad.dtype = DataType::boolean;
  refused({bad, lse.data()}, out, "states[0].out.dtype");
  Tensor narrow = out;
  narrow.dtype = DataType::f16;
  refused({good, lse.data()}, narrow, "out.dtype");
  Tensor shifted = Tensor::bhsd(data.data() + 3, 1, 2, 4, 4);
  refused({good, lse.data()}, shifted, "out.data");
  const std::vector<std::uint16_t> halves(32);
  ConstTensor other = good;
  other.data = halves.data();
  other.dtype = DataType::f16;
  const AttentionState mixed[] = {{good, lse.data()}, {other, lse.data()}};
  const Status status = merge_states(context, mixed, out, {});
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_NE(status.message().find("states[1].out.dtype is f16; expected f32"), std::string::npos)
      << status.message();
  EXPECT_EQ(merge_states(Context(), {}, out, {}).code(), Code::invalid_argument);
}

INSTANTIATE_TEST_SUITE_P(Isa, Merge,
                         ::testing::Combine(::testing::ValuesIn(host_isas()),
                                            ::testing::Values(std::string("openmp"), std::string("serial"))),
                         [](const auto& param_info) {
                           return std::get<1>(param_info.param) + "_" + std::get<0>(param_info.param);
                         });

}  // namespace
}  // namespace kumiko::test
