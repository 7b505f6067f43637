// SPDX-License-Identifier: Apache-2.0
// Queries and keys spread over ranks: every row has the bits of one machine's call, for any lengths,
// distribution and algorithm.
#include <algorithm>
#include <cstdlib>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "distributed/block_pipeline.h"
#include "tests/distributed/ranks.h"
#include "tests/distributed/sequence_problem.h"

namespace kumiko::test {
namespace {

using distributed::Algorithm;
using distributed::Distribution;
using distributed::SequenceLengths;
using distributed::SequenceParallelArgs;

struct SequenceParallel : testing::Test {
  Random random{test_seed(97)};
  Context context = [] {  // KUMIKO_NUM_THREADS says with how many threads
    Context made;
    EXPECT_TRUE(Context::create({}, &made).ok());
    return made;
  }();

  SequenceShape draw() {
    SequenceShape s;
    s.is_packed = random.one_in(2);
    const std::int64_t count = random.between(1, 3),
                       longest = random.pick<std::int64_t>({40, 700, 2100, 4000});
    for (std::int64_t i = 0; i < count; ++i) {
      SequenceLengths lengths{0, random.between(0, longest)};
      lengths.q_len = random.one_in(3) ? random.between(0, 80) : lengths.kv_len;
      s.sequences.push_back(s.is_packed || i == 0 ? lengths : s.sequences[0]);
    }
    if (count == 1) s.is_packed = false;
    s.kv_heads = random.between(1, 3), s.q_heads = s.kv_heads * random.between(1, 3);
    s.head_dim = random.pick({1, 8, 16, 40}), s.v_head_dim = random.pick({1, 8, 24});
    s.type = random.pick({DataType::f32, DataType::bf16, DataType::f16});
    s.out_type = random.one_in(3) ? DataType::f32 : s.type;
    s.is_int8 = random.one_in(5), s.rows_first = random.one_in(2);
    s.is_causal = !random.one_in(3);
    if (random.one_in(4)) s.alignment = CausalAlignment::top_left;
    if (random.one_in(3)) s.window_left = random.pick({0, 5, 300, 1200});
    if (random.one_in(5)) s.window_right = random.pick({0, 3, 600});
    if (random.one_in(4)) s.window_sink_tokens = random.pick({1, 70, 600});
    if (random.one_in(5)) s.softcap = 3.0f;
    s.bias = random.one_in(6), s.mask = random.one_in(6), s.alibi = random.one_in(5),
    s.sinks = random.one_in(3);
    s.prefix_lens = random.one_in(5), s.causal_sequences = random.one_in(6);
    s.lse = !random.one_in(3), s.row_max = random.one_in(3);
    s.distribution = random.pick({Distribution::contiguous, Distribution::zigzag, Distribution::cyclic});
    s.algorithm = random.pick({Algorithm::ring, Algorithm::broadcast, Algorithm::head_parallel});
    s.is_automatic = random.one_in(6);
    if (s.bias || s.mask || s.kv_heads < world_size())
      s.algorithm = random.pick({Algorithm::ring, Algorithm::broadcast});
    s.block_keys = random.pick({0, 512, 512, 1024, 4096});
    s.seed = random.bits();
    return s;
  }
};

TEST_F(SequenceParallel, RowsHaveTheBitsOfOneMachine) {
  // Ranks share the cores of one machine.
  for (int repeat = 0; repeat < thinned(120, 36, 18) / (2 + world_size()); ++repeat)
    ASSERT_NO_FATAL_FAILURE(expect_bits_of_one_machine(context, draw()));
}

// Ranks without queries, keys or both.
TEST_F(SequenceParallel, FewTokens) {
  for (const Distribution distribution :
       {Distribution::contiguous, Distribution::zigzag, Distribution::cyclic}) {
    for (const Algorithm algorithm : {Algorithm::ring, Algorithm::broadcast, Algorithm::head_parallel}) {
      for (const SequenceLengths& lengths :
           {SequenceLengths{1, 1}, {0, 0}, {0, 600}, {600, 0}, {1, 5000}, {513, 512}, {512, 513}}) {
        if (kThinned && lengths.q_len != 1) continue;
        SequenceShape s;
        s.sequences = {lengths};
        s.is_packed = false;
        s.kv_heads = s.q_heads = std::max(2, world_size());
        s.head_dim = s.v_head_dim = 4;
        s.distribution = distribution, s.algorithm = algorithm;
        ASSERT_NO_FATAL_FAILURE(expect_bits_of_one_machine(context, s));
      }
    }
  }
}

// Pieces of a block are passed on one by one: 512 keys have 1.2 MB.
TEST_F(SequenceParallel, BlocksOfSeveralPieces) {
  for (const Algorithm algorithm : {Algorithm::ring, Algorithm::broadcast}) {
    SequenceShape s;
    s.sequences = {{1536, 1536}};
    s.is_packed = false;
    s.q_heads = s.kv_heads = 4, s.head_dim = s.v_head_dim = 72;
    s.distribution = Distribution::cyclic, s.algorithm = algorithm;
    ASSERT_GT(512 * s.kv_heads * (s.head_dim + s.v_head_dim) * 4, distributed::kPieceBytes);
    ASSERT_NO_FATAL_FAILURE(expect_bits_of_one_machine(context, s));
  }
}

// Windows that reach past every key, as far as a number goes.
TEST_F(SequenceParallel, WindowsWithoutAnEnd) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  for (const bool is_automatic : {false, true}) {
    for (const SequenceLengths& lengths : {SequenceLengths{1100, 1100}, {1600, 700}}) {
      SequenceShape s;
      s.sequences = {lengths};
      s.is_packed = s.is_causal = false, s.is_automatic = is_automatic;
      s.window_left = s.window_right = kMost;
      ASSERT_NO_FATAL_FAILURE(expect_bits_of_one_machine(context, s));
    }
  }
}

// Each error is the same on all ranks, whoever found it, and leaves outputs untouched.
struct SequenceParallelErrors : SequenceParallel {
  SequenceShape shape = [] {
    SequenceShape s;
    s.sequences = {{900, 900}};
    s.is_packed = false;
    return s;
  }();
  template <class Change>
  void expect_error(Change change, Code code, const std::string& text) {
    SequenceProblem problem(shape);
    SequenceParallelArgs args = problem.local();
    change(args);
    const Status status = distributed::attention_forward(context, world(), args);
    EXPECT_EQ(status.code(), code) << status.message();
    EXPECT_NE(status.message().find(text), std::string::npos) << status.message();
    EXPECT_TRUE(same_on_all_ranks(status));
    EXPECT_TRUE(problem.outputs_untouched());
  }
};

TEST_F(SequenceParallelErrors, OfAnyRankReachAll) {
  const int last = world_size() - 1;
  const auto on_last = [&](auto change) {
    return [=](SequenceParallelArgs& args) {
      if (world_rank() == last) change(args);
    };
  };
  const std::string where = "on rank " + std::to_string(last) + ": ";
  expect_error(on_last([](auto& args) { args.local.q.shape[2] += 1; }), Code::invalid_argument,
               where + "local.q.shape[2] is ");
  expect_error(on_last([](auto& args) { args.local.k.shape[0] = 2; }), Code::invalid_argument,
               where + "local.k.shape[0] is 2; expected 1");
  expect_error(
      on_last([](auto& args) { args.local.tree_mask = reinterpret_cast<const std::uint8_t*>(&args); }),
      Code::unsupported, where + "local.tree_mask is given; expected null");
  expect_error(on_last([](auto& args) { args.local.max_pages = 1; }), Code::invalid_argument,
               where + "local.max_pages is given; expected none");
  expect_error(on_last([](auto& args) { args.local.key_layout = KeyLayout::tiles_of_16; }), Code::unsupported,
               where + "local.key_layout is 1; expected rows (0)");
  expect_error(on_last([](auto& args) { args.local.k.dtype = static_cast<DataType>(9); }),
               Code::invalid_argument, where + "local.k.dtype is 9; expected f32, bf16, f16 or i8");
  expect_error(on_last([](auto& args) { args.local.v.shape[3] = -1; }), Code::invalid_argument,
               where + "local.v.shape[3] is -1; expected 0..");
  expect_error(on_last([](auto& args) { args.local.q.shape[1] = args.local.q.shape[3] = 1 << 20; }),
               Code::invalid_argument,
               where + "local.q.shape[1] * local.q.shape[3] is 1099511627776; expected 0..");
  expect_error(on_last([](auto& args) { args.local.softcap = -1; }), Code::invalid_argument,
               where + "local.softcap is -1");
  expect_error(on_last([](auto& args) { args.block_keys = 100; }), Code::invalid_argument,
               where + "block_keys is 100; expected 0, or a multiple of 512");
  expect_error([](auto& args) { args.algorithm = Algorithm::states; }, Code::invalid_argument,
               "algorithm is states; expected ring, broadcast or head_parallel");
  const Status empty = distributed::attention_forward(context, {}, SequenceParallelArgs{});
  EXPECT_EQ(empty.message(), "communicator is empty; expected one made by Communicator::create()");
}

// What a rank's own tensors must be, of which the calls that compute see copies.
TEST_F(SequenceParallelErrors, OfTensors) {
  shape.q_heads = shape.kv_heads = std::max(2, world_size());
  const std::int64_t heads = shape.kv_heads;
  const std::string zero = "on rank 0: local.", apart = "; expected memory apart from ";
  for (const Algorithm algorithm : {Algorithm::ring, Algorithm::broadcast, Algorithm::head_parallel}) {
    shape.algorithm = algorithm;
    const auto expect_refused = [&](void (*change)(AttentionArgs&), const std::string& text) {
      expect_error(
          [&](auto& args) {
            if (world_rank() == 0) change(args.local);
          },
          Code::invalid_argument, text);
    };
    const std::string few = std::to_string(heads - 1), all = std::to_string(heads);
    expect_refused([](auto& a) { a.q.data = nullptr; }, zero + "q.data is null; expected a tensor");
    expect_refused([](auto& a) { a.k.data = nullptr; }, zero + "k.data is null; expected a tensor");
    expect_refused([](auto& a) { a.v.data = nullptr; }, zero + "v.data is null; expected a tensor");
    expect_refused([](auto& a) { a.out.data = nullptr; }, zero + "out.data is null; expected a tensor");
    expect_refused([](auto& a) { a.k.stride[3] = 2; }, zero + "k.stride[3] (head_dim) is 2; expected 1");
    expect_refused([](auto& a) { a.v.stride[1] = -8; }, zero + "v.stride[1] (heads) is -8; expected 0 or");
    expect_refused([](auto& a) { a.v.shape[1] -= 1; },
                   zero + "v.shape[1] (heads) is " + few + "; expected " + all + ", as in k.shape[1]");
    expect_refused([](auto& a) { a.out.shape[1] -= 1; },
                   zero + "out.shape[1] (heads) is " + few + "; expected " + all + ", as in q.shape");
    expect_refused([](auto& a) { a.q.shape[1] = a.out.shape[1] += 1; },
                   zero + "k.shape[1] (heads) is " + all + "; expected a divisor of q.shape[1]");
    expect_refused([](auto& a) { a.out.stride[1] = 0; }, zero + "out.stride[1] (heads) is 0; expected a str");
    expect_refused([](auto& a) { a.lse.stride = {-1, 1, 1}; }, zero + "lse.stride[0] (batch) is -1; expec");
    expect_refused([](auto& a) { a.k.data = a.out.data; }, apart + "k");
    expect_refused([](auto& a) { a.v.data = a.row_max.data, a.v.stride = {0, 0, 0, 1}; }, apart + "v");
    expect_refused(
        [](auto& a) {
          a.alibi_slopes = static_cast<const float*>(a.q.data);
          a.alibi_batch_stride = -1;
        },
        zero + "alibi_batch_stride is -1; expected 0, or at least q.shape[1]");
  }
}

// Each call sees a bias of its own sequences and lists of its own pieces of them; errors name the whole.
TEST_F(SequenceParallelErrors, OfWhatEachCallSeesInPart) {
  shape.sequences = {{900, 900}, {900, 900}};
  const float zero = 0.0f;
  const bool seen = true;
  const auto with_bias = [&](int dim, std::int64_t size, const std::string& text) {
    expect_error(
        [&](auto& args) {
          args.local.bias = {&zero, args.local.q.shape, {0, 0, 0, 0}, DataType::f32};
          args.local.bias.shape[3] = 900;
          args.local.bias.shape[static_cast<std::size_t>(dim)] = size;
        },
        Code::invalid_argument, text);
  };
  with_bias(0, 1, "on rank 0: local.bias.shape[0] is 1; expected 2, as in local.q");
  with_bias(3, 899, "on rank 0: local.bias.shape[3] is 899; expected at least 900, the keys of the longest");
  expect_error(
      [&](auto& args) {
        args.local.bias = {&zero, args.local.q.shape, {0, 0, 0, 0}, DataType::f32};
        args.local.mask = {&seen, args.local.q.shape, {0, 0, 0, 0}, DataType::boolean};
        args.local.bias.shape[3] = 900, args.local.mask.shape[3] = 901;
      },
      Code::invalid_argument, "on rank 0: local.mask.shape[3] is 901; expected 900, as in local.bias");
  const std::uint8_t causal[2] = {1, 2};
  const std::int32_t prefixes[2] = {3, -1};
  expect_error([&](auto& args) { args.local.causal_sequences = causal; }, Code::invalid_argument,
               "on rank 0: local.causal_sequences[1] is 2; expected 0 or 1");
  expect_error([&](auto& args) { args.local.prefix_lens = prefixes; }, Code::invalid_argument,
               "on rank 0: local.prefix_lens[1] is -1; expected 0 or more");
}

// A rank may have keys and no query.
TEST_F(SequenceParallelErrors, OfKeysBesideNoQuery) {
  shape.sequences = {{1, 5000}};
  shape.distribution = Distribution::cyclic;
  expect_error(
      [](auto& args) {
        if (world_rank() == world_size() - 1) args.local.k.data = nullptr;
      },
      Code::invalid_argument, "on rank " + std::to_string(world_size() - 1) + ": local.k.data is null");
}

TEST_F(SequenceParallelErrors, OfADistributionWithoutAName) {
  expect_error([](auto& args) { args.distribution = static_cast<Distribution>(-1); }, Code::invalid_argument,
               "distribution is -1; expected contiguous, zigzag or cyclic");
}

// Scales of queries travel to the ranks that compute their heads, which know how many there are from their
// own.
TEST_F(SequenceParallelErrors, OfScalesThatOneRankHas) {
  if (world_size() == 1) GTEST_SKIP() << "nothing can differ";
  shape.q_heads = shape.kv_heads = world_size();
  shape.is_int8 = true, shape.algorithm = Algorithm::head_parallel;
  expect_error(
      [](auto& args) {
        if (world_rank() == 0) args.local.q_scale = {};
      },
      Code::invalid_argument, "local.q_scale differs between ranks; expected the same on all");
}

TEST_F(SequenceParallelErrors, NameTheLengthThatIsNotThatOfTheOthers) {
  shape.sequences = {{900, 900}, {900, 900}};
  const std::vector<SequenceLengths> keys{{900, 900}, {900, 800}}, queries{{900, 900}, {700, 900}};
  expect_error([&](auto& args) { args.sequences = keys; }, Code::invalid_argument,
               "sequences[1].kv_len is 800; expected 900, as in sequences[0]");
  expect_error([&](auto& args) { args.sequences = queries; }, Code::invalid_argument,
               "sequences[1].q_len is 700; expected 900, as in sequences[0]");
}

TEST_F(SequenceParallelErrors, OfProblemsThatDiffer) {
  if (world_size() == 1) GTEST_SKIP() << "nothing can differ";
  const auto on_first = [](auto change) {
    return [=](SequenceParallelArgs& args) {
      if (world_rank() == 0) change(args);
    };
  };
  const std::string text = " differs between ranks; expected the same on all";
  expect_error(on_first([](auto& a) { a.local.scale = 0.5f; }), Code::invalid_argument, "local.scale" + text);
  // Whoever misses this one sends the same blocks all the same; after others ranks would wait for ever.
  if (HasFailure()) return;
  expect_error(on_first([](auto& a) { a.local.is_causal = false; }), Code::invalid_argument,
               "local.is_causal" + text);
  expect_error(on_first([](auto& a) { a.local.window_left = 7; }), Code::invalid_argument,
               "local.window_left" + text);
  expect_error(on_first([](auto& a) { a.local.lse = {}; }), Code::invalid_argument, "local.lse" + text);
  expect_error(on_first([](auto& a) { a.block_keys = 512; }), Code::invalid_argument, "block_keys" + text);
  expect_error(on_first([](auto& a) { a.algorithm = Algorithm::broadcast; }), Code::invalid_argument,
               "algorithm" + text);
  const std::vector<float> sinks(4, 0.5f), others(4, 0.25f);
  expect_error([&](auto& a) { a.local.sinks = world_rank() == 0 ? others.data() : sinks.data(); },
               Code::invalid_argument, "local.sinks" + text);
  for (const auto& [name, change] : std::vector<std::pair<std::string, void (*)(AttentionArgs&)>>{
           {"softcap", [](AttentionArgs& a) { a.softcap = 2; }},
           {"causal_alignment", [](AttentionArgs& a) { a.causal_alignment = CausalAlignment::top_left; }},
           {"window_right", [](AttentionArgs& a) { a.window_right = 3; }},
           {"window_sink_tokens", [](AttentionArgs& a) { a.window_sink_tokens = 3; }},
           {"lse_base", [](AttentionArgs& a) { a.lse_base = LseBase::two; }},
           {"precision", [](AttentionArgs& a) { a.precision = Precision::standard; }},
           {"row_max", [](AttentionArgs& a) { a.row_max = {}; }}})
    expect_error(
        [&, change = change](auto& a) {
          if (world_rank() == 0) change(a.local);
        },
        Code::invalid_argument, "local." + name + text);
  expect_error(on_first([](auto& a) { a.sequences = {}; }), Code::invalid_argument,
               "on rank 0: local.q.shape[2] is ");
}

// What a packed call has for each sequence: the last one's differs.
TEST_F(SequenceParallelErrors, OfListsThatDiffer) {
  if (world_size() == 1) GTEST_SKIP() << "nothing can differ";
  shape.sequences = {{900, 900}, {40, 700}};
  shape.is_packed = true;
  const std::string text = " differs between ranks; expected the same on all";
  const std::int32_t here = world_rank() == 0 ? 1 : 2, prefixes[2] = {3, here};
  const std::uint8_t causal[2] = {1, world_rank() == 0};
  const std::vector<float> slopes{1, 1, 1, 1, 1, 1, 1, static_cast<float>(here)};
  expect_error([&](auto& a) { a.local.prefix_lens = prefixes; }, Code::invalid_argument,
               "local.prefix_lens" + text);
  expect_error([&](auto& a) { a.local.causal_sequences = causal; }, Code::invalid_argument,
               "local.causal_sequences" + text);
  expect_error([&](auto& a) { a.local.alibi_slopes = slopes.data(), a.local.alibi_batch_stride = 4; },
               Code::invalid_argument, "local.alibi_slopes" + text);
}

// Ranks of different speed: all choose by the slowest. Over so slow a link a fast machine sends few bytes,
// and a slow one shares the work evenly.
TEST_F(SequenceParallel, RanksOfDifferentSpeedChooseAlike) {
  SequenceShape s;
  s.sequences = {{2048, 2048}};
  s.is_packed = false, s.is_automatic = true, s.q_heads = 16, s.kv_heads = 4, s.head_dim = 8;
  s.distribution = Distribution::contiguous;
  SequenceProblem problem(s);
  std::string texts[2];
  distributed::Machine machine;
  machine.link.bandwidth = 1e6;
  const double speeds[2] = {1e15, 1e6};
  for (int i = 0; i < 2; ++i) {
    machine.flops = machine.bandwidth = speeds[i];
    distributed::Communicator made;
    ASSERT_TRUE(distributed::Communicator::create(MPI_COMM_WORLD, machine, &made).ok());
    texts[i] = distributed::explain(context, made, problem.local());
    texts[i] = texts[i].substr(texts[i].find("algorithm: "));
    texts[i] = texts[i].substr(0, texts[i].find('\n'));
  }
  if (world_size() == 2) {
    EXPECT_NE(texts[0], texts[1]);
  }
  machine.flops = machine.bandwidth = speeds[world_rank() == 0];
  distributed::Communicator made;
  ASSERT_TRUE(distributed::Communicator::create(MPI_COMM_WORLD, machine, &made).ok());
  ASSERT_TRUE(attention_forward(context, problem.whole()).ok());
  const Status status = distributed::attention_forward(context, made, problem.local());
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(problem.is_right());
}

// The fastest algorithm may not take a bias: the choice is among those that do.
TEST_F(SequenceParallel, TheChoiceTakesABias) {
  SequenceShape s;
  s.sequences = {{2048, 2048}};
  s.is_packed = false, s.is_automatic = true, s.q_heads = 16, s.kv_heads = 4, s.head_dim = 8;
  s.distribution = Distribution::contiguous, s.bias = true;
  SequenceProblem problem(s);
  ASSERT_TRUE(attention_forward(context, problem.whole()).ok());
  for (const double speed : {1e15, 1e6}) {
    distributed::Machine machine;
    machine.link.bandwidth = 1e6;
    machine.flops = machine.bandwidth = speed;
    distributed::Communicator made;
    ASSERT_TRUE(distributed::Communicator::create(MPI_COMM_WORLD, machine, &made).ok());
    const Status status = distributed::attention_forward(context, made, problem.local());
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(problem.is_right());
  }
}

// The choice and the times behind it depend on the link that the communicator was made with.
TEST_F(SequenceParallel, ExplainTellsTheChoice) {
  SequenceShape s;
  s.sequences = {{4096, 4096}};
  s.is_packed = false, s.is_automatic = true, s.q_heads = s.kv_heads = 7, s.head_dim = s.v_head_dim = 16;
  SequenceProblem problem(s);
  std::string first;
  for (const double bandwidth : {1e12, 1e6}) {
    distributed::Machine machine;
    machine.link.bandwidth = bandwidth;
    distributed::Communicator made;
    ASSERT_TRUE(distributed::Communicator::create(MPI_COMM_WORLD, machine, &made).ok());
    const std::string text = distributed::explain(context, made, problem.local());
    EXPECT_NE(text.find("ranks: " + std::to_string(world_size()) + ", rows zigzag"), std::string::npos)
        << text;
    EXPECT_NE(text.find(", the fastest by the model\n"), std::string::npos) << text;
    double least = 1e300;
    std::string best;
    for (const char* name : {"ring", "broadcast", "head_parallel"}) {
      const std::size_t at = text.find("predicted " + std::string(name) + ": ");
      ASSERT_NE(at, std::string::npos) << text;
      const double time = std::strtod(text.c_str() + text.find(": ", at) + 2, nullptr);
      EXPECT_GT(time, 0) << text;
      if (time < least) least = time, best = name;
    }
    EXPECT_NE(text.find("algorithm: " + best), std::string::npos) << text;
    if (world_size() > 1) {
      EXPECT_NE(first, text);
    }
    first = text;
  }
  SequenceProblem few([&] {
    SequenceShape other = s;
    other.q_heads = other.kv_heads = 1;
    return other;
  }());
  const std::string text = distributed::explain(context, world(), few.local());
  EXPECT_EQ(
      text.find("predicted head_parallel: not possible, fewer KV heads than ranks") != std::string::npos,
      world_size() > 1)
      << text;
}

}  // namespace
}  // namespace kumiko::test
