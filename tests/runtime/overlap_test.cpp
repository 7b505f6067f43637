// SPDX-License-Identifier: Apache-2.0
// Every pair of an output and another tensor that share memory, for every call. Refused by name with nothing
// written, or accepted if they share no element.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"

namespace kumiko::test {
namespace {

using Bytes = std::vector<unsigned char>;

/// One tensor of a call, dense.
struct Placed {
  std::string name;
  std::int64_t bytes;
  bool is_output;
  std::function<void(void*)> place;
};

/// A call on tensors in one block of memory, at first far apart.
struct Shared {
  static constexpr std::size_t kApart = 4096;
  std::vector<Placed> tensors;
  std::function<Status()> call;
  /// Whether both may be the same view.
  std::function<bool(const Placed& x, const Placed& y)> in_place = [](auto&, auto&) { return false; };
  Bytes memory;

  unsigned char* home(std::size_t i) { return memory.data() + (2 * i + 1) * kApart; }
  void place_all() {
    for (std::size_t i = 0; i < tensors.size(); ++i) tensors[i].place(home(i));
  }
  void start() {
    memory.assign((2 * tensors.size() + 1) * kApart, 0);
    for (std::size_t i = 0; i + 4 <= memory.size(); i += 4) {
      const float number = static_cast<float>(i % 101) * 0.01f;
      std::memcpy(memory.data() + i, &number, 4);
    }
    place_all();
  }

  void expect_every_pair_told_apart() {
    start();
    ASSERT_TRUE(call().ok()) << call().message();
    for (std::size_t x = 0; x < tensors.size(); ++x) {
      for (std::size_t y = 0; y < tensors.size(); ++y) {
        if (x != y && tensors[x].is_output) expect_told_apart(x, y);
      }
    }
  }

 private:
  void expect_told_apart(std::size_t x, std::size_t y) {
    const Placed &output = tensors[x], &other = tensors[y];
    // Offset from the other's start to the output's start.
    const struct {
      const char* what;
      std::int64_t offset;
      bool is_apart;
    } ways[] = {{"same start", 0, in_place(output, other)},
                {"starts with the other's last element", other.bytes - 4, false},
                {"ends with the other's first element", 4 - output.bytes, false},
                {"starts where the other ends", other.bytes, true},
                {"ends where the other starts", -output.bytes, true}};
    for (const auto& way : ways) {
      SCOPED_TRACE(output.name + " and " + other.name + ": " + way.what);
      start();
      output.place(home(y) + way.offset);
      const Bytes before = memory;
      const Status status = call();
      EXPECT_EQ(status.code(), way.is_apart ? Code::ok : Code::invalid_argument) << status.message();
      if (way.is_apart) continue;
      EXPECT_EQ(memory, before);
      const auto says = [&](const std::string& text) {
        return status.message().find(text) != std::string::npos;
      };
      EXPECT_TRUE(says(output.name + ".data is ") ? says(other.name) : says(other.name + ".data is "))
          << status.message();
    }
  }
};

/// [2, 4, 3, last], dense.
template <class View>
std::function<void(void*)> placer(View* view, std::int64_t heads, std::int64_t rows, std::int64_t last,
                                  DataType type = DataType::f32) {
  return [=](void* at) { *view = View::bhsd(at, 2, heads, rows, last, type); };
}

std::function<void(void*)> placer(LseView* lse) {
  return [=](void* at) { *lse = {static_cast<float*>(at), {}}; };
}

constexpr std::int64_t kRows = 2 * 4 * 3, kKeys = 2 * 2 * 5;

TEST(Overlap, AttentionTellsEveryPairApart) {
  static const Context context = context_of(ContextOptions{});
  AttentionArgs a;
  a.alibi_batch_stride = 4;
  Shared shared;
  shared.tensors = {
      {"q", kRows * 8 * 4, false, placer(&a.q, 4, 3, 8)},
      {"k", kKeys * 8 * 4, false, placer(&a.k, 2, 5, 8)},
      {"v", kKeys * 6 * 4, false, placer(&a.v, 2, 5, 6)},
      {"bias", kRows * 5 * 4, false, placer(&a.bias, 4, 3, 5)},
      {"mask", kRows * 5, false, placer(&a.mask, 4, 3, 5, DataType::boolean)},
      {"alibi_slopes", 8 * 4, false, [&](void* at) { a.alibi_slopes = static_cast<float*>(at); }},
      {"out", kRows * 6 * 4, true, placer(&a.out, 4, 3, 6)},
      {"lse", kRows * 4, true, placer(&a.lse)},
      {"row_max", kRows * 4, true, placer(&a.row_max)}};
  shared.call = [&] { return attention_forward(context, a); };
  shared.expect_every_pair_told_apart();
  Plan plan;
  ASSERT_TRUE(kumiko::plan(context, a, &plan).ok());
  shared.call = [&] { return plan.run(a); };
  shared.expect_every_pair_told_apart();
}

TEST(Overlap, SoftmaxPvTellsEveryPairApart) {
  static const Context context = context_of(ContextOptions{});
  SoftmaxPvArgs a;
  Shared shared;
  shared.tensors = {{"scores", kRows * 5 * 4, false, placer(&a.scores, 4, 3, 5)},
                    {"v", kKeys * 6 * 4, false, placer(&a.v, 2, 5, 6)},
                    {"out", kRows * 6 * 4, true, placer(&a.out, 4, 3, 6)},
                    {"lse", kRows * 4, true, placer(&a.lse)}};
  shared.call = [&] { return softmax_pv(context, a); };
  shared.expect_every_pair_told_apart();
}

TEST(Overlap, FusedGemmTellsEveryPairApart) {
  static const Context context = context_of(ContextOptions{});
  FusedGemmArgs a;
  Shared shared;
  shared.tensors = {{"q", kRows * 8 * 4, false, placer(&a.q, 4, 3, 8)},
                    {"k", kKeys * 8 * 4, false, placer(&a.k, 2, 5, 8)},
                    {"v", kKeys * 6 * 4, false, placer(&a.v, 2, 5, 6)},
                    {"out", kRows * 6 * 4, true, placer(&a.out, 4, 3, 6)}};
  shared.call = [&] { return fused_gemm(context, a); };
  shared.expect_every_pair_told_apart();
}

struct MergeCall {
  AttentionState states[3];
  Tensor out;
  LseView lse;
  Shared shared;
  explicit MergeCall(DataType type = DataType::f32) {
    static const Context context = context_of(ContextOptions{});
    const std::int64_t bytes = kRows * 6 * (type == DataType::f32 ? 4 : 2);
    for (std::size_t n = 0; n < 3; ++n) {
      const std::string name = "states[" + std::to_string(n) + "].";
      shared.tensors.push_back({name + "out", bytes, false, placer(&states[n].out, 4, 3, 6, type)});
      shared.tensors.push_back(
          {name + "lse", kRows * 4, false, [this, n](void* at) { states[n].lse = static_cast<float*>(at); }});
    }
    shared.tensors.push_back({"out", kRows * 6 * 4, true, placer(&out, 4, 3, 6)});
    shared.tensors.push_back({"lse", kRows * 4, true, placer(&lse)});
    shared.call = [this] { return merge_states(context, states, out, lse); };
  }
};

TEST(Overlap, MergeStatesTellsEveryPairApartButTheSameView) {
  MergeCall f32;
  f32.shared.in_place = [](const Placed& x, const Placed& y) { return y.name.ends_with("]." + x.name); };
  f32.shared.expect_every_pair_told_apart();
  // A view of another type is not the same view.
  MergeCall bf16(DataType::bf16);
  bf16.shared.in_place = [](const Placed& x, const Placed& y) {
    return x.name == "lse" && y.name.ends_with("].lse");
  };
  bf16.shared.expect_every_pair_told_apart();
}

// Strided views may lie in each other's gaps, so they are refused only if their starts are equal.
TEST(Overlap, EqualStartsWithOtherStridesAreRefusedAndGapsAreNot) {
  const auto refused = [](const Status& status, const std::string& first, const std::string& second) {
    EXPECT_EQ(status.code(), Code::invalid_argument);
    EXPECT_NE(status.message().find(first + ".data is "), std::string::npos) << status.message();
    EXPECT_NE(status.message().find(second), std::string::npos) << status.message();
  };
  MergeCall m;
  for (std::size_t n = 0; n < 3; ++n) {
    const std::string state = "states[" + std::to_string(n) + "]";
    m.shared.start();
    m.out.data = const_cast<void*>(m.states[n].out.data);
    m.out.stride = {144, 36, 12, 1};
    refused(m.shared.call(), "out", state + ".out");
    m.shared.start();
    m.lse.data = const_cast<float*>(m.states[n].lse);
    m.lse.stride = {24, 6, 2};
    refused(m.shared.call(), "lse", state + ".lse");
    // Rows of 6 in the gaps between rows of 6, LSEs in the gaps between LSEs.
    m.shared.start();
    m.out.stride = m.states[n].out.stride = {144, 36, 12, 1};
    m.out.data = static_cast<float*>(const_cast<void*>(m.states[n].out.data)) + 6;
    m.lse.stride = m.states[n].lse_stride = {24, 6, 2};
    m.lse.data = const_cast<float*>(m.states[n].lse) + 1;
    EXPECT_TRUE(m.shared.call().ok()) << m.shared.call().message();
    m.states[n].lse_stride = {};
  }
  // A fused buffer: rows of q, out and k side by side.
  std::vector<float> fused(1000, 0.5f);
  AttentionArgs a;
  a.q = {fused.data(), {1, 1, 5, 8}, {0, 0, 24, 1}};
  a.out = {fused.data() + 8, {1, 1, 5, 8}, {0, 0, 24, 1}};
  a.k = a.v = {fused.data() + 16, {1, 1, 5, 8}, {0, 0, 24, 1}};
  const Context context = context_of(ContextOptions{});
  EXPECT_TRUE(attention_forward(context, a).ok());
  for (const auto& [name, view] : {std::pair{"q", &a.q}, {"k", &a.k}}) {
    a.out.data = const_cast<void*>(view->data);
    refused(attention_forward(context, a), "out", name);
  }
}

// Two elements of an output at the same address.
TEST(Overlap, OutputsThatOverlapThemselvesAreRefused) {
  const Context context = context_of(ContextOptions{});
  std::vector<float> in(1000, 0.5f), written(1000, 7.0f), sums(100, 7.0f);
  const auto refused = [&](const Status& status, const std::string& name) {
    EXPECT_EQ(status.code(), Code::invalid_argument);
    EXPECT_EQ(status.message().find(name + ".stride["), 0u) << status.message();
    EXPECT_NE(status.message().find("apart"), std::string::npos) << status.message();
    EXPECT_EQ(written, std::vector<float>(1000, 7.0f));
    EXPECT_EQ(sums, std::vector<float>(100, 7.0f));
  };
  const ConstTensor q = ConstTensor::bhsd(in.data(), 2, 4, 3, 6),
                    k = ConstTensor::bhsd(in.data(), 2, 2, 5, 6),
                    scores = ConstTensor::bhsd(in.data(), 2, 4, 3, 5);
  const Tensor good = Tensor::bhsd(written.data(), 2, 4, 3, 6);
  const AttentionState states[] = {{q, in.data()}, {q, in.data()}};
  for (const std::array<std::int64_t, 4> stride : {std::array<std::int64_t, 4>{72, 18, 5, 1},
                                                   {72, 17, 6, 1},
                                                   {71, 18, 6, 1},
                                                   {0, 18, 6, 1},
                                                   {72, 0, 6, 1},
                                                   {72, 18, 0, 1},
                                                   {18, 18, 6, 1}}) {
    Tensor out = good;
    out.stride = stride;
    refused(attention_forward(context, {.q = q, .k = k, .v = k, .out = out}), "out");
    refused(softmax_pv(context, {.scores = scores, .v = k, .out = out}), "out");
    refused(fused_gemm(context, {.q = q, .k = k, .v = k, .out = out}), "out");
    refused(merge_states(context, states, out), "out");
  }
  for (const std::array<std::int64_t, 3> stride :
       {std::array<std::int64_t, 3>{12, 3, 0}, {12, 2, 1}, {11, 3, 1}, {0, 3, 1}, {12, 0, 1}, {3, 3, 1}}) {
    const LseView lse{sums.data(), stride};
    refused(attention_forward(context, {.q = q, .k = k, .v = k, .out = good, .lse = lse}), "lse");
    refused(softmax_pv(context, {.scores = scores, .v = k, .out = good, .lse = lse}), "lse");
    refused(merge_states(context, states, good, lse), "lse");
  }
}

}  // namespace
}  // namespace kumiko::test
