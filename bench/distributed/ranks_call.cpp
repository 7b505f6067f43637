// SPDX-License-Identifier: Apache-2.0
// Under mpirun, two ranks: calls over both, against calls of one process with as many threads, in turns.
// Rank 0 prints one JSON object of seconds: medians of the rounds. The answers are compared first, to the
// bit.
//
//   ranks_call prefill|decode KEYS [ROUNDS [BLOCK_KEYS]]
#include <kumiko/distributed.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "bench/rounds.h"

namespace kumiko::bench {
namespace {

using distributed::Communicator;
using distributed::SequenceLengths;

[[noreturn]] void fail(const std::string& text) {
  std::fprintf(stderr, "%s\n", text.c_str());
  MPI_Abort(MPI_COMM_WORLD, 1);
  std::abort();
}
void check(const Status& status) {
  if (!status.ok()) fail(status.message());
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Waits for the other rank without taking a core from it.
void quiet_barrier() {
  MPI_Request request;
  MPI_Ibarrier(MPI_COMM_WORLD, &request);
  for (int done = 0; !done; usleep(200)) MPI_Test(&request, &done, MPI_STATUS_IGNORE);
}

std::vector<float> drawn(std::int64_t count, std::uint64_t seed) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    value = static_cast<float>(static_cast<std::int64_t>(seed >> 33) - (std::int64_t{1} << 30)) * 0x1p-30f;
  }
  return values;
}

/// One problem: alone on rank 0, and over both ranks.
struct Workload {
  std::vector<float> q, k, v, out, local_q, local_k, local_v, local_out;
  std::vector<std::int32_t> table;
  std::int32_t length = 0;
  SequenceLengths lengths;
  std::function<Status(const Context&)> alone;
  std::function<Status(const Context&, const Communicator&)> together;
  std::function<bool()> is_right;
};

/// Causal, 8 heads of 128: rows dealt in zigzag.
void make_prefill(std::int64_t keys, std::int64_t block_keys, const Communicator& communicator, Workload* w) {
  constexpr std::int64_t kHeads = 8, kDim = 128;
  w->lengths = {keys, keys};
  w->q = drawn(kHeads * keys * kDim, 1), w->k = drawn(kHeads * keys * kDim, 2),
  w->v = drawn(kHeads * keys * kDim, 3);
  w->out.resize(w->q.size());
  const auto rows =
      rows_of_rank(distributed::Distribution::zigzag, keys, communicator.size(), communicator.rank());
  const auto gather = [rows, keys](const std::vector<float>& from) {
    std::vector<float> to;
    for (std::int64_t h = 0; h < kHeads; ++h) {
      for (const auto& part : rows)
        to.insert(to.end(), from.begin() + (h * keys + part.begin) * kDim,
                  from.begin() + (h * keys + part.end) * kDim);
    }
    return to;
  };
  w->local_q = gather(w->q), w->local_k = gather(w->k), w->local_v = gather(w->v);
  w->local_out.resize(w->local_q.size());
  w->alone = [w, keys](const Context& context) {
    AttentionArgs a;
    a.q = ConstTensor::bhsd(w->q.data(), 1, kHeads, keys, kDim);
    a.k = ConstTensor::bhsd(w->k.data(), 1, kHeads, keys, kDim);
    a.v = ConstTensor::bhsd(w->v.data(), 1, kHeads, keys, kDim);
    a.out = Tensor::bhsd(w->out.data(), 1, kHeads, keys, kDim);
    a.is_causal = true;
    return attention_forward(context, a);
  };
  w->together = [w, block_keys](const Context& context, const Communicator& on) {
    const auto count = static_cast<std::int64_t>(w->local_q.size()) / (kHeads * kDim);
    distributed::SequenceParallelArgs args;
    AttentionArgs& a = args.local;
    a.q = ConstTensor::bhsd(w->local_q.data(), 1, kHeads, count, kDim);
    a.k = ConstTensor::bhsd(w->local_k.data(), 1, kHeads, count, kDim);
    a.v = ConstTensor::bhsd(w->local_v.data(), 1, kHeads, count, kDim);
    a.out = Tensor::bhsd(w->local_out.data(), 1, kHeads, count, kDim);
    a.is_causal = true;
    args.sequences = {&w->lengths, 1};
    args.is_automatic = false;
    args.algorithm = distributed::Algorithm::ring;
    args.block_keys = block_keys;
    return distributed::attention_forward(context, on, args);
  };
  w->is_right = [w, gather] { return gather(w->out) == w->local_out; };
}

/// One query of 32 heads over 8 KV heads of 128, keys in pages of 512.
void make_decode(std::int64_t keys, const Communicator& communicator, Workload* w) {
  constexpr std::int64_t kHeads = 32, kKvHeads = 8, kDim = 128, kPage = 512;
  const std::int64_t pages = (keys + kPage - 1) / kPage, ranks = communicator.size();
  constexpr std::int64_t kPageFloats = kKvHeads * kPage * kDim;
  w->length = static_cast<std::int32_t>(keys);
  w->q = drawn(kHeads * kDim, 1), w->k = drawn(pages * kPageFloats, 2), w->v = drawn(pages * kPageFloats, 3);
  w->out.resize(w->q.size()), w->local_out.resize(w->q.size());
  for (std::int32_t page = 0; page < pages; ++page) {
    w->table.push_back(page % ranks == communicator.rank() ? static_cast<std::int32_t>(page / ranks) : -1);
    if (w->table.back() < 0) continue;
    for (auto [from, to] : {std::pair{&w->k, &w->local_k}, std::pair{&w->v, &w->local_v}})
      to->insert(to->end(), from->begin() + page * kPageFloats, from->begin() + (page + 1) * kPageFloats);
  }
  const auto args = [=](std::vector<float>& k, std::vector<float>& v, std::vector<float>& out) {
    AttentionArgs a;
    const std::int64_t count = static_cast<std::int64_t>(k.size()) / kPageFloats;
    a.q = ConstTensor::bhsd(w->q.data(), 1, kHeads, 1, kDim);
    a.k = ConstTensor::bhsd(k.data(), count, kKvHeads, kPage, kDim);
    a.v = ConstTensor::bhsd(v.data(), count, kKvHeads, kPage, kDim);
    a.out = Tensor::bhsd(out.data(), 1, kHeads, 1, kDim);
    a.seqused_k = &w->length;
    a.max_pages = pages;
    return a;
  };
  w->alone = [=](const Context& context) {
    static std::vector<std::int32_t> all;
    all.resize(static_cast<std::size_t>(pages));
    for (std::int32_t page = 0; page < pages; ++page) all[static_cast<std::size_t>(page)] = page;
    AttentionArgs a = args(w->k, w->v, w->out);
    a.block_table = all.data();
    return attention_forward(context, a);
  };
  w->together = [=](const Context& context, const Communicator& on) {
    AttentionArgs a = args(w->local_k, w->local_v, w->local_out);
    a.block_table = w->table.data();
    return distributed::attention_forward(context, on, a);
  };
  w->is_right = [w] { return w->out == w->local_out; };
}

/// Half a round trip of 8 bytes.
double latency(int rank) {
  constexpr int kTrips = 200;
  double word = 0;
  MPI_Barrier(MPI_COMM_WORLD);
  const double begin = now();
  for (int i = 0; i < kTrips; ++i) {
    if (rank == 0) {
      MPI_Send(&word, 1, MPI_DOUBLE, 1, 0, MPI_COMM_WORLD);
      MPI_Recv(&word, 1, MPI_DOUBLE, 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    } else if (rank == 1) {
      MPI_Recv(&word, 1, MPI_DOUBLE, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
      MPI_Send(&word, 1, MPI_DOUBLE, 0, 0, MPI_COMM_WORLD);
    }
  }
  return (now() - begin) / kTrips / 2;
}

/// Of keys and values of half of the problem, in messages of 1 MiB from rank 1 to rank 0.
double sending(int rank, const Workload& workload) {
  constexpr int kMessage = 1 << 18;
  const int count = static_cast<int>((workload.k.size() + workload.v.size()) / 2 / kMessage);
  std::vector<float> memory(static_cast<std::size_t>(count) * kMessage);
  std::vector<MPI_Request> requests(static_cast<std::size_t>(count), MPI_REQUEST_NULL);
  MPI_Barrier(MPI_COMM_WORLD);
  const double begin = now();
  for (std::size_t i = 0; i < requests.size(); ++i) {
    float* const message = memory.data() + i * kMessage;
    if (rank == 0) MPI_Irecv(message, kMessage, MPI_FLOAT, 1, 0, MPI_COMM_WORLD, &requests[i]);
    if (rank == 1) MPI_Isend(message, kMessage, MPI_FLOAT, 0, 0, MPI_COMM_WORLD, &requests[i]);
  }
  MPI_Waitall(count, requests.data(), MPI_STATUSES_IGNORE);
  return now() - begin;
}

Context context_on(const std::string& cpus, int threads) {
  ContextOptions options;
  options.cpus = cpus;
  options.num_threads = threads;
  Context made;
  check(Context::create(options, &made));
  return made;
}

/// Of one process, while the other rank sleeps.
double seconds_of_alone(const Workload& workload, const Context& context) {
  return seconds_per_call(0.3, now, [&] { check(workload.alone(context)); });
}

int run(int argc, char** argv) {
  if (argc < 3) fail("ranks_call prefill|decode KEYS [ROUNDS [BLOCK_KEYS]]");
  const std::string what = argv[1];
  const std::int64_t keys = std::atoll(argv[2]);
  const int rounds = argc > 3 ? std::atoi(argv[3]) : 5;
  Communicator communicator;
  check(Communicator::create(MPI_COMM_WORLD, {}, &communicator));
  const int rank = communicator.rank();
  const Context own = context_on(std::to_string(rank), 1),
                both = context_on("0-" + std::to_string(communicator.size() - 1), communicator.size());
  Workload workload;
  if (what == "prefill")
    make_prefill(keys, argc > 4 ? std::atoll(argv[4]) : 0, communicator, &workload);
  else
    make_decode(keys, communicator, &workload);

  check(workload.alone(own));
  check(workload.together(own, communicator));
  if (!workload.is_right()) fail("the answer of two ranks has other bits than that of one");

  const auto seconds_of = [&](const std::function<void()>& call, double window) {
    // All ranks make as many calls as rank 0 finds fitting.
    const double begin = now();
    call();
    double once = now() - begin;
    MPI_Bcast(&once, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    const int calls = std::max(1, static_cast<int>(window / once));
    quiet_barrier();
    const double start = now();
    for (int i = 0; i < calls; ++i) call();
    return (now() - start) / calls;
  };
  std::vector<double> alone, together, latencies, sent;
  for (int round = 0; round < rounds; ++round) {
    quiet_barrier();
    if (rank == 0) alone.push_back(seconds_of_alone(workload, both));
    quiet_barrier();
    together.push_back(seconds_of([&] { check(workload.together(own, communicator)); }, 0.3));
    quiet_barrier();
    latencies.push_back(latency(rank));
    quiet_barrier();
    sent.push_back(sending(rank, workload));
  }
  if (rank == 0)
    std::printf("{\"alone\": %.9f, \"together\": %.9f, \"latency\": %.9f, \"sending\": %.9f}\n",
                median(alone), median(together), median(latencies), median(sent));
  return 0;
}

}  // namespace
}  // namespace kumiko::bench

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  const int status = kumiko::bench::run(argc, argv);
  MPI_Finalize();
  return status;
}
