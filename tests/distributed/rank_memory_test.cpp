// SPDX-License-Identifier: Apache-2.0
// What a rank allocates: two blocks and its rows' states, never all keys. A rank that gets none of it is told
// of by all.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

#include "tests/distributed/memory.h"
#include "tests/distributed/ranks.h"

namespace {

std::atomic<std::size_t> g_limit{SIZE_MAX};  // a larger piece cannot be had
std::atomic<std::size_t> g_taken{0};         // by pieces of 64 KB and more, since it was set to 0

void* take(std::size_t bytes) {
  if (bytes >= g_limit) throw std::bad_alloc();
  if (bytes >= 65536) g_taken += bytes;
  if (void* memory = std::malloc(bytes ? bytes : 1)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t bytes) {
  return take(bytes);
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}

namespace kumiko::test {
namespace {

using distributed::Algorithm;

struct Sequence {
  static constexpr std::int64_t kKeys = 65536, kQueries = 1024, kHeads = 2, kDim = 32;
  Context context;
  distributed::SequenceLengths lengths{kQueries, kKeys};
  std::int64_t q_rows = 0, k_rows = 0;
  std::vector<float> q, k, v, out;

  Sequence() {
    ContextOptions options;
    options.num_threads = 1;
    EXPECT_TRUE(Context::create(options, &context).ok());
    const auto count = [](std::int64_t length) {
      std::int64_t rows = 0;
      for (const auto& part :
           rows_of_rank(distributed::Distribution::zigzag, length, world_size(), world_rank()))
        rows += part.end - part.begin;
      return rows;
    };
    q_rows = count(kQueries), k_rows = count(kKeys);
    const auto size = [](std::int64_t rows) { return static_cast<std::size_t>(rows * kHeads * kDim); };
    q.assign(size(q_rows), 0.5f), k.assign(size(k_rows), 0.5f), v.assign(size(k_rows), 1.0f);
    out.assign(size(q_rows), -1.0f);
  }
  Status run(Algorithm algorithm, const distributed::Communicator& on = world()) {
    distributed::SequenceParallelArgs args;
    args.local.q = ConstTensor::bhsd(q.data(), 1, kHeads, q_rows, kDim);
    args.local.k = ConstTensor::bhsd(k.data(), 1, kHeads, k_rows, kDim);
    args.local.v = ConstTensor::bhsd(v.data(), 1, kHeads, k_rows, kDim);
    args.local.out = Tensor::bhsd(out.data(), 1, kHeads, q_rows, kDim);
    args.sequences = {&lengths, 1};
    args.is_automatic = false;
    args.algorithm = algorithm;
    args.block_keys = 1024;
    return distributed::attention_forward(context, on, args);
  }
};

TEST(Memory, IsTwoBlocksAndStates) {
  Sequence sequence;
  g_taken = 0;
  const Status status = sequence.run(Algorithm::ring);
  ASSERT_TRUE(status.ok()) << status.message();
  const std::size_t taken = g_taken;
  EXPECT_TRUE(std::all_of(sequence.out.begin(), sequence.out.end(),
                          [](float x) { return x > 0.999f && x < 1.001f; }));
  const std::size_t block = 1024 * Sequence::kHeads * 2 * Sequence::kDim * sizeof(float),
                    states = static_cast<std::size_t>(sequence.q_rows) * Sequence::kHeads *
                             (Sequence::kDim + 2) * 4,
                    tables = 1 << 20;
  EXPECT_LE(taken, 2 * block + states + tables);
  EXPECT_LT(taken, Sequence::kKeys * Sequence::kHeads * 2 * Sequence::kDim * sizeof(float) / 8);  // all keys
}

TEST(Memory, ThatOneRankHasNotIsAStatusOnAll) {
  for (const Algorithm algorithm : {Algorithm::ring, Algorithm::head_parallel}) {
    if (algorithm == Algorithm::head_parallel && world_size() > Sequence::kHeads) continue;
    Sequence sequence;
    distributed::Communicator fresh;  // which has no memory from earlier calls
    ASSERT_TRUE(distributed::Communicator::create(MPI_COMM_WORLD, {}, &fresh).ok());
    const int last = world_size() - 1;
    if (world_rank() == last) g_limit = 500000;
    const Status status = sequence.run(algorithm, fresh);
    g_limit = SIZE_MAX;
    EXPECT_EQ(status.code(), Code::out_of_memory) << status.message();
    EXPECT_EQ(status.message(), "on rank " + std::to_string(last) + ": out of memory");
    EXPECT_TRUE(same_on_all_ranks(status));
    EXPECT_TRUE(std::all_of(sequence.out.begin(), sequence.out.end(), [](float x) { return x == -1.0f; }));
    const Status again = sequence.run(algorithm, fresh);
    EXPECT_TRUE(again.ok()) << again.message();
  }
}

}  // namespace
}  // namespace kumiko::test

int main(int argc, char** argv) {
  return kumiko::test::run_tests_on_ranks(argc, argv);
}
