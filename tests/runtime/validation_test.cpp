// SPDX-License-Identifier: Apache-2.0
// Every kind of bad argument: an error that names the argument, its value and what was expected, and nothing
// written.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <regex>

#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/bits.h"

namespace kumiko::test {
namespace {

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kMin = std::numeric_limits<std::int64_t>::min();

// batch 2, heads 4/2, q_len 3, kv_len 5, dims 8/6, lse contiguous, seqused given.
Case base() {
  Case c;
  c.batch = 2;
  c.q_heads = 4;
  c.kv_heads = 2;
  c.q_len = 3;
  c.kv_len = 5;
  c.head_dim = 8;
  c.v_head_dim = 6;
  c.seqused = {5, 4};
  return c;
}

struct Fault {
  std::string title;                           ///< gtest name
  std::string argument;                        ///< the message must contain it as a word
  std::string value;                           ///< and this
  std::function<void(AttentionArgs&)> commit;  ///< makes the argument bad
};

void PrintTo(const Fault& fault, std::ostream* os) {
  *os << fault.title;
}

std::int32_t too_long[] = {5, 6};
std::int32_t negative[] = {-1, 5};
std::uint8_t too_causal[] = {1, 2};
std::int32_t lowest[] = {5, std::numeric_limits<std::int32_t>::min()};

// A tensor of scores whose memory is never read, because the fault is found first.
ConstTensor scores(const AttentionArgs& a, DataType type) {
  static const std::vector<float> memory(4096);
  return ConstTensor::bhsd(memory.data(), a.q.shape[0], a.q.shape[1], a.q.shape[2], a.k.shape[2], type);
}

std::vector<Fault> faults() {
  std::vector<Fault> list = {
      {"HeadDimZero", "q", "0", [](AttentionArgs& a) { a.q.shape[3] = a.k.shape[3] = 0; }},
      {"HeadDim577", "q", "577", [](AttentionArgs& a) { a.q.shape[3] = a.k.shape[3] = 577; }},
      {"HeadDimNegative", "q", "-8", [](AttentionArgs& a) { a.q.shape[3] = -8; }},
      {"VHeadDimZero", "v", "0", [](AttentionArgs& a) { a.v.shape[3] = a.out.shape[3] = 0; }},
      {"VHeadDim577", "v", "577", [](AttentionArgs& a) { a.v.shape[3] = a.out.shape[3] = 577; }},
      {"KeyHeadDim", "k", "7", [](AttentionArgs& a) { a.k.shape[3] = 7; }},
      {"KeyBatch", "k", "3", [](AttentionArgs& a) { a.k.shape[0] = 3; }},
      {"ValueBatch", "v", "1", [](AttentionArgs& a) { a.v.shape[0] = 1; }},
      {"ValueHeads", "v", "4", [](AttentionArgs& a) { a.v.shape[1] = 4; }},
      {"ValueLength", "v", "6", [](AttentionArgs& a) { a.v.shape[2] = 6; }},
      {"OutBatch", "out", "1", [](AttentionArgs& a) { a.out.shape[0] = 1; }},
      {"OutHeads", "out", "2", [](AttentionArgs& a) { a.out.shape[1] = 2; }},
      {"OutLength", "out", "4", [](AttentionArgs& a) { a.out.shape[2] = 4; }},
      {"OutHeadDim", "out", "8", [](AttentionArgs& a) { a.out.shape[3] = 8; }},
      {"HeadsNotDivisible", "k", "3", [](AttentionArgs& a) { a.k.shape[1] = a.v.shape[1] = 3; }},
      {"MoreKvHeadsThanQueryHeads", "k", "8", [](AttentionArgs& a) { a.k.shape[1] = a.v.shape[1] = 8; }},
      {"NoKvHeads", "k", "0", [](AttentionArgs& a) { a.k.shape[1] = a.v.shape[1] = 0; }},
      {"KeyTypeNotThatOfQ", "k", "bf16", [](AttentionArgs& a) { a.k.dtype = DataType::bf16; }},
      {"ValueTypeNotThatOfQ", "v", "f16", [](AttentionArgs& a) { a.v.dtype = DataType::f16; }},
      {"OutTypeNarrowerThanQ", "out", "bf16", [](AttentionArgs& a) { a.out.dtype = DataType::bf16; }},
      {"OutTypeNeitherThatOfQNorF32", "out", "f16",
       [](AttentionArgs& a) {
         a.q.dtype = a.k.dtype = a.v.dtype = DataType::bf16;
         a.out.dtype = DataType::f16;
       }},
      {"OddAddressOf16BitElements", "k", "0x",
       [](AttentionArgs& a) {
         a.q.dtype = a.k.dtype = a.v.dtype = DataType::bf16;
         a.k.data = static_cast<const char*>(a.k.data) + 1;
       }},
      {"SoftcapNan", "softcap", "nan", [](AttentionArgs& a) { a.softcap = NAN; }},
      {"SoftcapInf", "softcap", "inf", [](AttentionArgs& a) { a.softcap = INFINITY; }},
      {"SoftcapNegative", "softcap", "-2", [](AttentionArgs& a) { a.softcap = -2.0f; }},
      {"BiasOfBooleans", "bias", "3", [](AttentionArgs& a) { a.bias = scores(a, DataType::boolean); }},
      {"MaskOfFloats", "mask", "f32", [](AttentionArgs& a) { a.mask = scores(a, DataType::f32); }},
      {"BiasLength", "bias", "4",
       [](AttentionArgs& a) {
         a.bias = scores(a, DataType::f32);
         a.bias.shape[3] = 4;
       }},
      {"MaskHeads", "mask", "1",
       [](AttentionArgs& a) {
         a.mask = scores(a, DataType::boolean);
         a.mask.shape[1] = 1;
       }},
      {"MaskStrideNegative", "mask", "-1",
       [](AttentionArgs& a) {
         a.mask = scores(a, DataType::boolean);
         a.mask.stride[3] = -1;
       }},
      {"BiasStrideOverflows", "bias", "",
       [](AttentionArgs& a) {
         a.bias = scores(a, DataType::f32);
         a.bias.stride[2] = kMax / 2;
       }},
      {"BiasNull", "bias", "null",
       [](AttentionArgs& a) {
         a.bias = scores(a, DataType::f32);
         a.bias.data = nullptr;
       }},
      {"OutIsBias", "out", "bias",
       [](AttentionArgs& a) {
         a.bias = scores(a, DataType::f32);
         a.bias.data = a.out.data;
       }},
      {"AlibiStride", "alibi_batch_stride", "1", [](AttentionArgs& a) { a.alibi_batch_stride = 1; }},
      {"AlibiStrideNegative", "alibi_batch_stride", "-8",
       [](AttentionArgs& a) { a.alibi_batch_stride = -8; }},
      {"Precision", "precision", "4", [](AttentionArgs& a) { a.precision = static_cast<Precision>(4); }},
      {"LseBase", "lse_base", "2", [](AttentionArgs& a) { a.lse_base = static_cast<LseBase>(2); }},
      {"OddAddressOfSinks", "sinks", "0x",
       [](AttentionArgs& a) {
         a.sinks = reinterpret_cast<const float*>(static_cast<const char*>(a.q.data) + 2);
       }},
      {"OutIsSinks", "out", "sinks", [](AttentionArgs& a) { a.sinks = static_cast<float*>(a.out.data); }},
      {"CausalSequences", "causal_sequences", "2", [](AttentionArgs& a) { a.causal_sequences = too_causal; }},
      {"PrefixNegative", "prefix_lens", "-1", [](AttentionArgs& a) { a.prefix_lens = negative; }},
      {"WindowSinkTokens", "window_sink_tokens", "-1", [](AttentionArgs& a) { a.window_sink_tokens = -1; }},
      {"ScaleNan", "scale", "nan", [](AttentionArgs& a) { a.scale = NAN; }},
      {"ScaleInf", "scale", "inf", [](AttentionArgs& a) { a.scale = INFINITY; }},
      {"ScaleMinusInf", "scale", "-inf", [](AttentionArgs& a) { a.scale = -INFINITY; }},
      {"WindowLeft", "window_left", "-2", [](AttentionArgs& a) { a.window_left = -2; }},
      {"WindowRight", "window_right", std::to_string(kMin), [](AttentionArgs& a) { a.window_right = kMin; }},
      {"SequsedTooLong", "seqused_k", "6", [](AttentionArgs& a) { a.seqused_k = too_long; }},
      {"SequsedNegative", "seqused_k", "-1", [](AttentionArgs& a) { a.seqused_k = negative; }},
      {"SequsedLowest", "seqused_k", "-2147483648", [](AttentionArgs& a) { a.seqused_k = lowest; }},
      {"PipelineUnknown", "pipeline", "77", [](AttentionArgs& a) { a.pipeline = static_cast<Pipeline>(77); }},
      {"AlignmentUnknown", "causal_alignment", "9",
       [](AttentionArgs& a) { a.causal_alignment = static_cast<CausalAlignment>(9); }},
      {"LseStrideNegative", "lse", "-3",
       [](AttentionArgs& a) {
         a.lse.stride = {12, -3, 1};
       }},
      {"LseOverlapsItself", "lse", "1",
       [](AttentionArgs& a) {
         a.lse.stride = {12, 1, 1};
       }},
      {"OutOverlapsItselfByZeroStride", "out", "0", [](AttentionArgs& a) { a.out.stride[1] = 0; }},
      {"OutOverlapsItselfByShortRows", "out", "5", [](AttentionArgs& a) { a.out.stride[2] = 5; }},
      {"OutIsQ", "out", "q", [](AttentionArgs& a) { a.out.data = const_cast<void*>(a.q.data); }},
      {"OutIsK", "out", "k", [](AttentionArgs& a) { a.out.data = const_cast<void*>(a.k.data); }},
      {"OutIsV", "out", "v", [](AttentionArgs& a) { a.out.data = const_cast<void*>(a.v.data); }},
      {"OutOverlapsTheEndOfK", "out", "k",
       [](AttentionArgs& a) {
         a.out.data = const_cast<float*>(static_cast<const float*>(a.k.data)) + 2 * 2 * 5 * 8 - 1;
       }},
      {"LseIsQ", "lse", "q",
       [](AttentionArgs& a) { a.lse.data = const_cast<float*>(static_cast<const float*>(a.q.data)); }},
      {"LseIsOut", "lse", "out", [](AttentionArgs& a) { a.lse.data = static_cast<float*>(a.out.data); }},
      {"RowMaxStrideNegative", "row_max", "-3",
       [](AttentionArgs& a) {
         a.row_max.stride = {12, -3, 1};
       }},
      {"RowMaxOverlapsItself", "row_max", "1",
       [](AttentionArgs& a) {
         a.row_max.stride = {12, 1, 1};
       }},
      {"RowMaxIsLse", "row_max", "lse", [](AttentionArgs& a) { a.row_max.data = a.lse.data; }},
      {"OddAddressOfRowMax", "row_max", "aligned",
       [](AttentionArgs& a) {
         static float own[4096];  // Apart from all tensors, so that the address is all that is wrong.
         a.row_max.data = reinterpret_cast<float*>(reinterpret_cast<char*>(own) + 2);
       }},
  };
  // The same faults for each of the four views.
  const auto each = [&](const char* name, auto view) {
    const auto add = [&](const char* what, const std::string& value, auto commit) {
      list.push_back(
          {std::string(what) + name, name, value, [view, commit](AttentionArgs& a) { commit(a.*view); }});
    };
    add("Dtype", "7", [](auto& t) { t.dtype = static_cast<DataType>(7); });
    add("NullData", "null", [](auto& t) { t.data = nullptr; });
    add("UnalignedData", "0x", [](auto& t) {
      t.data = reinterpret_cast<decltype(t.data)>(reinterpret_cast<std::uintptr_t>(t.data) + 2);
    });
    add("LastStride", "2", [](auto& t) { t.stride[3] = 2; });
    add("LastStrideZero", "0", [](auto& t) { t.stride[3] = 0; });
    add("NegativeStride", "-8", [](auto& t) { t.stride[2] = -8; });
    add("LowestStride", std::to_string(kMin), [](auto& t) { t.stride[0] = kMin; });
    add("NegativeSize", "-1", [](auto& t) { t.shape[1] = -1; });
    add("LowestSize", std::to_string(kMin), [](auto& t) { t.shape[2] = kMin; });
    add("HugeSize", std::to_string(kMax), [](auto& t) { t.shape[2] = kMax; });
    add("OverflowingExtent", "", [](auto& t) { t.stride[0] = kMax; });
    add("OverflowingExtentInBytes", "", [](auto& t) { t.stride[0] = kMax / 4; });
  };
  each("q", &AttentionArgs::q);
  each("k", &AttentionArgs::k);
  each("v", &AttentionArgs::v);
  each("out", &AttentionArgs::out);
  return list;
}

struct Validation : ::testing::TestWithParam<Fault> {
  Context context = context_of(ContextOptions{});
  void expect_message(const Status& status) {
    const Fault& fault = GetParam();
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.code(), Code::invalid_argument);
    const std::string& message = status.message();
    EXPECT_TRUE(std::regex_search(message, std::regex("\\b" + fault.argument + "\\b")))
        << message << " does not name " << fault.argument;
    std::string lower = message;
    for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    EXPECT_NE(lower.find(fault.value), std::string::npos)
        << message << " does not give the value " << fault.value;
    EXPECT_NE(message.find("expected"), std::string::npos) << message;
    EXPECT_LT(message.size(), 200u) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
};

TEST_P(Validation, OneShotCallSaysWhatIsWrongAndWritesNothing) {
  const Problem problem(base());
  AttentionArgs args = problem.args();
  GetParam().commit(args);
  const auto q = problem.q.elements(), k = problem.k.elements(), v = problem.v.elements();
  expect_message(attention_forward(context, args));
  EXPECT_TRUE(problem.outputs_untouched());
  EXPECT_TRUE(same_bits(problem.q.elements(), q));
  EXPECT_TRUE(same_bits(problem.k.elements(), k));
  EXPECT_TRUE(same_bits(problem.v.elements(), v));
}

TEST_P(Validation, PlanOrItsRunSaysTheSame) {
  const Problem problem(base());
  AttentionArgs args = problem.args();
  GetParam().commit(args);
  Plan prepared;
  Status status = plan(context, args, &prepared);
  if (status.ok()) {  // pointers are no part of a plan
    ASSERT_TRUE(prepared);
    status = prepared.run(args);
  } else {
    EXPECT_FALSE(prepared) << "a failed plan() must leave its output alone";
  }
  expect_message(status);
  EXPECT_TRUE(problem.outputs_untouched());
}

INSTANTIATE_TEST_SUITE_P(Fault, Validation, ::testing::ValuesIn(faults()),
                         [](const auto& parameter) { return parameter.param.title; });

TEST(ValidationBase, TheUnspoiltArgumentsAreAccepted) {
  const Problem problem(base());
  const Outcome got = problem.run(context_of(ContextOptions{}));
  EXPECT_TRUE(meets_error_promise(got.out, got.lse, attention_fp64(problem.args()),
                                  attention_naive_f32(problem.args())));
}

TEST(ValidationBase, PointersAndTypesHaveTheNamesOfTheirFields) {
  const Problem problem(base());
  const auto begins = [&](const std::string& start, auto commit) {
    AttentionArgs args = problem.args();
    commit(args);
    const std::string message = attention_forward(context_of(ContextOptions{}), args).message();
    EXPECT_EQ(message.rfind(start, 0), 0u) << message;
  };
  static const float numbers[64] = {};
  const auto* const odd = reinterpret_cast<const float*>(reinterpret_cast<const char*>(numbers) + 1);
  begins("alibi_slopes is 0x", [&](auto& a) { a.alibi_slopes = odd; });
  begins("sinks is 0x", [&](auto& a) { a.sinks = odd; });
  begins("lse.data is 0x", [&](auto& a) { a.lse.data = const_cast<float*>(odd); });
  for (const auto& [type, name] : {std::pair{DataType::boolean, "boolean"}, std::pair{DataType::i32, "i32"},
                                   std::pair{static_cast<DataType>(9), "9"}}) {
    const std::string is = std::string(".dtype is ") + name + "; expected f32, bf16";
    begins("q" + is + ", f16 or i8", [&](auto& a) { a.q.dtype = type; });
    begins("k" + is + ", f16 or i8", [&](auto& a) { a.k.dtype = type; });
    begins("v" + is + " or f16", [&](auto& a) { a.v.dtype = type; });
    begins("out" + is + " or f16", [&](auto& a) { a.out.dtype = type; });
  }
  begins("mask.dtype is f32; expected boolean", [&](auto& a) { a.mask = a.q; });
  begins("bias.dtype is boolean; expected f32, bf16 or f16",
         [&](auto& a) { a.bias = a.q, a.bias.dtype = DataType::boolean; });
}

TEST(ValidationBase, ProductsOfSizesThatOverflowAreRefused) {
  // Each size is in range and zero strides keep the extent small; only the product is too large.
  Problem problem(base());
  AttentionArgs args = problem.args();
  for (auto* t : {&args.q, &args.k, &args.v})
    t->shape = {1 << 30, 1 << 30, 1 << 30, 8}, t->stride = {0, 0, 0, 1};
  args.out.shape = {1 << 30, 1 << 30, 1 << 30, 8};
  args.seqused_k = nullptr;
  const Status status = attention_forward(context_of(ContextOptions{}), args);
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_NE(status.message().find("q"), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("expected"), std::string::npos) << status.message();
  EXPECT_TRUE(problem.outputs_untouched());
}

TEST(ValidationBase, StridesOfDimensionsOfSizeOneOrOfEmptyTensorsDoNotMatter) {
  Case c;
  c.kv_len = 4;
  const Problem problem(c);
  AttentionArgs args = problem.args();
  for (auto* t : {&args.q, &args.k, &args.v}) t->stride[0] = t->stride[1] = kMax;
  args.out.stride[0] = 0;
  const Status status = attention_forward(context_of(ContextOptions{}), args);
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST(ValidationBase, EmptyBatchTakesItsLengthsToo) {
  Case c;
  c.batch = 0;
  const Problem problem(c);
  AttentionArgs args = problem.args();
  const std::int32_t none = 0;
  args.seqused_k = &none;  // an array of length 0 may have an address
  const Status status = attention_forward(context_of(ContextOptions{}), args);
  EXPECT_TRUE(status.ok()) << status.message();
}

}  // namespace
}  // namespace kumiko::test
