// SPDX-License-Identifier: Apache-2.0
// What a rank allocates: two blocks and its rows' states, never all keys. A rank that gets none of it is told
// of by all.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <fstream>
#include <new>
#include <string>

#include "tests/distributed/paged_decode.h"
#include "tests/distributed/ranks.h"

namespace {

std::atomic<std::size_t> g_limit{SIZE_MAX};  // a larger piece cannot be had
std::atomic<std::size_t> g_taken{0};         // by pieces of 64 KB and more, since it was set to 0
std::atomic<long> g_left{-1};                // so many pieces can be had before one cannot; negative: all

void* take(std::size_t bytes) {
  if (bytes >= g_limit || (g_left >= 0 && g_left.fetch_sub(1) == 0)) throw std::bad_alloc();
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
  Status run(Algorithm algorithm, const distributed::Communicator& on = world(),
             std::int64_t block_keys = 1024) {
    distributed::SequenceParallelArgs args;
    args.local.q = ConstTensor::bhsd(q.data(), 1, kHeads, q_rows, kDim);
    args.local.k = ConstTensor::bhsd(k.data(), 1, kHeads, k_rows, kDim);
    args.local.v = ConstTensor::bhsd(v.data(), 1, kHeads, k_rows, kDim);
    args.local.out = Tensor::bhsd(out.data(), 1, kHeads, q_rows, kDim);
    args.sequences = {&lengths, 1};
    args.is_automatic = false;
    args.algorithm = algorithm;
    args.block_keys = block_keys;
    return distributed::attention_forward(context, on, args);
  }
};

TEST(Memory, IsTwoBlocksAndStates) {
  Sequence sequence;
  g_taken = 0;
  const Status status = sequence.run(Algorithm::ring);
  ASSERT_TRUE(status.ok()) << status.message();
  const std::size_t taken = g_taken;
  EXPECT_TRUE(PagedDecode::all_are_one(sequence.out));
  const std::size_t block = 1024 * Sequence::kHeads * 2 * Sequence::kDim * sizeof(float),
                    states = static_cast<std::size_t>(sequence.q_rows) * Sequence::kHeads *
                             (Sequence::kDim + 2) * 4,
                    tables = 1 << 20;
  EXPECT_LE(taken, 2 * block + states + tables);
  EXPECT_LT(taken, Sequence::kKeys * Sequence::kHeads * 2 * Sequence::kDim * sizeof(float) / 8);  // all keys
}

/// The most memory that the process has had, in bytes, since reset_peak().
std::size_t peak() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::strtoull(line.c_str() + 6, nullptr, 10) * 1024;
  }
  return 0;
}
void reset_peak() {
  std::ofstream("/proc/self/clear_refs") << "5";
}

// As the kernel counts it, with the library's own scratch and MPI's buffers. 16 blocks of 512 keys unless
// asked otherwise: 4 MB here, where all keys have 33 MB.
TEST(Memory, PeakIsOfBlocksRatherThanOfAllKeys) {
  Sequence sequence;
  distributed::Communicator fresh;
  ASSERT_TRUE(distributed::Communicator::create(MPI_COMM_WORLD, {}, &fresh).ok());
  reset_peak();
  const std::size_t before = peak();
  ASSERT_GT(before, 0u);
  const Status status = sequence.run(Algorithm::ring, fresh, 0);
  ASSERT_TRUE(status.ok()) << status.message();
  constexpr std::size_t kRow = Sequence::kHeads * 2 * Sequence::kDim * sizeof(float),
                        kBlocks = 16 * 512 * kRow, kElse = 8 << 20;
  static_assert(kBlocks + kElse < Sequence::kKeys * kRow / 2);
  EXPECT_LE(peak() - before, kBlocks + kElse);
}

// Each piece of memory that a call takes fails on the last rank, in turn: nobody waits for ever, and all have
// the same code.
TEST(Memory, ThatCannotBeHadAtAnyTimeIsAStatusOnAll) {
  for (const Algorithm algorithm : {Algorithm::ring, Algorithm::broadcast, Algorithm::head_parallel}) {
    if (algorithm == Algorithm::head_parallel && world_size() > Sequence::kHeads) continue;
    int failures = 0;
    for (long n = 0;; n += 1 + n / 8) {
      Sequence sequence;
      distributed::Communicator fresh;
      ASSERT_TRUE(distributed::Communicator::create(MPI_COMM_WORLD, {}, &fresh).ok());
      MPI_Barrier(MPI_COMM_WORLD);  // a failure would end what a slower rank is still in
      if (world_rank() == world_size() - 1) g_left = n;
      const Status status = sequence.run(algorithm, fresh, 4096);
      const bool is_over = g_left > 0 || (g_left == 0 && status.ok());
      g_left = -1;
      int codes[2] = {static_cast<int>(status.code()), -static_cast<int>(status.code())}, all[2] = {0, 0};
      MPI_Allreduce(codes, all, 2, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
      EXPECT_EQ(all[0], -all[1]) << "piece " << n << ": " << status.message();
      EXPECT_TRUE(status.ok() || status.code() == Code::out_of_memory) << status.message();
      failures += !status.ok();
      int mine = is_over && world_rank() == world_size() - 1, over = 0;
      MPI_Allreduce(&mine, &over, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
      if (over) break;
    }
    EXPECT_GT(failures, 10);
  }
}

// The same over a cache, whose outputs are written where all ranks have succeeded, and nowhere else.
TEST(Memory, OfACacheThatCannotBeHadIsAStatusOnAll) {
  PagedDecode decode;
  ContextOptions options;
  options.num_threads = 1;
  Context context;
  ASSERT_TRUE(Context::create(options, &context).ok());
  int failures = 0;
  for (long n = 0;; ++n) {
    float lse[2] = {}, whole[2] = {};
    AttentionArgs args = decode.args();
    args.lse = {whole, {}};
    ASSERT_TRUE(attention_forward(context, args).ok());
    decode.clear();
    args.lse = {lse, {}};
    distributed::Communicator fresh;
    ASSERT_TRUE(distributed::Communicator::create(MPI_COMM_WORLD, {}, &fresh).ok());
    MPI_Barrier(MPI_COMM_WORLD);  // a failure would end what a slower rank is still in
    if (world_rank() == world_size() - 1) g_left = n;
    const Status status = distributed::attention_forward(context, fresh, args);
    int is_over = world_rank() == world_size() - 1 && g_left >= 0 && status.ok(), over = 0;
    g_left = -1;
    int codes[2] = {static_cast<int>(status.code()), -static_cast<int>(status.code())}, all[2] = {0, 0};
    MPI_Allreduce(codes, all, 2, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    EXPECT_EQ(all[0], -all[1]) << "piece " << n << ": " << status.message();
    EXPECT_TRUE(status.ok() || status.code() == Code::out_of_memory) << status.message();
    EXPECT_TRUE(status.ok() ? decode.is_right() : decode.is_untouched()) << "piece " << n;
    // Of all keys, those of a rank that failed among them.
    EXPECT_TRUE(!status.ok() || std::equal(lse, lse + 2, whole)) << "piece " << n;
    failures += !status.ok();
    MPI_Allreduce(&is_over, &over, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    if (over) break;
  }
  EXPECT_GT(failures, 10);
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
