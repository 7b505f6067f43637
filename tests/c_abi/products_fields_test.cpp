// SPDX-License-Identifier: Apache-2.0
// Every field of the arguments of softmax_pv, fused_gemm and merge_states, through both interfaces.
#include "tests/c_abi/fields.h"

namespace kumiko::test {
namespace {

// With a new field the binding below does not compile: give the field a row in its table, then its name here.
#define STATE out, lse, lse_stride

[[maybe_unused]] void each_state_has_these_fields() {
  { [[maybe_unused]] const auto& [STATE] = kumiko_attention_state{}; }
  { [[maybe_unused]] const auto& [STATE] = AttentionState{}; }
}

// Two sequences of 4 query heads over 2 KV heads, 3 queries, 5 keys, gaps after every row, head and sequence.
template <class Args>
void place_values(Args& a) {
  place(a.v, memory().v, {2, 2, 5, 6}, {120, 50, 8, 1});
  place(a.out, memory().out, {2, 4, 3, 6}, {160, 30, 7, 1});
}

constexpr auto kNone = [](auto&) {};

using SoftmaxPvFields = Fields<SoftmaxPvArgs, kumiko_softmax_pv_args>;
SoftmaxPvFields softmax_pv_fields() {
  SoftmaxPvFields f;
  f.add_tensor(
      "scores", KUMIKO_I32, false, [](auto& a) -> auto& { return a.scores; }, kNone);
  f.add_tensor(
      "v", KUMIKO_F16, true, [](auto& a) -> auto& { return a.v; }, kNone);
  f.add_tensor(
      "out", KUMIKO_BF16, true, [](auto& a) -> auto& { return a.out; }, kNone);
  f.add("v.dtype and out's", [](auto& a) { set(a.v.dtype, KUMIKO_F16), set(a.out.dtype, KUMIKO_F16); });
  f.add_lse();
  f.add_visibility();
  // The other pipelines give the same bits.
  f.add_refused("pipeline", [](auto& a) { set(a.pipeline, KUMIKO_PIPELINE_DECODE); });
  f.add_refused("precision", [](auto& a) { set(a.precision, KUMIKO_PRECISION_HALF); });
  f.add_c(
      "reserved", [](auto& a) { a.reserved = 1; }, kNone);
  f.add_c(
      "struct_size", [](auto& a) { a.struct_size = offsetof(kumiko_softmax_pv_args, lse); },
      [](auto& a) { a.is_causal = true; });
  return f;
}

using FusedGemmFields = Fields<FusedGemmArgs, kumiko_fused_gemm_args>;
FusedGemmFields fused_gemm_fields() {
  FusedGemmFields f;
  f.add_tensor(
      "q", KUMIKO_BF16, true, [](auto& a) -> auto& { return a.q; }, kNone);
  f.add_tensor(
      "k", KUMIKO_BF16, true, [](auto& a) -> auto& { return a.k; }, kNone);
  f.add_tensor(
      "v", KUMIKO_BF16, true, [](auto& a) -> auto& { return a.v; }, kNone);
  f.add_tensor(
      "out", KUMIKO_BF16, true, [](auto& a) -> auto& { return a.out; }, kNone);
  f.add("q.dtype and the others'", [](auto& a) {
    set(a.q.dtype, KUMIKO_BF16), set(a.k.dtype, KUMIKO_BF16), set(a.v.dtype, KUMIKO_BF16);
    set(a.out.dtype, KUMIKO_BF16);
  });
  f.add_visibility();
  f.add_refused("precision", [](auto& a) { set(a.precision, KUMIKO_PRECISION_HALF); });
  f.add_c(
      "struct_size", [](auto& a) { a.struct_size = offsetof(kumiko_fused_gemm_args, scale); },
      [](auto& a) { a.is_causal = true; });
  return f;
}

/// The arguments of merge_states, which takes no struct.
struct CppMerge {
  AttentionState states[3];
  std::size_t count = 3;
  Tensor out;
  LseView lse;
};
struct CMerge {
  kumiko_attention_state states[3] = {};
  std::int64_t count = 3;
  kumiko_tensor out = KUMIKO_TENSOR_INIT;
  float* lse = nullptr;
  std::int64_t lse_stride[3] = {};
};
constexpr std::int64_t kSumStride[3] = {40, 7, 2};

template <class Merge>
void place_states(Merge& m) {
  for (std::size_t n = 0; n < 3; ++n) {
    place(m.states[n].out, memory().parts[n], {2, 4, 3, 6}, {160, 30, 7, 1});
    m.states[n].lse = static_cast<const float*>(memory().sums[n].data());
    std::copy(kSumStride, kSumStride + 3, &m.states[n].lse_stride[0]);
  }
  place(m.out, memory().out, {2, 4, 3, 6}, {150, 32, 8, 1});
}

using MergeFields = Fields<CppMerge, CMerge>;
MergeFields merge_fields() {
  MergeFields f;
  for (std::size_t n = 0; n < 3; ++n) {
    const std::string state = "states[" + std::to_string(n) + "].";
    f.add_tensor(
        state + "out", KUMIKO_BF16, true, [n](auto& m) -> auto& { return m.states[n].out; }, kNone);
    f.add(state + "lse", [n](auto& m) { m.states[n].lse += 1; });
    for (std::size_t i = 0; i < 3; ++i)
      f.add(state + "lse_stride[" + std::to_string(i) + "]",
            [n, i](auto& m) { ++m.states[n].lse_stride[i]; });
  }
  f.add("states[0].out.dtype and the others'", [](auto& m) {
    for (auto& state : m.states) set(state.out.dtype, KUMIKO_BF16);
    set(m.out.dtype, KUMIKO_BF16);
  });
  f.add("count", [](auto& m) { m.count = 2; });
  f.add_tensor(
      "out", KUMIKO_BF16, true, [](auto& m) -> auto& { return m.out; }, kNone);
  f.add_lse();
  return f;
}

struct ProductFields : BothContexts {
  /// Wraps the C or C++ function `call`, which takes a context and arguments.
  template <class Call, class ContextOf>
  static auto see(Call call, const ContextOf& context) {
    return [call, &context](const auto& args) {
      clear_outputs();
      return seen_of(call(context, args));
    };
  }
};

TEST_F(ProductFields, SoftmaxPv) {
  const SoftmaxPvFields fields = softmax_pv_fields();
  SoftmaxPvArgs cpp;
  kumiko_softmax_pv_args c = KUMIKO_SOFTMAX_PV_ARGS_INIT;
  const auto place_all = [](auto& a) {
    place(a.scores, memory().scores, {2, 4, 3, 5}, {80, 20, 6, 1});
    place_values(a);
  };
  place_all(cpp), place_all(c);
  const auto see_cpp = see([](auto& context, const auto& a) { return softmax_pv(context, a); }, cpp_context);
  const auto see_c =
      see([](auto* context, const auto& a) { return kumiko_softmax_pv(context, &a); }, c_context);
  expect_a_row_for_each(names_of<kumiko_softmax_pv_args>(), fields);
  expect_a_row_for_each(names_of<SoftmaxPvArgs>(), fields);
  expect_each_field_counts(fields, cpp, c, see_cpp, see_c);
  expect_all_fields_together(fields, cpp, c, see_cpp, see_c);
}

TEST_F(ProductFields, FusedGemm) {
  const FusedGemmFields fields = fused_gemm_fields();
  FusedGemmArgs cpp;
  kumiko_fused_gemm_args c = KUMIKO_FUSED_GEMM_ARGS_INIT;
  const auto place_all = [](auto& a) {
    place(a.q, memory().q, {2, 4, 3, 8}, {200, 40, 9, 1});
    place(a.k, memory().k, {2, 2, 5, 8}, {150, 60, 10, 1});
    place_values(a);
  };
  place_all(cpp), place_all(c);
  const auto see_cpp = see([](auto& context, const auto& a) { return fused_gemm(context, a); }, cpp_context);
  const auto see_c =
      see([](auto* context, const auto& a) { return kumiko_fused_gemm(context, &a); }, c_context);
  expect_a_row_for_each(names_of<kumiko_fused_gemm_args>(), fields);
  expect_a_row_for_each(names_of<FusedGemmArgs>(), fields);
  expect_each_field_counts(fields, cpp, c, see_cpp, see_c);
  expect_all_fields_together(fields, cpp, c, see_cpp, see_c);
}

TEST_F(ProductFields, MergeStates) {
  const MergeFields fields = merge_fields();
  CppMerge cpp;
  CMerge c;
  place_states(cpp), place_states(c);
  const auto see_cpp = see(
      [](auto& context, const auto& m) {
        return merge_states(context, {m.states, m.count}, m.out, m.lse);
      },
      cpp_context);
  const auto see_c = see(
      [](auto* context, const auto& m) {
        return kumiko_merge_states(context, m.states, m.count, &m.out, m.lse, m.lse_stride);
      },
      c_context);
  expect_a_row_for_each("states[0].out, states[2].lse, states[2].lse_stride, count, out, lse", fields);
  expect_each_field_counts(fields, cpp, c, see_cpp, see_c);
  expect_all_fields_together(fields, cpp, c, see_cpp, see_c);

  // NULL strides mean contiguous memory.
  clear_outputs();
  const LseView dense{static_cast<float*>(memory().lse.data()), {}};
  const Seen want = seen_of(merge_states(cpp_context, cpp.states, cpp.out, dense));
  EXPECT_EQ(want.code, KUMIKO_OK) << want;
  clear_outputs();
  EXPECT_EQ(seen_of(kumiko_merge_states(c_context, c.states, 3, &c.out, dense.data, nullptr)), want);
}

TEST_F(ProductFields, CountsOfStatesThatCannotBe) {
  CMerge c;
  place_states(c);
  for (const std::int64_t count :
       {INT64_MIN, std::int64_t{-1}, std::int64_t{0}, std::int64_t{65537}, INT64_MAX}) {
    clear_outputs();
    const Seen before = seen_of(KUMIKO_INVALID_ARGUMENT);
    const Seen seen = seen_of(kumiko_merge_states(c_context, c.states, count, &c.out, c.lse, c.lse_stride));
    EXPECT_EQ(seen.code, KUMIKO_INVALID_ARGUMENT);
    EXPECT_EQ(seen.message, "count is " + std::to_string(count) + "; expected 1 to 65536");
    EXPECT_EQ(seen.out, before.out);
  }
  // The largest number of states: the same value and weight each time, so that each sum is rounded 65536
  // times.
  std::vector<kumiko_attention_state> most(65536);
  for (kumiko_attention_state& state : most) {
    place(state.out, memory().parts[0], {1, 1, 1, 4}, {0, 0, 0, 1});
    state.lse = static_cast<const float*>(memory().sums[0].data());
  }
  place(c.out, memory().out, {1, 1, 1, 4}, {4, 4, 4, 1});
  const Seen seen = seen_of(kumiko_merge_states(c_context, most.data(), 65536, &c.out, nullptr, nullptr));
  EXPECT_EQ(seen.code, KUMIKO_OK) << seen;
  const auto* const out = static_cast<const float*>(memory().out.data());
  const auto* const value = static_cast<const float*>(memory().parts[0].data());
  for (int d = 0; d < 4; ++d) EXPECT_NEAR(out[d], value[d], 65536 * 0x1p-24f * std::abs(value[d]));
}

}  // namespace
}  // namespace kumiko::test
