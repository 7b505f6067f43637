// SPDX-License-Identifier: Apache-2.0
// Sizes and strides whose products exceed 63 bits give an error or a correct plan, never a wrapped number.
// UndefinedBehaviorSanitizer also runs this and finds the wraps that change no result.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "runtime/attention_backward.h"
#include "runtime/key_parts.h"
#include "runtime/plan.h"
#include "runtime/validate.h"
#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/bits.h"

namespace kumiko::test {
namespace {

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kLongest = std::numeric_limits<std::int32_t>::max();

std::int64_t power(int exponent) {
  return std::int64_t{1} << exponent;
}

// For planning only: no pointers. Inputs are expanded (strides 0) if their size would not fit.
AttentionArgs problem(std::int64_t batch, std::int64_t q_heads, std::int64_t kv_heads, std::int64_t q_len,
                      std::int64_t kv_len, std::int64_t dim) {
  AttentionArgs args;
  args.q = ConstTensor::bhsd(nullptr, batch, q_heads, q_len, dim);
  args.k = args.v = ConstTensor::bhsd(nullptr, batch, kv_heads, kv_len, dim);
  args.k.stride = args.v.stride = {0, 0, 0, 1};
  args.out = Tensor::bhsd(nullptr, batch, q_heads, q_len, dim);
  return args;
}

Context machine(int cores) {
  ContextOptions options;
  options.executor = "serial";  // any number of seats without threads
  options.topology = flat_machine(cores);
  return context_of(options);
}

Status plan_only(const AttentionArgs& args, const Context& context = machine(4)) {
  Plan prepared;
  return plan(context, args, &prepared);
}

void expect_refused(const AttentionArgs& args, Code code, const std::string& name) {
  const Status status = plan_only(args);
  EXPECT_EQ(status.code(), code) << status.message();
  EXPECT_NE(status.message().find(name), std::string::npos) << status.message();
}

TEST(ExtremeShapes, SizesBeyondInt32AreRefusedByName) {
  for (const std::int64_t size : {power(31), power(32), power(40), power(62), kMax, -power(40)}) {
    expect_refused(problem(size, 1, 1, 1, 1, 8), Code::invalid_argument, "q.shape[0]");
    expect_refused(problem(1, size, 1, 1, 1, 8), Code::invalid_argument, "q.shape[1]");
    expect_refused(problem(1, 1, 1, size, 1, 8), Code::invalid_argument, "q.shape[2]");
    expect_refused(problem(1, 1, 1, 1, size, 8), Code::invalid_argument, "k.shape[2]");
    expect_refused(problem(1, 1, 1, 1, 1, size), Code::invalid_argument, "q.shape[3]");
  }
}

TEST(ExtremeShapes, StridesThatReachBeyondTheAddressSpaceAreRefusedByName) {
  for (const std::int64_t stride : {power(60), power(61), power(62) - 1, power(62), kMax}) {
    for (int dim = 0; dim < 3; ++dim) {
      const auto spoil = [&](auto& view) {
        view.shape[static_cast<std::size_t>(dim)] = 7;
        view.stride[static_cast<std::size_t>(dim)] = stride;
      };
      AttentionArgs args = problem(7, 7, 7, 7, 7, 8);
      spoil(args.q);
      expect_refused(args, Code::invalid_argument, "q.stride");
      args = problem(7, 7, 7, 7, 7, 8);
      spoil(args.k);
      expect_refused(args, Code::invalid_argument, "k.stride");
      args = problem(7, 7, 7, 7, 7, 8);
      spoil(args.out);
      expect_refused(args, Code::invalid_argument, "out.stride");
    }
  }
  AttentionArgs args = problem(2, 2, 2, 2, 2, 8);
  args.lse.stride = {power(62), 2, 1};
  expect_refused(args, Code::invalid_argument, "lse.stride");
}

TEST(ExtremeShapes, SlopesThatReachBeyondTheAddressSpaceAreRefusedByName) {
  AttentionArgs args = problem(2, 2, 2, 1, 1, 8);
  for (const std::int64_t stride : {power(61) - 1, power(61), power(62), kMax}) {
    args.alibi_batch_stride = stride;
    expect_refused(args, Code::invalid_argument, "alibi_batch_stride is " + std::to_string(stride));
  }
  args.alibi_batch_stride = power(61) - 3;  // the last slope is the last float below 2^63 bytes
  EXPECT_TRUE(plan_only(args).ok()) << plan_only(args).message();
  args = problem(1, 2, 2, 1, 1, 8);
  args.alibi_batch_stride = kMax;  // there is no second sequence
  EXPECT_TRUE(plan_only(args).ok()) << plan_only(args).message();
}

// Strides of 0 keep the extents small: only the number of elements is too large. No memory is read.
TEST(ExtremeShapes, ProductsOfSizesFrom2To61OnAreRefusedByName) {
  auto* const somewhere = reinterpret_cast<float*>(std::uintptr_t{1} << 40);
  const auto apart = [&](int n) { return somewhere + power(36) * n; };
  const auto expanded = [](const void* data, std::array<std::int64_t, 4> shape, DataType type) {
    return ConstTensor{data, shape, {0, 0, 0, shape[3] == 1 ? 0 : 1}, type};
  };
  for (const int heads_bits : {0, 1, 2, 3, 4, 5}) {  // 2^60 to 2^65 scores
    const std::int64_t heads = power(heads_bits), rows = power(30), keys = power(30);
    const bool fits = heads_bits == 0;
    const Tensor out = Tensor::bhsd(apart(0), 1, heads, rows, 1);
    const ConstTensor v = expanded(apart(1), {1, 1, keys, 1}, DataType::f32);
    const auto expect = [&](const Status& status, const std::string& name) {
      EXPECT_EQ(status.ok(), fits) << status.message();
      if (!fits) {
        EXPECT_EQ(status.message().find(name + ".shape is a product"), 0u) << status.message();
      }
    };
    SoftmaxPvArgs pv{.scores = expanded(apart(2), {1, heads, rows, keys}, DataType::f32), .v = v, .out = out};
    expect(validate_softmax_pv(pv), "scores");
    AttentionArgs args{
        .q = expanded(apart(2), {1, heads, rows, 1}, DataType::f32), .k = v, .v = v, .out = out};
    args.mask = expanded(apart(3), {1, heads, rows, keys}, DataType::boolean);
    args.mask.stride = {};
    expect(validate_problem(args), "mask");
    args.mask = {};
    args.bias = expanded(apart(3), {1, heads, rows, keys}, DataType::bf16);
    expect(validate_problem(args), "bias");
  }
  // The largest product that fits, and the next one.
  for (const std::int64_t last : {4, 5}) {
    AttentionArgs only_q;
    only_q.q = expanded(apart(0), {kLongest, 1 << 28, 1, last}, DataType::f32);
    const std::string message = validate_problem(only_q).message();
    EXPECT_EQ(message.find("q.shape is a product") == 0, last == 5) << message;
  }
}

// 2^45 and 2^31 tasks: too many for 32-bit numbers and for any memory.
TEST(ExtremeShapes, MoreTasksThanAPlanHoldsAreUnsupported) {
  AttentionArgs args = problem(power(30), power(15), power(15), 1, 1, 1);
  expect_refused(args, Code::unsupported, "q.shape");
  EXPECT_NE(plan_only(args).message().find(std::to_string(power(45))), std::string::npos)
      << plan_only(args).message();
  expect_refused(problem(kLongest, 1, 1, 1, 1, 8), Code::unsupported, "q.shape");
  expect_refused(problem(1, power(20), 1, kLongest, kLongest, 8), Code::unsupported, "q.shape");
  // With lengths a plan takes memory for its updates before it is cut.
  const std::vector<std::int32_t> lengths(1 << 12, 1);
  args = problem(power(12), power(27), power(27), 1, 1, 1);
  args.seqused_k = lengths.data();
  expect_refused(args, Code::unsupported, "q.shape");
}

// The same of the calls that have no plan of attention. Nothing is read or written at these addresses.
TEST(ExtremeShapes, MoreTasksOfOtherCallsAreUnsupported) {
  alignas(64) static float memory[1 << 20];
  const std::array<std::int64_t, 4> shape{power(20), power(20), power(20), 1}, one{0, 0, 0, 1};
  void* const low = reinterpret_cast<void*>(power(61));
  const Tensor out = Tensor::bhsd(low, shape[0], shape[1], shape[2], 1);
  const ConstTensor in{memory, shape, one};
  const AttentionState state{in, memory, {0, 0, 1}};
  const Status merged = merge_states(machine(1), {&state, 1}, out);
  EXPECT_EQ(merged.code(), Code::unsupported);
  EXPECT_EQ(merged.message(), "out.shape makes 18014398509481984 tasks; expected at most 67108864");
  Tensor rounded = out;
  rounded.dtype = DataType::i8;
  const Status quantized = quantize_rows(machine(1), in, rounded, {reinterpret_cast<float*>(power(62)), {}});
  EXPECT_EQ(quantized.code(), Code::unsupported);
  EXPECT_EQ(quantized.message(), "x.shape makes 4503599627370496 tasks; expected at most 67108864");
}

TEST(ExtremeShapes, MoreTasksOfGradientsAreUnsupported) {
  const auto refused = [](const AttentionArgs& forward, const std::string& count) {
    const auto& q = forward.q.shape;
    const auto& k = forward.k.shape;
    BackwardArgs args;
    args.forward = forward;
    args.dq = Tensor::bhsd(nullptr, q[0], q[1], q[2], q[3]);
    args.dk = args.dv = Tensor::bhsd(nullptr, k[0], k[1], k[2], k[3]);
    args.dout = {nullptr, q, args.dq.stride};
    BackwardPlan made;
    const Status status = plan_backward(machine(1), args, &made);
    EXPECT_EQ(status.code(), Code::unsupported) << status.message();
    EXPECT_EQ(status.message(), "forward.q.shape makes " + count + " tasks; expected at most 67108864");
  };
  refused(problem(2, kLongest, kLongest, 1, 1, 1), "4294967294");   // a task for each head
  refused(problem(power(10), 1, 1, kLongest, 0, 8), "3817749504");  // one for each block of queries
}

// Each of these tasks costs about 2^50, all of them 2^64. The plan must still be balanced.
TEST(ExtremeShapes, CostsThatAddUpBeyondInt64StayBalanced) {
  AttentionArgs args = problem(1, 1, 1, 1 << 22, kLongest, 576);
  args.pipeline = Pipeline::online;
  Plan prepared;
  const Status status = plan(machine(4), args, &prepared);
  ASSERT_TRUE(status.ok()) << status.message();
  const std::string text = prepared.explain();
  const auto at = text.find("predicted imbalance: ");
  ASSERT_NE(at, std::string::npos) << text;
  double imbalance = -1.0;
  ASSERT_EQ(std::sscanf(text.c_str() + at, "predicted imbalance: %lf", &imbalance), 1) << text;
  EXPECT_GE(imbalance, 0.0) << text;
  EXPECT_LT(imbalance, 5.0) << text;
}

// For 4096 seats the plan aims at 32768 tasks: 300000 rows, cut along 2^31 keys, would need 2^51 bytes of
// split states.
TEST(ExtremeShapes, SplitStatesBeyondTheAddressSpaceAreOutOfMemory) {
  AttentionArgs args = problem(1, 1, 1, 300000, kLongest, 576);
  args.pipeline = Pipeline::online;
  const Status status = plan_only(args, machine(4096));
  EXPECT_EQ(status.code(), Code::out_of_memory) << status.message();
  EXPECT_NE(status.message().find("split states"), std::string::npos) << status.message();
}

// The states of 2^31 rows and 2^22 splits are 2^62 floats.
TEST(ExtremeShapes, MergesBeyondTheAddressSpaceAreRefusedAtOnce) {
  alignas(64) static float memory[1024];
  const float* const states[] = {memory};
  const auto merge = [&](std::int64_t batch, std::int64_t heads, std::int64_t rows, std::int64_t keys) {
    AttentionArgs args = problem(batch, heads, heads, rows, keys, 576);
    args.q.data = args.k.data = args.v.data = memory;
    args.out.data = memory + 640;
    args.q.stride = {0, 0, 0, 1};
    return merge_split_states(machine(1), args, states);
  };
  EXPECT_EQ(merge(1, 1, kLongest, kLongest).code(), Code::out_of_memory);
  EXPECT_EQ(merge(1, power(10), power(20), kLongest).code(), Code::out_of_memory);
  EXPECT_EQ(merge(power(14), power(13), 1, 1).code(), Code::unsupported);
}

// The offsets of the mask add a window of 2^63 - 1 and lengths of 2^31 - 1.
TEST(ExtremeShapes, OffsetsOfTheMaskDoNotWrap) {
  for (const std::int64_t window : {power(31), power(40), power(62), kMax}) {
    AttentionArgs args = problem(1, 1, 1, 64, kLongest, 8);
    args.window_left = args.window_right = window;
    const Status status = plan_only(args, machine(1));
    EXPECT_TRUE(status.ok()) << status.message();
    args.is_causal = true;
    args.causal_alignment = CausalAlignment::top_left;
    EXPECT_TRUE(plan_only(args, machine(1)).ok());
  }
}

// The stride of a dimension of size 1 may be any number; nothing may be computed from it.
TEST(ExtremeShapes, StridesThatReachNothingDoNotMatter) {
  const Context context = machine(4);
  for (const std::int64_t kv_len : {0, 1}) {
    for (const std::int64_t stride : {power(61), power(62), kMax}) {
      Case c;
      c.batch = kv_len == 0 ? 3 : 1;
      c.kv_len = kv_len;
      const Problem problem(c);
      const Outcome want = problem.run(context);
      AttentionArgs args = problem.args();
      args.k.stride = args.v.stride = {stride, stride, stride, 1};
      if (c.batch == 1) args.q.stride = args.out.stride = {stride, stride, stride, 1};
      problem.poison_outputs();
      const Status status = attention_forward(context, args);
      ASSERT_TRUE(status.ok()) << status.message();
      EXPECT_TRUE(same_bits(problem.outcome(), want));
    }
  }
  Case c;
  c.batch = 4;
  const Problem problem(c);
  const Outcome want = problem.run(context);
  Plan prepared;
  ASSERT_TRUE(plan(context, problem.args(), &prepared).ok());
  AttentionArgs args = problem.args();
  args.lse.data = nullptr;  // not computed, so its strides do not matter
  args.lse.stride = {kMax, kMax, kMax};
  problem.poison_outputs();
  ASSERT_TRUE(prepared.run(args).ok());
  EXPECT_TRUE(same_bits({problem.out.elements(), want.lse}, want));

  args.q.shape[1] = args.out.shape[1] = 0;  // no heads, no slopes
  args.lse.stride = {0, 0, 0};
  args.alibi_batch_stride = kMax;
  const Status status = attention_forward(context, args);
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST(ExtremeShapes, AnAddressFromWhichATensorWouldWrapIsRefused) {
  const Context context = machine(1);
  Case c;
  c.batch = 2;
  const Problem problem(c);
  for (const auto field : {&AttentionArgs::q, &AttentionArgs::k, &AttentionArgs::v}) {
    AttentionArgs args = problem.args();
    (args.*field).stride[0] = power(60);
    (args.*field).data = reinterpret_cast<const void*>(~std::uintptr_t{0} - 63);
    problem.poison_outputs();
    const Status status = attention_forward(context, args);
    EXPECT_EQ(status.code(), Code::invalid_argument) << status.message();
    EXPECT_NE(status.message().find(".data"), std::string::npos) << status.message();
    EXPECT_TRUE(problem.outputs_untouched());
  }
}

// The helpers that make contiguous views must not wrap to shapes that are then accepted.
TEST(ExtremeShapes, ContiguousViewsOfAbsurdShapesAreRefused) {
  for (const int bits : {21, 30, 31}) {
    const std::int64_t size = bits == 31 ? kLongest : power(bits);
    AttentionArgs args = problem(size, size, size, size, size, 64);
    args.k = args.v = ConstTensor::bshd(nullptr, size, size, size, 64);
    expect_refused(args, Code::invalid_argument, "q.shape");
  }
}

}  // namespace
}  // namespace kumiko::test
