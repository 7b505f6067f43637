// SPDX-License-Identifier: Apache-2.0
// Plans: run() accepts only the planned problem, on any pointers; explain() and workspace_bytes() are
// correct.
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <regex>

#include "runtime/traffic.h"
#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"

namespace kumiko::test {
namespace {

Case base() {
  Case c;
  c.batch = 2;
  c.q_heads = 4;
  c.kv_heads = 2;
  c.q_len = 20;
  c.kv_len = 50;
  c.head_dim = 16;
  c.v_head_dim = 12;
  c.seqused = {50, 30};
  return c;
}

TEST(PlanRun, SameProblemOnOtherPointers) {
  const Context context = context_of(ContextOptions{});
  const Problem planned(base());
  Case other = base();
  other.seed = 99;
  const Problem problem(other);
  const Outcome want = problem.run(context);
  AttentionArgs blank = planned.args();  // pointers may be null when planning
  blank.q.data = blank.k.data = blank.v.data = nullptr;
  blank.out.data = nullptr;
  blank.lse.data = nullptr;
  Plan prepared;
  const Status status = plan(context, blank, &prepared);
  ASSERT_TRUE(status.ok()) << status.message();
  problem.poison_outputs();
  const Status ran = prepared.run(problem.args());
  ASSERT_TRUE(ran.ok()) << ran.message();
  EXPECT_TRUE(problem.borders_intact());
  EXPECT_TRUE(same_bits(problem.outcome(), want));
}

TEST(PlanRun, LseMayBeWantedOrNotFromRunToRun) {
  const Context context = context_of(ContextOptions{});
  const Problem problem(base());
  Plan prepared;
  ASSERT_TRUE(plan(context, problem.args(), &prepared).ok());
  const Outcome want = problem.run(context);
  problem.poison_outputs();
  AttentionArgs args = problem.args();
  args.lse.data = nullptr;
  const Status ran = prepared.run(args);
  ASSERT_TRUE(ran.ok()) << ran.message();
  EXPECT_TRUE(problem.lse.all_untouched());
  EXPECT_TRUE(same_bits({problem.out.elements(), want.lse}, want));
}

TEST(PlanRun, RowMaxMayBeWantedOrNotFromRunToRunInAnyOrder) {
  const Context context = context_of(ContextOptions{});
  Case c = base();
  c.row_max = GuardedLse::Layout::padded;
  const Problem problem(c), other(base());
  const Outcome want = problem.run(context), without = other.run(context);
  EXPECT_TRUE(same_bits({want.out, want.lse}, without));
  Plan prepared;
  ASSERT_TRUE(plan(context, other.args(), &prepared).ok());
  problem.poison_outputs();
  ASSERT_TRUE(prepared.run(problem.args()).ok());
  EXPECT_TRUE(problem.borders_intact());
  EXPECT_TRUE(same_bits(problem.outcome(), want));
  AttentionArgs args = problem.args();
  args.row_max.stride = {-1, 1, 1};
  const Status refused = prepared.run(args);
  EXPECT_NE(refused.message().find("row_max.stride[0]"), std::string::npos) << refused.message();
  args.row_max.data = nullptr;
  problem.poison_outputs();
  ASSERT_TRUE(prepared.run(args).ok());
  EXPECT_TRUE(problem.row_max.all_untouched());
}

TEST(PlanRun, LengthsAreCopiedWhenPlanned) {
  const Context context = context_of(ContextOptions{});
  const Problem problem(base());
  std::int32_t lengths[] = {50, 30};
  AttentionArgs args = problem.args();
  args.seqused_k = lengths;
  Plan prepared;
  ASSERT_TRUE(plan(context, args, &prepared).ok());
  lengths[1] = 31;
  problem.poison_outputs();
  const Status changed = prepared.run(args);
  EXPECT_EQ(changed.code(), Code::invalid_argument);
  EXPECT_NE(changed.message().find("seqused_k"), std::string::npos) << changed.message();
  EXPECT_NE(changed.message().find("31"), std::string::npos) << changed.message();
  EXPECT_NE(changed.message().find("30"), std::string::npos) << changed.message();
  EXPECT_TRUE(problem.outputs_untouched());
}

struct Change {
  const char* argument;
  std::function<void(AttentionArgs&)> commit;
};

TEST(PlanRun, AnythingButPointersMustBeAsPlanned) {
  static const std::int32_t shorter[] = {50, 29};
  static const float slopes[8] = {};
  const Change changes[] = {
      {"q", [](AttentionArgs& a) { a.q.shape[2] = a.out.shape[2] = 19; }},
      {"q", [](AttentionArgs& a) { a.q.stride[0] = 0; }},
      {"k", [](AttentionArgs& a) { a.k.shape[2] = a.v.shape[2] = 51; }},
      {"k", [](AttentionArgs& a) { a.k.stride[2] = 17; }},
      {"v", [](AttentionArgs& a) { a.v.stride[1] = 0; }},
      {"v", [](AttentionArgs& a) { a.v.shape[3] = a.out.shape[3] = 11; }},
      {"out", [](AttentionArgs& a) { a.out.stride[0] += 1; }},
      {"q", [](AttentionArgs& a) { a.q.dtype = static_cast<DataType>(3); }},
      {"k", [](AttentionArgs& a) { a.k.dtype = static_cast<DataType>(99); }},
      {"v", [](AttentionArgs& a) { a.v.dtype = DataType::f16; }},
      {"out", [](AttentionArgs& a) { a.out.dtype = DataType::bf16; }},
      {"softcap", [](AttentionArgs& a) { a.softcap = 2.0f; }},
      {"alibi_slopes", [](AttentionArgs& a) { a.alibi_slopes = slopes; }},
      {"alibi_batch_stride", [](AttentionArgs& a) { a.alibi_batch_stride = 4; }},
      {"scale", [](AttentionArgs& a) { a.scale = 0.5f; }},
      {"is_causal", [](AttentionArgs& a) { a.is_causal = true; }},
      {"causal_alignment", [](AttentionArgs& a) { a.causal_alignment = CausalAlignment::top_left; }},
      {"window_left", [](AttentionArgs& a) { a.window_left = 3; }},
      {"window_right", [](AttentionArgs& a) { a.window_right = 0; }},
      {"pipeline", [](AttentionArgs& a) { a.pipeline = Pipeline::decode; }},
      {"seqused_k", [](AttentionArgs& a) { a.seqused_k = nullptr; }},
      {"seqused_k", [](AttentionArgs& a) { a.seqused_k = shorter; }},
      // Planned as absent: a pointer without a shape is not absent and must be refused.
      {"bias", [](AttentionArgs& a) { a.bias.data = &shorter; }},
      {"mask", [](AttentionArgs& a) { a.mask.data = &shorter; }},
  };
  const Context context = context_of(ContextOptions{});
  const Problem problem(base());
  Plan prepared;
  ASSERT_TRUE(plan(context, problem.args(), &prepared).ok());
  for (const Change& change : changes) {
    AttentionArgs args = problem.args();
    change.commit(args);
    const Status status = prepared.run(args);
    EXPECT_EQ(status.code(), Code::invalid_argument) << change.argument;
    EXPECT_TRUE(std::regex_search(status.message(), std::regex(std::string("\\b") + change.argument + "\\b")))
        << status.message();
    EXPECT_NE(status.message().find("expected"), std::string::npos) << status.message();
    EXPECT_TRUE(problem.outputs_untouched()) << change.argument;
  }
}

TEST(PlanRun, EmptyPlansAndContextsAreErrors) {
  const Problem problem(base());
  const Status no_plan = Plan().run(problem.args());
  EXPECT_EQ(no_plan.code(), Code::invalid_argument);
  EXPECT_NE(no_plan.message().find("plan"), std::string::npos) << no_plan.message();
  Plan prepared;
  const Status no_context = plan(Context(), problem.args(), &prepared);
  EXPECT_EQ(no_context.code(), Code::invalid_argument);
  EXPECT_NE(no_context.message().find("context"), std::string::npos) << no_context.message();
  EXPECT_FALSE(prepared);
  EXPECT_EQ(attention_forward(Context(), problem.args()).code(), Code::invalid_argument);
  EXPECT_EQ(plan(context_of(ContextOptions{}), problem.args(), nullptr).code(), Code::invalid_argument);
  EXPECT_EQ(Context::create({}, nullptr).code(), Code::invalid_argument);
  EXPECT_TRUE(problem.outputs_untouched());
}

TEST(PlanRun, AFailedPlanLeavesAnEarlierOneInPlace) {
  const Context context = context_of(ContextOptions{});
  const Problem problem(base());
  Plan prepared;
  ASSERT_TRUE(plan(context, problem.args(), &prepared).ok());
  AttentionArgs bad = problem.args();
  bad.scale = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(plan(context, bad, &prepared).ok());
  EXPECT_TRUE(prepared.run(problem.args()).ok());
}

TEST(PlanExplain, SaysWhatWillRunWhere) {
  ContextOptions options;
  options.topology = "pack:1 l3:2 core:2 pu:1";
  const Context context = context_of(options);
  Case c = base();
  c.q_len = 300;
  c.kv_len = 300;
  c.seqused = {};
  const Problem problem(c);
  Plan prepared;
  ASSERT_TRUE(plan(context, problem.args(), &prepared).ok());
  const std::string text = prepared.explain();
  for (const char* word : {"pipeline", "online", "tasks", "domain 0", "domain 1", "imbalance", "workspace"})
    EXPECT_NE(text.find(word), std::string::npos) << "no \"" << word << "\" in:\n" << text;
  EXPECT_NE(text.find(context.isa()), std::string::npos) << text;
  EXPECT_NE(text.find(std::to_string(prepared.workspace_bytes())), std::string::npos) << text;
  EXPECT_GT(prepared.workspace_bytes(), 0);
  EXPECT_EQ(text.back(), '\n');
}

// "domain D: N tasks, reads L bytes of K and V locally, R remotely", and the line with the sums.
struct Reads {
  std::int64_t local = 0, remote = 0;
};
Reads reads_of(const std::string& text, const std::string& line) {
  std::smatch found;
  const std::regex pattern(line + R"(.*reads (\d+) bytes of K and V locally, (\d+) remotely)");
  EXPECT_TRUE(std::regex_search(text, found, pattern)) << line << " in:\n" << text;
  return found.empty() ? Reads{} : Reads{std::stoll(found[1]), std::stoll(found[2])};
}

TEST(PlanExplain, BytesReadLocallyAndRemotely) {
  ContextOptions options;
  options.topology = "numa:2 core:1 pu:1";
  options.executor = "serial";
  const Context context = context_of(options);
  const auto explain = [&](std::int64_t kv_heads, std::int64_t q_len, std::int64_t kv_len) {
    AttentionArgs args;
    args.q = ConstTensor::bhsd(nullptr, 1, kv_heads, q_len, 16, DataType::bf16);
    args.k = args.v = ConstTensor::bhsd(nullptr, 1, kv_heads, kv_len, 16, DataType::bf16);
    args.out = Tensor::bhsd(nullptr, 1, kv_heads, q_len, 16, DataType::bf16);
    Plan prepared;
    const Status status = plan(context, args, &prepared);
    EXPECT_TRUE(status.ok()) << status.message();
    return prepared.explain();
  };
  // Two heads on two domains: decode reads each key and value once, at home.
  const std::string apart = explain(2, 1, 4096);
  EXPECT_EQ(reads_of(apart, "domain 0").local, 4096 * 2 * 16 * 2) << apart;
  EXPECT_EQ(reads_of(apart, "domain 1").local, 4096 * 2 * 16 * 2);
  EXPECT_EQ(reads_of(apart, "memory").local, 2 * 4096 * 2 * 16 * 2);
  EXPECT_EQ(reads_of(apart, "memory").remote, 0);
  EXPECT_NE(apart.find("; 0 KV heads read by several domains"), std::string::npos) << apart;
  // One head: half of it is read from the other domain.
  const std::string cut = explain(1, 1, 4096);
  EXPECT_EQ(reads_of(cut, "memory").local, 2048 * 2 * 16 * 2) << cut;
  EXPECT_EQ(reads_of(cut, "memory").remote, 2048 * 2 * 16 * 2) << cut;
  EXPECT_NE(cut.find("; 1 KV heads read by several domains"), std::string::npos) << cut;
}

TEST(PlanExplain, NumbersAddUp) {
  ContextOptions options;
  options.topology = "numa:2 core:2 pu:1";
  options.executor = "serial";
  AttentionArgs args;  // 8 sequences of 3 splits on 4 cores
  args.q = ConstTensor::bhsd(nullptr, 8, 1, 1, 16);
  args.k = args.v = ConstTensor::bhsd(nullptr, 8, 1, 1536, 16);
  args.out = Tensor::bhsd(nullptr, 8, 1, 1, 16);
  Plan prepared;
  ASSERT_TRUE(plan(context_of(options), args, &prepared).ok());
  const std::string text = prepared.explain();
  const auto numbers = [&](const std::string& pattern) {
    std::smatch found;
    EXPECT_TRUE(std::regex_search(text, found, std::regex(pattern))) << pattern << " in:\n" << text;
    std::vector<double> result;
    for (std::size_t i = 1; i < found.size(); ++i) result.push_back(std::stod(found[i]));
    return result;
  };
  const double tasks = numbers(R"(tasks: (\d+))")[0];
  EXPECT_GE(tasks, 8);
  EXPECT_EQ(numbers(R"(domain 0: (\d+) tasks)")[0] + numbers(R"(domain 1: (\d+) tasks)")[0], tasks);
  EXPECT_EQ(numbers("imbalance: ([0-9.]+) %")[0], 0.0) << "each core has 6 of 24 equal splits";
  const auto bytes = numbers(R"(workspace: (\d+) bytes \((\d+) a core, (\d+) of split states\))");
  EXPECT_EQ(bytes[0], 4 * bytes[1] + bytes[2]);
  EXPECT_EQ(bytes[0], static_cast<double>(prepared.workspace_bytes()));
}

TEST(PlanKvDomains, TasksGoWhereTheMemoryIs) {
  ContextOptions options;
  options.topology = "numa:2 core:2 pu:1";
  options.executor = "serial";
  const Context context = context_of(options);
  Case c = base();
  c.batch = 2;
  c.q_heads = c.kv_heads = 2;
  const Problem problem(c);
  AttentionArgs args = problem.args();
  const std::vector<std::int32_t> domains{1, 0, 0, 1};
  Plan plain, placed;
  ASSERT_TRUE(plan(context, args, &plain).ok());
  args.kv_domains = domains.data();
  ASSERT_TRUE(plan(context, args, &placed).ok());
  EXPECT_EQ(planned_traffic(*impl_of(placed)).home, domains);
  EXPECT_EQ(reads_of(placed.explain(), "memory").remote, 0) << placed.explain();
  EXPECT_GT(reads_of(placed.explain(), "memory").local, 0);
  // All memory is in one domain: the other domain reads it remotely, and explain() shows that.
  const std::vector<std::int32_t> heaped(4, 1);
  args.kv_domains = heaped.data();
  ASSERT_TRUE(plan(context, args, &placed).ok());
  const std::string text = placed.explain();
  EXPECT_EQ(reads_of(text, "domain 1").remote, 0) << text;
  EXPECT_EQ(reads_of(text, "domain 0").local, 0) << text;
  EXPECT_GT(reads_of(text, "domain 0").remote, 0) << text;
  // A run does not read kv_domains, and gives the same bits.
  const Outcome want = problem.run(context);
  args.kv_domains = nullptr;
  problem.poison_outputs();
  ASSERT_TRUE(placed.run(args).ok());
  EXPECT_TRUE(same_bits(problem.outcome(), want));
}

TEST(PlanKvDomains, ADomainThatIsNotThereIsRefused) {
  const Context context = context_of(ContextOptions{});
  Case c = base();
  c.batch = 2;
  c.q_heads = c.kv_heads = 2;
  const Problem problem(c);
  AttentionArgs args = problem.args();
  for (const std::int32_t wrong : {-2, context.num_domains()}) {
    const std::vector<std::int32_t> domains{-1, 0, -1, wrong};
    args.kv_domains = domains.data();
    Plan made;
    const Status status = plan(context, args, &made);
    EXPECT_EQ(status.code(), Code::invalid_argument);
    EXPECT_NE(status.message().find("kv_domains[1, 1]"), std::string::npos) << status.message();
    EXPECT_NE(status.message().find(std::to_string(wrong)), std::string::npos) << status.message();
  }
}

TEST(PlanExplain, NamesTheForcedPipeline) {
  const Context context = context_of(ContextOptions{});
  const Problem problem(base());
  for (const auto& [pipeline, name] :
       {std::pair{Pipeline::online, "online"}, std::pair{Pipeline::decode, "decode"},
        std::pair{Pipeline::two_pass, "two_pass"}, std::pair{Pipeline::interleaved, "interleaved, "},
        std::pair{Pipeline::three_pass, "three_pass, "}}) {
    Plan prepared;
    ASSERT_TRUE(plan(context, problem.args(pipeline), &prepared).ok());
    EXPECT_NE(prepared.explain().find(std::string("pipeline: ") + name), std::string::npos)
        << prepared.explain();
  }
}

// Promise: memory grows at most with q_len + kv_len, never with their product. The second problem has 16
// times the scores of the first, at 4 times its length.
TEST(PlanWorkspace, DoesNotGrowWithTheProductOfLengths) {
  ContextOptions options;
  options.num_threads = 1;
  const Context context = context_of(options);
  const auto bytes = [&](std::int64_t q_len, std::int64_t kv_len) {
    AttentionArgs args;
    args.q = ConstTensor::bhsd(nullptr, 1, 8, q_len, 64);
    args.k = args.v = ConstTensor::bhsd(nullptr, 1, 8, kv_len, 64);
    args.out = Tensor::bhsd(nullptr, 1, 8, q_len, 64);
    Plan prepared;
    const Status status = plan(context, args, &prepared);
    EXPECT_TRUE(status.ok()) << status.message();
    return prepared.workspace_bytes();
  };
  EXPECT_LE(bytes(16384, 16384), 4 * bytes(4096, 4096));
  EXPECT_LE(bytes(1 << 20, 1 << 20), 256 * bytes(4096, 4096));
  EXPECT_LE(bytes(1, 1 << 20), 8 * bytes(1, 1 << 17) + 4096);
}

}  // namespace
}  // namespace kumiko::test
