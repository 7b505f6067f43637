// SPDX-License-Identifier: Apache-2.0
// The runtime on a machine of four NUMA nodes of twelve cores: what it sees, where its threads run, where its
// memory is, and that the bits are those of one thread. init.sh runs each suite in its own environment.
#include <gtest/gtest.h>
#include <oneapi/tbb/info.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <string>
#include <vector>

#include "runtime/context.h"
#include "runtime/kv_append.h"
#include "runtime/plan.h"
#include "runtime/traffic.h"
#include "scheduler/memory.h"
#include "tests/emulated_numa/placement_of.h"
#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/scheduler/deny_syscalls.h"

namespace kumiko::test {
namespace {

constexpr int kCoresPerNode = 12;
// Not a multiple of any page size: without separation, neighbouring arenas would share a page.
constexpr std::size_t kScratch = (300 << 10) + 100;

struct Named {
  template <class Info>
  std::string operator()(const Info& info) const {
    return info.param;
  }
};

Context threads(int count, const std::string& executor, const std::string& bind = "") {
  ContextOptions options;
  options.num_threads = count;
  options.executor = executor;
  options.bind = bind;
  return context_of(options);
}

void expect_domains(const scheduler::Topology& topology, const std::vector<int>& nodes) {
  ASSERT_EQ(topology.domains.size(), nodes.size());
  EXPECT_TRUE(topology.is_host);
  for (std::size_t d = 0; d < nodes.size(); ++d) {
    const scheduler::Domain& domain = topology.domains[d];
    EXPECT_EQ(domain.numa_node, nodes[d]);
    EXPECT_EQ(domain.l1_bytes_per_core, 64 << 10);
    EXPECT_EQ(domain.llc_bytes, 8 << 20);
    ASSERT_EQ(domain.cores.size(), static_cast<std::size_t>(kCoresPerNode));
    for (int c = 0; c < kCoresPerNode; ++c)
      EXPECT_EQ(domain.cores[static_cast<std::size_t>(c)].os_cpu, nodes[d] * kCoresPerNode + c);
  }
}

/// Every slot had a thread of its own on its own core, and its scratch is on that core's node. Checked twice,
/// because scratch grows.
void expect_everybody_at_home(const Context& context) {
  scheduler::Executor& executor = *impl_of(context)->executor;
  const scheduler::Topology& topology = impl_of(context)->topology;
  for (const std::size_t bytes : {kScratch, 3 * kScratch}) {
    int callers = 0;
    const std::vector<SlotReport> reports = meet(executor, bytes);
    for (std::size_t slot = 0; slot < reports.size(); ++slot) {
      const SlotReport& report = reports[slot];
      const scheduler::Seat& seat = executor.seats()[slot];
      ASSERT_TRUE(report.came) << "nobody in slot " << slot;
      EXPECT_EQ(report.domain, seat.domain);
      callers += report.is_caller;
      EXPECT_TRUE(report.is_caller || report.is_on_seat)
          << "the worker of slot " << slot << " ran on CPU " << report.cpu << ", allowed on "
          << report.allowed_cpus << " CPUs; its seat is CPU " << seat.os_cpu;
      EXPECT_TRUE(is_on_node(report.scratch, bytes,
                             topology.domains[static_cast<std::size_t>(seat.domain)].numa_node))
          << "scratch of slot " << slot;
    }
    EXPECT_EQ(callers, 1);
  }
}

Case prefill() {
  Case c;
  c.q_heads = 8;
  c.kv_heads = 4;
  c.q_len = 65;
  c.kv_len = 130;
  c.head_dim = c.v_head_dim = 16;
  c.is_causal = true;
  return c;
}

Case decode() {
  Case c;
  c.batch = 3;
  c.q_heads = 8;
  c.kv_heads = 2;
  c.q_len = 1;
  c.kv_len = 1100;  // three splits of keys, which several cores share
  c.head_dim = c.v_head_dim = 16;
  c.seqused = {1100, 0, 513};
  return c;
}

void expect_bits_of_one_thread(const Context& context) {
  const Context alone = threads(1, "serial");
  for (const Case& c : {prefill(), decode()}) {
    const Problem problem(c);
    EXPECT_TRUE(same_bits(problem.run(context), problem.run(alone))) << c;
  }
}

bool says(const std::string& text, const std::string& what) {
  return text.find(what) != std::string::npos;
}

std::string explained(const Context& context) {
  const Problem problem(prefill());
  Plan made;
  EXPECT_TRUE(plan(context, problem.args(), &made).ok());
  return made.explain();
}

// The check of the tests below must be able to fail: memory on one node is not on another.
TEST(AllCores, ATestThatLooksAtTheWrongNodeFails) {
  const scheduler::Arena arena = scheduler::Arena::allocate(1 << 16, 2);
  ASSERT_NE(arena.data(), nullptr);
  EXPECT_FALSE(is_on_node(arena.data(), arena.size(), 2)) << "pages that nobody has touched are nowhere";
  std::fill_n(arena.data(), arena.size(), std::byte{1});
  EXPECT_TRUE(is_on_node(arena.data(), arena.size(), 2));
  EXPECT_FALSE(is_on_node(arena.data(), arena.size(), 1));
}

TEST(AllCores, TopologyIsFourDomainsOfTwelveCores) {
  const Context context = context_of(ContextOptions{});
  EXPECT_EQ(context.num_threads(), 48);
  expect_domains(impl_of(context)->topology, {0, 1, 2, 3});
  EXPECT_TRUE(says(context.describe(), "placement per NUMA node\n")) << context.describe();
  EXPECT_FALSE(says(explained(context), "warning")) << explained(context);
}

// Whichever thread touches it: here one of node 0 or wherever the kernel puts it.
TEST(AllCores, MemoryOfADomainIsOnItsNode) {
  const Context context = context_of(ContextOptions{});
  ASSERT_EQ(context.num_domains(), 4);
  for (int domain = 0; domain < 4; ++domain) {
    for (const std::int64_t bytes : {std::int64_t{100000}, std::int64_t{3} << 20}) {
      DomainMemory memory;
      ASSERT_TRUE(context.allocate(domain, bytes, &memory).ok());
      EXPECT_TRUE(memory.is_placed());
      std::fill_n(static_cast<char*>(memory.data()), bytes, '\1');
      EXPECT_TRUE(is_on_node(memory.data(), static_cast<std::size_t>(bytes), domain));
    }
  }
}

// A pool of pages, a quarter on each node: what kv_append writes lies on the node of its page's domain, and
// the decode step over it is planned so that nobody reads another node's pages.
TEST(AllCores, AppendedPagesLieOnTheirDomainAndDecodeReadsThemThere) {
  constexpr std::int64_t kPages = 64, kPageSize = 16, kHeads = 2, kDim = 32, kSequences = 16, kKeys = 64;
  constexpr std::int64_t kFloats = kPages * kPageSize * kHeads * kDim;
  const Context context = context_of(ContextOptions{});
  DomainMemory keys, values;
  for (DomainMemory* pool : {&keys, &values})
    ASSERT_TRUE(context.allocate(kEachDomain, kFloats * 4, pool).ok());
  EXPECT_TRUE(keys.is_placed() && values.is_placed());
  // Sequence b has four pages, those of domain b % 4.
  std::vector<std::int32_t> table, page_domains, kv_domains;
  std::vector<std::int64_t> slots;
  for (std::int64_t page = 0; page < kPages; ++page)
    page_domains.push_back(static_cast<std::int32_t>(page / (kPages / 4)));
  for (std::int64_t b = 0; b < kSequences; ++b) {
    for (std::int64_t i = 0; i < kKeys / kPageSize; ++i)
      table.push_back(static_cast<std::int32_t>(b % 4 * (kPages / 4) + b / 4 * 4 + i));
    for (std::int64_t h = 0; h < kHeads; ++h) kv_domains.push_back(static_cast<std::int32_t>(b % 4));
    for (std::int64_t t = 0; t < kKeys; ++t)
      slots.push_back(table[static_cast<std::size_t>(b * 4 + t / kPageSize)] * kPageSize + t % kPageSize);
  }
  std::vector<float> rows(kSequences * kKeys * kHeads * kDim), out(kSequences * kHeads * kDim), want(out);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i % 101) / 101.0f - 0.5f;
  const auto pool_of = [&](float* data) { return Tensor::bshd(data, kPages, kPageSize, kHeads, kDim); };
  const auto step = [&](const Context& on, bool is_placed, float* k, float* v, float* to) {
    KvAppendArgs append;
    append.key = append.value = ConstTensor::bshd(rows.data(), kSequences, kKeys, kHeads, kDim);
    append.key_cache = pool_of(k), append.value_cache = pool_of(v);
    append.slot_mapping = slots.data();
    if (is_placed) append.page_domains = page_domains.data();
    ASSERT_TRUE(kv_append(on, append).ok());
    AttentionArgs args;
    args.q = ConstTensor::bshd(rows.data(), kSequences, 1, kHeads, kDim);
    args.k = ConstTensor::bshd(k, kPages, kPageSize, kHeads, kDim);
    args.v = ConstTensor::bshd(v, kPages, kPageSize, kHeads, kDim);
    args.out = Tensor::bshd(to, kSequences, 1, kHeads, kDim);
    const std::vector<std::int32_t> used(kSequences, kKeys);
    args.seqused_k = used.data(), args.block_table = table.data(),
    args.block_table_stride = kKeys / kPageSize;
    args.max_pages = kKeys / kPageSize;
    if (is_placed) args.kv_domains = kv_domains.data();
    Plan made;
    ASSERT_TRUE(plan(on, args, &made).ok());
    ASSERT_TRUE(made.run(args).ok());
    if (!is_placed) return;
    const Traffic traffic = planned_traffic(*impl_of(made));
    for (std::size_t d = 0; d < 4; ++d) {
      EXPECT_GT(traffic.local[d], 0);
      EXPECT_EQ(traffic.remote[d], 0);
    }
  };
  step(context, true, static_cast<float*>(keys.data()), static_cast<float*>(values.data()), out.data());
  for (const DomainMemory* pool : {&keys, &values}) {
    for (int domain = 0; domain < 4; ++domain)
      EXPECT_TRUE(is_on_node(static_cast<float*>(pool->data()) + domain * (kFloats / 4), kFloats, domain));
  }
  std::vector<float> plain_keys(kFloats), plain_values(kFloats);
  step(threads(1, "serial"), false, plain_keys.data(), plain_values.data(), want.data());
  EXPECT_EQ(out, want);
}

class AllCores : public testing::TestWithParam<std::string> {};

TEST_P(AllCores, EveryWorkerAndItsScratchAreAtHome) {
  for (const char* bind : {"close", "spread"}) expect_everybody_at_home(threads(48, GetParam(), bind));
}

TEST_P(AllCores, FewerWorkersThanCoresSitWhereTheBindingSays) {
  for (const char* bind : {"close", "spread"}) expect_everybody_at_home(threads(6, GetParam(), bind));
}

// Split states of a decode step are in the domain of the tasks that write them.
TEST_P(AllCores, SplitStatesAreInTheirDomain) {
  const Context context = threads(48, GetParam());
  Case c = decode();
  c.kv_heads = c.q_heads = 8;
  const Problem problem(c);
  Plan made;
  ASSERT_TRUE(plan(context, problem.args(), &made).ok());
  ASSERT_TRUE(made.run(problem.args()).ok());
  Plan::Impl& impl = *impl_of(made);
  RunState* const state = impl.states.acquire(impl.partition);
  int placed = 0;
  for (const PlannedMerge& merge : impl.partition.merges) {
    const float* data = state->partials[static_cast<std::size_t>(merge.domain)] + merge.partial_offset;
    EXPECT_TRUE(is_on_node(data, sizeof(float), merge.domain));
    placed |= 1 << merge.domain;
  }
  EXPECT_EQ(placed, 0b1111) << "expected split row blocks in every domain";
  impl.states.release(state);
}

TEST_P(AllCores, SameBitsAsOneThread) {
  expect_bits_of_one_thread(threads(48, GetParam()));
}

TEST_P(AllCores, TheCallerKeepsItsAffinity) {
  cpu_set_t before, after;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  expect_bits_of_one_thread(threads(48, GetParam()));
  ASSERT_EQ(sched_getaffinity(0, sizeof after, &after), 0);
  EXPECT_TRUE(CPU_EQUAL(&before, &after));
  EXPECT_EQ(CPU_COUNT(&after), 48);
}

// Its arenas are then each on one of oneTBB's nodes. oneTBB binds workers to the node, below our binding to a
// core, and undoes both.
TEST(AllCores, OneTbbKnowsTheNodesAndGivesItsThreadsBack) {
  EXPECT_EQ(tbb::info::numa_nodes().size(), 4u);
  for (int round = 0; round < 2; ++round) {
    meet(*impl_of(threads(48, "tbb"))->executor, kScratch);
    const Context free = threads(48, "tbb", "none");
    for (const SlotReport& report : meet(*impl_of(free)->executor, kScratch))
      EXPECT_EQ(report.allowed_cpus, 48);
  }
}

INSTANTIATE_TEST_SUITE_P(Executors, AllCores, testing::Values("openmp", "tbb"), Named());

// init.sh has removed oneTBB's library tbbbind.
TEST(WithoutTbbbind, WorkersAreAtHomeAndAreGivenBack) {
  EXPECT_EQ(tbb::info::numa_nodes().size(), 1u);
  for (const char* bind : {"close", "spread"}) expect_everybody_at_home(threads(48, "tbb", bind));
  const Context free = threads(48, "tbb", "none");
  for (const SlotReport& report : meet(*impl_of(free)->executor, kScratch))
    EXPECT_EQ(report.allowed_cpus, 48);
}

// init.sh sets KUMIKO_CPUS=12-23,36-47 for these.
TEST(TwoCmgs, TopologyIsTheSecondAndTheFourth) {
  const Context context = context_of(ContextOptions{});
  EXPECT_EQ(context.num_threads(), 24);
  expect_domains(impl_of(context)->topology, {1, 3});
}

class TwoCmgs : public testing::TestWithParam<std::string> {};

TEST_P(TwoCmgs, EveryWorkerAndItsScratchAreAtHome) {
  expect_everybody_at_home(threads(24, GetParam()));
}

TEST_P(TwoCmgs, SameBitsAsOneThread) {
  expect_bits_of_one_thread(threads(24, GetParam()));
}

TEST_P(TwoCmgs, MoreThreadsThanTheirCoresAreRefused) {
  ContextOptions options;
  options.num_threads = 25;
  options.executor = GetParam();
  Context context;
  EXPECT_EQ(Context::create(options, &context).code(), Code::invalid_argument);
}

INSTANTIATE_TEST_SUITE_P(Executors, TwoCmgs, testing::Values("openmp", "tbb"), Named());

// A container that forbids mbind: the owner's first touch places the scratch instead.
class MbindDenied : public testing::TestWithParam<std::string> {
 protected:
  static void SetUpTestSuite() { ASSERT_TRUE(deny_syscalls({SYS_mbind, SYS_set_mempolicy}, EPERM)); }
};

TEST_P(MbindDenied, WorksAndSaysSo) {
  const Context context = threads(48, GetParam());
  EXPECT_TRUE(says(context.describe(), "placement memory is placed by first touch: the kernel refuses mbind"))
      << context.describe();
  EXPECT_TRUE(says(explained(context), "warning: memory is placed by first touch")) << explained(context);
  expect_bits_of_one_thread(context);
}

TEST_P(MbindDenied, TheOwnersTouchPlacesScratch) {
  const Context context = threads(48, GetParam());
  const std::size_t bytes = kScratch;
  // An unbound caller may run anywhere, so its scratch is not checked.
  const std::vector<SlotReport> reports = meet(*impl_of(context)->executor, bytes);
  for (const SlotReport& report : reports) {
    if (report.is_caller) continue;
    EXPECT_TRUE(report.is_on_seat);
    EXPECT_TRUE(is_on_node(report.scratch, bytes, report.cpu / kCoresPerNode)) << "CPU " << report.cpu;
  }
}

INSTANTIATE_TEST_SUITE_P(Executors, MbindDenied, testing::Values("openmp", "tbb"), Named());

}  // namespace
}  // namespace kumiko::test

// Exits without the destructors of static objects: oneTBB's ends its 47 workers one by one, some spinning
// while others free their stacks, and the emulator flushes all cores' TLBs only after every spinning core had
// its turn. That took 8 to 270 s and tested nothing beyond the tests outside this machine.
int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const int status = RUN_ALL_TESTS();
  std::fflush(nullptr);
  _exit(status);
}
