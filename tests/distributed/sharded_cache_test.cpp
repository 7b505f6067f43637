// SPDX-License-Identifier: Apache-2.0
// A cache spread over ranks by splits: all ranks get the outputs of one machine, bit for bit.
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <string>

#include "tests/distributed/ranks.h"
#include "tests/distributed/sharded_step.h"

namespace kumiko::test {
namespace {

struct ShardedCache : testing::Test {
  Random random{test_seed(98)};
  Context context = [] {  // KUMIKO_NUM_THREADS says with how many threads
    Context made;
    EXPECT_TRUE(Context::create({}, &made).ok());
    return made;
  }();

  StepShape draw() {
    StepShape s;
    const std::int64_t longest = random.pick<std::int64_t>({30, 900, 5000});
    for (std::int64_t i = random.between(1, 5); i > 0; --i) {
      const std::int64_t kv_len = random.between(0, longest);
      s.sequences.push_back({random.one_in(3) ? random.between(0, 40) : 1, kv_len});
    }
    s.kv_heads = random.between(1, 3), s.q_heads = s.kv_heads * random.between(1, 4);
    s.head_dim = random.pick({1, 8, 16, 40}), s.v_head_dim = random.pick({1, 8, 24});
    s.page_keys = random.pick({16, 16, 100, 128, 256, 512});
    s.type = random.pick({DataType::f32, DataType::bf16, DataType::f16});
    s.out_type = random.one_in(3) ? DataType::f32 : s.type;
    s.is_int8 = random.one_in(4), s.bias = random.one_in(5), s.mask = random.one_in(5);
    s.rows_first = random.one_in(2);
    s.is_causal = random.one_in(2);
    if (random.one_in(3)) s.window_left = random.pick({0, 5, 300, 1200});
    if (random.one_in(5)) s.softcap = 3.0f;
    s.sinks = random.one_in(3), s.alibi = random.one_in(4), s.page_lists = random.one_in(2);
    s.lse = !random.one_in(3), s.row_max = random.one_in(3);
    s.seed = random.bits();
    return s;
  }
};

TEST_F(ShardedCache, OutputsHaveTheBitsOfOneMachine) {
  for (int repeat = 0; repeat < thinned(80, 20, 5); ++repeat) {
    const StepShape shape = draw();
    SCOPED_TRACE(::testing::Message() << shape);
    ShardedStep step(shape);
    const Status whole = attention_forward(context, step.whole());
    ASSERT_TRUE(whole.ok()) << whole.message();
    const Status status = distributed::attention_forward(context, world(), step.own());
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(!status.ok() || step.is_right());
  }
}

TEST_F(ShardedCache, ErrorsAreTheSameOnAllRanks) {
  StepShape shape;
  shape.sequences = {{1, 3000}, {3, 700}};
  const int last = world_size() - 1;
  const std::string where = "on rank " + std::to_string(last) + ": ";
  const auto expect_error = [&](auto change, Code code, const std::string& text) {
    ShardedStep step(shape);
    AttentionArgs args = step.own();
    change(args);
    const Status status = distributed::attention_forward(context, world(), args);
    EXPECT_EQ(status.code(), code) << status.message();
    EXPECT_NE(status.message().find(text), std::string::npos) << status.message();
    EXPECT_TRUE(same_on_all_ranks(status));
    EXPECT_TRUE(step.outputs_untouched());
  };
  expect_error(
      [&](auto& a) {
        if (world_rank() == last) a.softcap = -1;
      },
      Code::invalid_argument, where + "softcap is -1");
  expect_error([](auto& a) { a.block_table = nullptr, a.max_pages = 0; }, Code::unsupported,
               "on rank 0: block_table is null; expected pages");
  expect_error([](auto& a) { a.window_left = 3, a.window_sink_tokens = 4; }, Code::unsupported,
               "on rank 0: window_sink_tokens is 4; expected 0 for split states");
  if (world_size() == 1) return;
  expect_error(
      [](auto& a) {
        if (world_rank() == 0) a.is_causal = false;
      },
      Code::invalid_argument, "is_causal differs between ranks");
  const std::int32_t other[] = {3000, 699};
  expect_error(
      [&](auto& a) {
        if (world_rank() == 0) a.seqused_k = other;
      },
      Code::invalid_argument, "seqused_k differs between ranks");
  const std::int32_t ends[] = {0, 2, 4};
  expect_error(
      [&](auto& a) {
        if (world_rank() == 0) a.cu_seqlens_q = ends;
      },
      Code::invalid_argument, "cu_seqlens_q differs between ranks");
  shape.is_int8 = shape.mask = true;
  expect_error(
      [](auto& a) {
        if (world_rank() == 0) a.mask = {};
      },
      Code::invalid_argument, "mask differs between ranks");
  expect_error(
      [](auto& a) {
        if (world_rank() == 0) a.q_scale = {};
      },
      Code::invalid_argument, "q_scale differs between ranks");
}

// What every rank must have alike, whatever kind of call it is: without the check ranks would wait for ever,
// or take a message for another.
TEST_F(ShardedCache, EachThingThatDiffersIsNamed) {
  if (world_size() == 1) GTEST_SKIP() << "nothing can differ";
  StepShape shape;
  shape.sequences = {{1, 3000}, {3, 700}};
  shape.q_heads = 4, shape.kv_heads = 2, shape.type = DataType::bf16;
  shape.bias = shape.is_int8 = shape.sinks = shape.row_max = true;
  static constexpr std::int32_t kEnds[] = {0, 1, 3};  // which leaves a query to nobody
  const struct {
    const char* name;
    void (*change)(AttentionArgs&);
  } rows[] = {
      {"q", [](auto& a) { a.q.shape[1] = a.out.shape[1] = a.bias.shape[1] = 2; }},
      {"q", [](auto& a) { a.q.shape[2] = a.out.shape[2] = a.bias.shape[2] = 3; }},
      {"k", [](auto& a) { a.k.shape[1] = a.v.shape[1] = 1; }},
      {"v", [](auto& a) { a.v.shape[3] = a.out.shape[3] = 8; }},
      {"out", [](auto& a) { a.out.dtype = DataType::bf16; }},
      {"lse", [](auto& a) { a.lse = {}; }},
      {"row_max", [](auto& a) { a.row_max = {}; }},
      {"bias", [](auto& a) { a.bias = {}; }},
      {"k_scale", [](auto& a) { a.k_scale = {}; }},
      {"scale", [](auto& a) { a.scale = 0.5f; }},
      {"causal_alignment", [](auto& a) { a.causal_alignment = CausalAlignment::top_left; }},
      {"window_right", [](auto& a) { a.window_right = 3; }},
      {"lse_with_sink", [](auto& a) { a.lse_with_sink = false; }},
      {"lse_base", [](auto& a) { a.lse_base = LseBase::two; }},
      {"precision", [](auto& a) { a.precision = Precision::int8; }},
      {"sinks", [](auto& a) { a.sinks = nullptr; }},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.name);
    ShardedStep step(shape);
    AttentionArgs args = step.own();
    args.cu_seqlens_q = kEnds;
    args.kv_indptr = nullptr;
    if (world_rank() == world_size() - 1) row.change(args);
    const Status status = distributed::attention_forward(context, world(), args);
    EXPECT_EQ(status.code(), Code::invalid_argument) << status.message();
    EXPECT_EQ(status.message(), std::string(row.name) + " differs between ranks; expected the same on all");
    EXPECT_TRUE(same_on_all_ranks(status));
    EXPECT_TRUE(step.outputs_untouched());
    if (HasFailure()) return;  // Whoever misses one leaves the ranks out of step.
  }
}

// MPI counts in int, and places as well: each rank's part fits here, and all together do not. Without the
// check ranks would take 5 GB each; with the limit they cannot.
TEST_F(ShardedCache, ResultsThatMpiCannotPlace) {
  constexpr std::int64_t kRows = (std::int64_t{1} << 31) / (2 * 64 * 4) + 1;  // of two heads of 64 floats
  alignas(64) float data[64] = {};
  const std::int32_t length = 0, table[] = {0};
  AttentionArgs a;
  a.q = {data, {1, 2, kRows, 8}, {0, 0, 0, 1}, DataType::f32};
  a.k = {data, {1, 2, 512, 8}, {0, 0, 0, 1}, DataType::f32};
  a.v = {data, {1, 2, 512, 64}, {0, 0, 0, 1}, DataType::f32};
  // Never written: an address of its own, far from all others.
  a.out = Tensor::bhsd(reinterpret_cast<float*>(std::uintptr_t{1} << 50), 1, 2, kRows, 64);
  a.seqused_k = &length;
  a.block_table = table, a.max_pages = 1;
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_AS, &before), 0);
  std::ifstream sizes("/proc/self/statm");
  rlim_t pages = 0;
  ASSERT_TRUE(sizes >> pages);
  rlimit narrow = before;
  narrow.rlim_cur = pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) + (rlim_t{1} << 30);
  ASSERT_EQ(setrlimit(RLIMIT_AS, &narrow), 0);
  const Status status = distributed::attention_forward(context, world(), a);
  ASSERT_EQ(setrlimit(RLIMIT_AS, &before), 0);
  EXPECT_EQ(status.code(), Code::unsupported) << status.message();
  EXPECT_NE(status.message().find("q.shape makes more than 2^31 - 1 states of a rank or bytes of results"),
            std::string::npos)
      << status.message();
  EXPECT_TRUE(same_on_all_ranks(status));
}

}  // namespace
}  // namespace kumiko::test
