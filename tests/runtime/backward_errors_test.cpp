// SPDX-License-Identifier: Apache-2.0
// What attention_backward refuses: the error names the argument, and nothing is written.
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "tests/runtime/backward_case.h"
#include "tests/runtime/contexts.h"

namespace kumiko::test {
namespace {

struct BackwardErrors : ::testing::Test {
  Context context = context_of("reference", "serial");
  BackwardProblem problem{grouped_case(5, 6, 20, 12), context};
  BackwardArgs args = problem.args();

  void expect(Code code, const std::string& message) {
    expect_error(context, problem, args, code, message);
    args = problem.args();
  }
};

TEST_F(BackwardErrors, NameTheArgument) {
  args.forward.lse.data = nullptr;
  expect(Code::invalid_argument, "forward.lse.data is null");
  args.forward.q.shape[3] = 0;
  expect(Code::invalid_argument, "q.shape[3]");
  args.dout.shape[2] = 4;
  expect(Code::invalid_argument, "dout.shape[2]");
  args.dout.data = nullptr;
  expect(Code::invalid_argument, "dout.data is null");
  args.dq.shape[3] = 21;
  expect(Code::invalid_argument, "dq.shape[3]");
  args.dk.shape[1] = 1;
  expect(Code::invalid_argument, "dk.shape[1]");
  args.dv.dtype = DataType::boolean;
  expect(Code::invalid_argument, "dv.dtype");
  args.dv.stride[1] = 1;
  expect(Code::invalid_argument, "dv.stride");
  args.dk.data = nullptr;
  expect(Code::invalid_argument, "dk.data is null");
  args.dq.data = const_cast<void*>(args.forward.q.data);
  expect(Code::invalid_argument, "dq.data");
  args.dv.data = args.dk.data;
  expect(Code::invalid_argument, "memory apart from dk");
  args.dlse = {problem.forward.lse.view().data, {-1, 1, 1}};
  expect(Code::invalid_argument, "dlse.stride[0]");
  float dsinks = 0;
  args.dsinks = &dsinks;
  expect(Code::invalid_argument, "dsinks is given; expected null");
}

TEST_F(BackwardErrors, GradientsLieApartFromEveryInput) {
  const auto expect_apart = [&](const char* name, const void* data) {
    args.dq.data = const_cast<void*>(data);
    expect(Code::invalid_argument, std::string("memory apart from ") + name);
  };
  expect_apart("dout", args.dout.data);
  expect_apart("forward.k", args.forward.k.data);
  expect_apart("forward.v", args.forward.v.data);
  expect_apart("forward.out", args.forward.out.data);
  expect_apart("forward.lse", args.forward.lse.data);
  args.dlse.data = static_cast<float*>(args.dq.data);
  expect(Code::invalid_argument, "memory apart from dlse");
  args.delta.data = static_cast<float*>(args.dq.data);
  expect(Code::invalid_argument, "memory apart from delta");
  args.delta.data = reinterpret_cast<float*>(static_cast<char*>(args.dq.data) + 1);
  expect(Code::invalid_argument, "delta.data is ");
}

TEST_F(BackwardErrors, NameFieldsOfTheForwardCallWithIt) {
  const auto begins = [&](const std::string& start) {
    const std::string message = attention_backward(context, args).message();
    EXPECT_EQ(message.rfind(start, 0), 0u) << message;
    args = problem.args();
  };
  args.forward.q.shape[3] = 0;
  begins("forward.q.shape[3] (head_dim) is 0");
  args.forward.k.data = nullptr;
  begins("forward.k.data is null");
  const float sinks[8] = {}, *const odd =
                                 reinterpret_cast<const float*>(reinterpret_cast<const char*>(sinks) + 1);
  args.forward.sinks = odd;
  begins("forward.sinks is 0x");
  args.forward.sinks = sinks;
  args.dsinks = const_cast<float*>(odd);
  begins("dsinks is 0x");
  args.forward.window_sink_tokens = 3;
  begins("forward.window_sink_tokens is 3; expected 0");
}

TEST_F(BackwardErrors, SayWhatIsNotSupported) {
  args.forward.window_left = 2, args.forward.window_sink_tokens = 1;
  expect(Code::unsupported, "forward.window_sink_tokens");
  for (const Precision precision : {Precision::half, Precision::int8}) {
    args.forward.precision = precision;
    expect(Code::unsupported, "forward.precision");
  }
  const std::vector<std::uint8_t> tree(10, 255);
  args.forward.tree_mask = tree.data();
  expect(Code::unsupported, "forward.tree_mask");
  std::vector<float> maxima(40);
  args.forward.row_max.data = maxima.data();
  expect(Code::unsupported, "forward.row_max");
}

TEST_F(BackwardErrors, OfAnEmptyContext) {
  expect_error(Context(), problem, args, Code::invalid_argument, "context is empty");
  BackwardPlan plan;
  EXPECT_EQ(plan_backward(Context(), args, &plan).code(), Code::invalid_argument);
  EXPECT_FALSE(plan);
}

}  // namespace
}  // namespace kumiko::test
