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
void place_all(Args& a) {
  place_forward_of(a);
  place(a.dout, memory().bias, {2, 2, 3, 6}, {120, 50, 8, 1});
  place(a.dq, memory().out, {2, 2, 3, 8}, {200, 50, 10, 1});
  place(a.dk, memory().lse, {2, 2, 4, 8}, {150, 60, 10, 1});
  place(a.dv, memory().row_max, {2, 2, 4, 6}, {120, 50, 8, 1});
}
void set_dlse(BackwardArgs& a, float* data) {
  a.dlse.data = data;
}
void set_dlse(kumiko_backward_args& a, float* data) {
  a.dlse = data;
}
std::int64_t* dlse_stride_of(BackwardArgs& a) {
  return a.dlse.stride.data();
}
std::int64_t* dlse_stride_of(kumiko_backward_args& a) {
  return a.dlse_stride;
}
template <class Args>
void place_dlse(Args& a) {
  set_dlse(a, static_cast<float*>(memory().parts[2].data()));
}

using BackwardFields = Fields<BackwardArgs, kumiko_backward_args>;
BackwardFields all_fields() {
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
  f.add("dlse", [](auto& a) { place_dlse(a); });
  for (std::size_t i = 0; i < 3; ++i) {
    f.add(
        "dlse_stride[" + std::to_string(i) + "]", [i](auto& a) { dlse_stride_of(a)[i] += 5; },
        [](auto& a) {
          place_dlse(a);
          dlse_stride_of(a)[0] = 40, dlse_stride_of(a)[1] = 11, dlse_stride_of(a)[2] = 2;
        });
  }
  f.add("dsinks", [](auto& a) { a.dsinks = static_cast<float*>(memory().row_max.data()) + 512; });
  f.add_c(
      "struct_size", [](auto& a) { a.struct_size = offsetof(kumiko_backward_args, dlse); },
      [](auto& a) { place_dlse(a); });
  return f;
}

struct BackwardFieldsTest : BothContexts {};

TEST_F(BackwardFieldsTest, EachCountsAndAllTogether) {
  const BackwardFields fields = all_fields();
  BackwardArgs cpp;
  kumiko_backward_args c = KUMIKO_BACKWARD_ARGS_INIT;
  place_all(cpp), place_all(c);
  const auto see_cpp = [&](const BackwardArgs& a) {
    clear_outputs();
    return seen_of(attention_backward(cpp_context, a));
  };
  const auto see_c = [&](const kumiko_backward_args& a) {
    clear_outputs();
    return seen_of(kumiko_attention_backward(c_context, &a));
  };
  EXPECT_EQ(see_cpp(cpp).message, "");
  std::string names = "struct_size, dlse_stride";
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
  EXPECT_STREQ(kumiko_last_error(), "context is NULL, expected a kumiko_context");
  EXPECT_EQ(kumiko_attention_backward(c_context, nullptr), KUMIKO_INVALID_ARGUMENT);
  EXPECT_STREQ(kumiko_last_error(), "args is NULL, expected a kumiko_backward_args");
  EXPECT_EQ(kumiko_attention_backward(c_context, &c), KUMIKO_INVALID_ARGUMENT);
  EXPECT_STREQ(kumiko_last_error(), "forward is NULL, expected a kumiko_attention_args");
}

}  // namespace
}  // namespace kumiko::test
