// SPDX-License-Identifier: Apache-2.0
// Every row of attention_fields.inc: a plan refuses a run that differs in a field the plan keeps, and gives
// the same bits whatever the other fields are.
#include "runtime/attention_fields.h"

#include <gtest/gtest.h>

#include <cctype>
#include <functional>
#include <limits>
#include <utility>

#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/bits.h"

namespace kumiko::test {
namespace {

// Changes one field; false if it already had that value.
using Change = std::function<bool(AttentionArgs&)>;

// Memory for pointers that were null; not valid as lengths or domains.
float other_floats[256];
const std::int32_t other_numbers[8] = {77, -5, 77, -5, 77, -5, 77, -5};

template <class Pointer>
std::vector<Change> changes_of(View<Pointer> AttentionArgs::*field) {
  std::vector<Change> all;
  for (const int type : {0, 1, 2, 3, 4, 5, 255}) {
    all.push_back([=](AttentionArgs& a) {
      const auto before = std::exchange((a.*field).dtype, static_cast<DataType>(type));
      return (a.*field).dtype != before;
    });
  }
  for (std::size_t i = 0; i < 4; ++i) {
    for (const int step : {-1, 1}) {
      all.push_back([=](AttentionArgs& a) { return (a.*field).shape[i] += step, true; });
      all.push_back([=](AttentionArgs& a) { return (a.*field).stride[i] += step, true; });
    }
  }
  all.push_back([=](AttentionArgs& a) {
    const auto before = std::exchange(a.*field, {});
    return before.shape != (a.*field).shape;
  });
  all.push_back([=](AttentionArgs& a) { return a.*field = {other_floats, {}, {}}, true; });
  return all;
}
std::vector<Change> changes_of(LseView AttentionArgs::*field) {
  return {
      [=](AttentionArgs& a) { return a.*field = {}, true; },
      [=](AttentionArgs& a) {
        return a.*field = {nullptr, {-1, -1, -1}}, true;
      },
      [=](AttentionArgs& a) {
        return a.*field = {other_floats, {}}, true;
      },
      [=](AttentionArgs& a) {
        return a.*field = {other_floats, {50, 7, 2}}, true;
      },
  };
}
std::vector<Change> changes_of(ScaleView AttentionArgs::*field) {
  return {[=](AttentionArgs& a) { return a.*field = {nullptr, {-1, 7, 2}}, true; }};
}
template <Scalar T>
std::vector<Change> changes_of(T AttentionArgs::*field) {
  std::vector<T> values;
  if constexpr (std::is_same_v<T, bool>)
    values = {false, true};
  else if constexpr (std::is_enum_v<T>)
    for (const int number : {0, 1, 2, 3, 4, 5, 6, 77}) values.push_back(static_cast<T>(number));
  else if constexpr (std::is_floating_point_v<T>)
    values = {T(-1), T(0.5), T(0), std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity()};
  else
    values = {T(-1), T(0), T(1), T(4), std::numeric_limits<T>::max()};
  std::vector<Change> all;
  all.reserve(values.size());
  for (const T value : values)
    all.push_back([=](AttentionArgs& a) { return std::exchange(a.*field, value) != value; });
  return all;
}
std::vector<Change> changes_of(const float* AttentionArgs::*field) {
  return {[=](AttentionArgs& a) { return a.*field = a.*field ? nullptr : other_floats, true; }};
}
std::vector<Change> changes_of(const std::int32_t* AttentionArgs::*field) {
  return {[=](AttentionArgs& a) { return a.*field = other_numbers, true; },
          [=](AttentionArgs& a) { return std::exchange(a.*field, nullptr) != nullptr; }};
}

std::vector<Change> changes_of(const std::uint8_t* AttentionArgs::*field) {
  static const std::uint8_t other_flags[] = {1, 1, 0, 0};
  return {[=](AttentionArgs& a) { return a.*field = other_flags, true; },
          [=](AttentionArgs& a) { return std::exchange(a.*field, nullptr) != nullptr; }};
}

enum class Kept { fixed, presence, copied, free };

/// Of a pointer whose presence alone is kept, another address is no change.
template <class Field>
std::vector<Change> changes_of(Field field, Kept kept) {
  std::vector<Change> all = changes_of(field);
  if constexpr (requires(AttentionArgs a) { *(a.*field); }) {
    if (kept == Kept::presence && all.size() > 1)
      all[0] = [=, change = all[0]](AttentionArgs& a) { return !(a.*field) && change(a); };
  }
  return all;
}
struct Row {
  std::string name;
  Kept kept;
  std::vector<Change> changes;
};
std::vector<Row> rows() {
  return {
#define KUMIKO_ATTENTION_FIELD(name, plan) {#name, Kept::plan, changes_of(&AttentionArgs::name, Kept::plan)},
#include "runtime/attention_fields.inc"
#undef KUMIKO_ATTENTION_FIELD
  };
}

Case plain() {
  Case c;
  c.batch = 2;
  c.q_heads = 4;
  c.kv_heads = 2;
  c.q_len = 3;
  c.kv_len = 5;
  c.head_dim = 8;
  c.v_head_dim = 6;
  return c;
}
// Every field except the pipeline differs from its default.
Case full() {
  Case c = plain();
  c.lse = c.row_max = GuardedLse::Layout::padded;
  c.scale = 0.25f;
  c.is_causal = true;
  c.alignment = CausalAlignment::top_left;
  c.window_left = 2;
  c.window_right = 3;
  c.seqused = {5, 4};
  c.softcap = 2.0f;
  c.bias = TermLayout::padded;
  c.mask = TermLayout::heads;
  c.alibi = 2;
  c.window_sink_tokens = 2;
  c.causal_sequences = {1, 0}, c.prefix_lens = {2, 1};
  c.sinks = true, c.lse_with_sink = false, c.lse_base = LseBase::two;
  c.lists = {true, 2, 3, true};
  return c;
}
const std::int32_t kDomains[] = {1, 1, 1, 0};

Context two_domains() {
  ContextOptions options;
  options.executor = "serial";
  options.topology = "numa:2 core:1 pu:1";
  return context_of(options);
}

// "q.shape[1] (heads) is 3; ..." is about q.
bool is_about(const std::string& message, const std::string& name) {
  if (!message.starts_with(name) || message.size() == name.size()) return false;
  const auto next = static_cast<unsigned char>(message[name.size()]);
  return std::isalnum(next) == 0 && next != '_';
}

void expect_each_change_is_seen_or_counts_for_nothing(const Problem& problem, const AttentionArgs& planned) {
  const Context context = two_domains();
  Plan plan;
  const Status status = kumiko::plan(context, planned, &plan);
  ASSERT_TRUE(status.ok()) << status.message();
  problem.poison_outputs();
  ASSERT_TRUE(plan.run(planned).ok());
  const Outcome want = problem.outcome();
  for (const Row& row : rows()) {
    int changed = 0;
    for (std::size_t n = 0; n < row.changes.size(); ++n) {
      SCOPED_TRACE(row.name + ", change " + std::to_string(n));
      AttentionArgs args = planned;
      if (!row.changes[n](args)) continue;
      ++changed;
      problem.poison_outputs();
      const Status ran = plan.run(args);
      if (row.kept == Kept::free) {
        EXPECT_TRUE(ran.ok()) << ran.message();
        EXPECT_TRUE(same_bits(problem.out.elements(), want.out));
        EXPECT_TRUE(problem.borders_intact());
      } else {
        EXPECT_EQ(ran.code(), Code::invalid_argument);
        EXPECT_TRUE(is_about(ran.message(), row.name)) << ran.message();
        EXPECT_NE(ran.message().find("; expected "), std::string::npos) << ran.message();
        EXPECT_TRUE(problem.outputs_untouched());
      }
    }
    EXPECT_GT(changed, 0) << row.name;
  }
}

TEST(AttentionFields, OfAPlanWithoutTerms) {
  const Problem problem(plain());
  expect_each_change_is_seen_or_counts_for_nothing(problem, problem.args());
}

TEST(AttentionFields, OfAPlanWithAllTerms) {
  const Problem problem(full());
  AttentionArgs args = problem.args();
  args.kv_domains = kDomains;
  expect_each_change_is_seen_or_counts_for_nothing(problem, args);
}

TEST(AttentionFields, AFreeFieldIsCheckedAllTheSame) {
  const Problem problem(full());
  Plan plan;
  ASSERT_TRUE(kumiko::plan(two_domains(), problem.args(), &plan).ok());
  problem.poison_outputs();
  AttentionArgs args = problem.args();
  args.lse.stride = {12, -3, 1};
  EXPECT_EQ(plan.run(args).message(), "lse.stride[1] (heads) is -3; expected 0 or more");
  args.lse.stride = {12, 1, 1};
  const Status overlapping = plan.run(args);
  EXPECT_EQ(overlapping.code(), Code::invalid_argument);
  EXPECT_TRUE(is_about(overlapping.message(), "lse")) << overlapping.message();
  EXPECT_TRUE(problem.outputs_untouched());
}

TEST(AttentionFields, EnumeratorsAreNamed) {
  const Problem problem(full());
  Plan plan;
  ASSERT_TRUE(kumiko::plan(two_domains(), problem.args(Pipeline::online), &plan).ok());
  const auto message = [&](Pipeline pipeline, CausalAlignment alignment) {
    AttentionArgs args = problem.args(pipeline);
    args.causal_alignment = alignment;
    return plan.run(args).message();
  };
  EXPECT_EQ(message(Pipeline::automatic, CausalAlignment::top_left),
            "pipeline is automatic (0); expected the planned online (1)");
  EXPECT_EQ(message(static_cast<Pipeline>(77), CausalAlignment::top_left),
            "pipeline is 77; expected the planned online (1)");
  EXPECT_EQ(message(Pipeline::online, CausalAlignment::bottom_right),
            "causal_alignment is bottom_right (0); expected the planned top_left (1)");
  EXPECT_EQ(message(Pipeline::online, static_cast<CausalAlignment>(9)),
            "causal_alignment is 9; expected the planned top_left (1)");
}

template <class Pointer>
void expect_without_pointer(const View<Pointer>& kept, const View<Pointer>& given) {
  EXPECT_NE(given.data, nullptr);
  EXPECT_EQ(kept.data, nullptr);
  EXPECT_EQ(kept.shape, given.shape);
  EXPECT_EQ(kept.stride, given.stride);
  EXPECT_EQ(kept.dtype, given.dtype);
}
void expect_without_pointer(const LseView& kept, const LseView& given) {
  EXPECT_NE(given.data, nullptr);
  EXPECT_EQ(kept.data, nullptr);
  EXPECT_EQ(kept.stride, given.stride);
}
void expect_without_pointer(const ScaleView& kept, const ScaleView& given) {
  EXPECT_NE(given.data, nullptr);
  EXPECT_EQ(kept.data, nullptr);
  EXPECT_EQ(kept.stride, given.stride);
}
template <class T>
void expect_without_pointer(T* const& kept, T* const& given) {
  EXPECT_NE(given, nullptr);
  EXPECT_EQ(kept, nullptr);
}
template <Scalar T>
void expect_without_pointer(T kept, T given) {
  EXPECT_EQ(kept, given);
}

TEST(AttentionFields, WithoutPointersAllElseIsKept) {
  const Problem problem(full());
  AttentionArgs args = problem.args(Pipeline::decode);
  args.kv_domains = args.cu_seqlens_q = args.cu_seqlens_k = args.block_table = args.kv_indptr = kDomains;
  args.q_scale = {other_floats, {3, 2, 1}}, args.k_scale = {other_floats + 1, {5, 0, 1}};
  const AttentionArgs kept = without_pointers(args);
#define KUMIKO_ATTENTION_FIELD(name, plan)        \
  {                                               \
    SCOPED_TRACE(#name);                          \
    expect_without_pointer(kept.name, args.name); \
  }
#include "runtime/attention_fields.inc"
#undef KUMIKO_ATTENTION_FIELD
}

}  // namespace
}  // namespace kumiko::test
