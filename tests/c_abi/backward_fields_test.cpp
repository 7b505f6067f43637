// SPDX-License-Identifier: Apache-2.0
// Every field of attention_backward's arguments, through both interfaces.
#include <kumiko/attention_backward_c.h>

#include "runtime/attention_backward.h"
#include "tests/c_abi/fields.h"

namespace kumiko::test {
namespace {

// Two sequences of 3 queries and 4 keys, two heads each, gaps after every row, head and sequence. Gradients
// lie where other calls have out, lse and row_max.
template <class Args>
void place_forward(Args& a) {
  place(a.q, memory().q, {2, 2, 3, 8}, {200, 50, 10, 1});
  place(a.k, memory().k, {2, 2, 4, 8}, {150, 60, 10, 1});
  place(a.v, memory().v, {2, 2, 4, 6}, {120, 50, 8, 1});
  place(a.out, memory().scores, {2, 2, 3, 6}, {120, 50, 8, 1});
  lse_of(a) = static_cast<float*>(memory().parts[0].data());
  a.sinks = static_cast<const float*>(memory().parts[1].data());
  place(a.bias, memory().mask, {2, 2, 3, 4}, {30, 15, 5, 1});
  a.alibi_slopes = static_cast<const float*>(memory().slopes.data());
}
AttentionArgs cpp_forward() {
  AttentionArgs a;
  place_forward(a);
  return a;
}
kumiko_attention_args c_forward(bool is_causal) {
  kumiko_attention_args a = KUMIKO_ATTENTION_ARGS_INIT;
  place_forward(a);
  a.is_causal = is_causal ? 1 : 0;
  return a;
}
const kumiko_attention_args kForward = c_forward(false), kCausal = c_forward(true);

void place_forward_of(BackwardArgs& a) {
  a.forward = cpp_forward();
}
void place_forward_of(kumiko_backward_args& a) {
  a.forward = &kForward;
}
void change_forward(BackwardArgs& a) {
  a.forward.is_causal = true;
}
void change_forward(kumiko_backward_args& a) {
  a.forward = &kCausal;
}
template <class Args>
void place_backward(Args& a) {
  place_forward_of(a);
  place(a.dout, memory().bias, {2, 2, 3, 6}, {120, 50, 8, 1});
  place(a.dq, memory().out, {2, 2, 3, 8}, {200, 50, 10, 1});
  place(a.dk, memory().lse, {2, 2, 4, 8}, {150, 60, 10, 1});
  place(a.dv, memory().row_max, {2, 2, 4, 6}, {120, 50, 8, 1});
}
/// A value for each query: where its pointer and its strides are.
struct RowValues {
  float** data;
  std::int64_t* stride;
};
RowValues dlse_of(BackwardArgs& a) {
  return {&a.dlse.data, a.dlse.stride.data()};
}
RowValues dlse_of(kumiko_backward_args& a) {
  return {&a.dlse, a.dlse_stride};
}
RowValues delta_of(BackwardArgs& a) {
  return {&a.delta.data, a.delta.stride.data()};
}
RowValues delta_of(kumiko_backward_args& a) {
  return {&a.delta, a.delta_stride};
}
template <class Args>
void place_dlse(Args& a) {
  *dlse_of(a).data = static_cast<float*>(memory().parts[2].data());
}
template <class Args>
void place_delta(Args& a) {
  *delta_of(a).data = static_cast<float*>(memory().sums[0].data());
}

template <class Args>
void place_dbias(Args& a) {
  place(a.dbias, memory().row_max, {2, 2, 3, 4}, {40, 18, 5, 1});
  a.dbias.data = static_cast<float*>(memory().row_max.data()) + 600;
}

using BackwardFields = Fields<BackwardArgs, kumiko_backward_args>;
template <class Place, class Of>
void add_row_values(BackwardFields& f, const std::string& name, Place place, Of of) {
  f.add(name, place);
  for (std::size_t i = 0; i < 3; ++i) {
    f.add(
        name + "_stride[" + std::to_string(i) + "]", [of, i](auto& a) { of(a).stride[i] += 5; },
        [place, of](auto& a) {
          place(a);
          of(a).stride[0] = 40, of(a).stride[1] = 11, of(a).stride[2] = 2;
        });
  }
}
BackwardFields backward_fields() {
  BackwardFields f;
  const auto none = [](auto&) {};
  f.add("forward", [](auto& a) { change_forward(a); });
  f.add_tensor(
      "dout", KUMIKO_BF16, false, [](auto& a) -> auto& { return a.dout; }, none);
  f.add_tensor(
      "dq", KUMIKO_F16, false, [](auto& a) -> auto& { return a.dq; }, none);
  f.add_tensor(
      "dk", KUMIKO_BF16, false, [](auto& a) -> auto& { return a.dk; }, none);
  f.add_tensor(
      "dv", KUMIKO_F16, false, [](auto& a) -> auto& { return a.dv; }, none);
  add_row_values(
      f, "dlse", [](auto& a) { place_dlse(a); }, [](auto& a) { return dlse_of(a); });
  f.add("dsinks", [](auto& a) { a.dsinks = static_cast<float*>(memory().row_max.data()) + 512; });
  add_row_values(
      f, "delta", [](auto& a) { place_delta(a); }, [](auto& a) { return delta_of(a); });
  f.add_tensor(
      "dbias", KUMIKO_BF16, false, [](auto& a) -> auto& { return a.dbias; }, [](auto& a) { place_dbias(a); });
  f.add("dalibi_slopes",
        [](auto& a) { a.dalibi_slopes = static_cast<float*>(memory().row_max.data()) + 900; });
  f.add_c(
      "struct_size", [](auto& a) { a.struct_size = offsetof(kumiko_backward_args, dlse); },
      [](auto& a) { place_dlse(a); });
  return f;
}

struct BackwardFieldsTest : BothContexts {};

TEST_F(BackwardFieldsTest, EachCountsAndAllTogether) {
  const BackwardFields fields = backward_fields();
  BackwardArgs cpp;
  kumiko_backward_args c = KUMIKO_BACKWARD_ARGS_INIT;
  place_backward(cpp), place_backward(c);
  const auto see_cpp = [&](const BackwardArgs& a) {
    clear_outputs();
    return seen_of(attention_backward(cpp_context, a));
  };
  const auto see_c = [&](const kumiko_backward_args& a) {
    clear_outputs();
    return seen_of(kumiko_attention_backward(c_context, &a));
  };
  EXPECT_EQ(see_cpp(cpp).message, "");
  std::string names = "struct_size, dlse_stride, delta_stride";
#define KUMIKO_BACKWARD_FIELD(name) names += ", " #name;
#include "runtime/attention_backward_fields.inc"
#undef KUMIKO_BACKWARD_FIELD
  expect_a_row_for_each(names, fields);
  expect_each_field_counts(fields, cpp, c, see_cpp, see_c);
  expect_all_fields_together(fields, cpp, c, see_cpp, see_c);
}

TEST_F(BackwardFieldsTest, Nulls) {
  kumiko_backward_args c = KUMIKO_BACKWARD_ARGS_INIT;
  EXPECT_EQ(kumiko_attention_backward(nullptr, &c), KUMIKO_INVALID_ARGUMENT);
  EXPECT_STREQ(kumiko_last_error(), "context is NULL; expected a kumiko_context");
  EXPECT_EQ(kumiko_attention_backward(c_context, nullptr), KUMIKO_INVALID_ARGUMENT);
  EXPECT_STREQ(kumiko_last_error(), "args is NULL; expected a kumiko_backward_args");
  EXPECT_EQ(kumiko_attention_backward(c_context, &c), KUMIKO_INVALID_ARGUMENT);
  EXPECT_STREQ(kumiko_last_error(), "forward is NULL; expected a kumiko_attention_args");
}

TEST_F(BackwardFieldsTest, Plans) {
  BackwardArgs cpp;
  kumiko_backward_args c = KUMIKO_BACKWARD_ARGS_INIT;
  place_backward(cpp), place_backward(c);
  place_dbias(cpp), place_dbias(c);
  clear_outputs();
  const Seen want = seen_of(attention_backward(cpp_context, cpp));
  kumiko_backward_plan* plan = nullptr;
  ASSERT_EQ(kumiko_backward_plan_create(c_context, &c, &plan), KUMIKO_OK);
  clear_outputs();
  EXPECT_EQ(seen_of(kumiko_backward_plan_run(plan, &c)), want);
  c.dbias.stride[0] = 41;
  clear_outputs();
  EXPECT_EQ(kumiko_backward_plan_run(plan, &c), KUMIKO_INVALID_ARGUMENT);
  EXPECT_STREQ(kumiko_last_error(), "dbias.stride[0] (batch) is 41; expected the planned 40");
  BackwardPlan cpp_plan;
  ASSERT_TRUE(plan_backward(cpp_context, cpp, &cpp_plan).ok());
  const char* text = nullptr;
  std::int64_t bytes = 0;
  EXPECT_EQ(kumiko_backward_plan_explain(plan, &text), KUMIKO_OK);
  EXPECT_EQ(text, cpp_plan.explain());
  EXPECT_EQ(kumiko_backward_plan_workspace_bytes(plan, &bytes), KUMIKO_OK);
  EXPECT_EQ(bytes, cpp_plan.workspace_bytes());
  EXPECT_EQ(kumiko_backward_plan_create(nullptr, &c, &plan), KUMIKO_INVALID_ARGUMENT);
  EXPECT_EQ(kumiko_backward_plan_create(c_context, &c, nullptr), KUMIKO_INVALID_ARGUMENT);
  EXPECT_EQ(kumiko_backward_plan_run(nullptr, &c), KUMIKO_INVALID_ARGUMENT);
  EXPECT_STREQ(kumiko_last_error(), "plan is NULL; expected a kumiko_backward_plan");
  EXPECT_EQ(kumiko_backward_plan_run(plan, nullptr), KUMIKO_INVALID_ARGUMENT);
  EXPECT_EQ(kumiko_backward_plan_explain(nullptr, &text), KUMIKO_INVALID_ARGUMENT);
  EXPECT_EQ(kumiko_backward_plan_explain(plan, nullptr), KUMIKO_INVALID_ARGUMENT);
  EXPECT_EQ(kumiko_backward_plan_workspace_bytes(nullptr, &bytes), KUMIKO_INVALID_ARGUMENT);
  EXPECT_EQ(kumiko_backward_plan_workspace_bytes(plan, nullptr), KUMIKO_INVALID_ARGUMENT);
  kumiko_backward_plan_destroy(plan);
  kumiko_backward_plan_destroy(nullptr);
}

}  // namespace
}  // namespace kumiko::test
