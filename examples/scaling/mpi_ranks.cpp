// SPDX-License-Identifier: Apache-2.0
#include "mpi_ranks.h"

#include <kumiko/distributed.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <new>
#include <set>
#include <sstream>
#include <stdexcept>

#include "curve.h"
#include "results.h"
#include "workload.h"

namespace scaling {
namespace {

using kumiko::ConstTensor;
using kumiko::distributed::Communicator;

// Ends the job: other ranks may be waiting for this one.
[[noreturn]] void end_job(const std::string& what) {
  std::cerr << what << std::endl;
  MPI_Abort(MPI_COMM_WORLD, 1);
  throw std::runtime_error(what);
}
void check(const kumiko::Status& status) {
  if (!status.ok()) end_job(status.message());
}

// One call over the ranks of a communicator, on this rank's part of it.
class Call {
 public:
  Call(Mode mode, const Options& options, const kumiko::Context& context, const Communicator& ranks)
      : context_(context), ranks_(ranks), group_(options.q_heads / options.kv_heads), dim_(options.head_dim) {
    const std::int64_t share = mode == Mode::weak ? ranks.size() : 1;
    if (options.workload == "prefill")
      make_prefill(options, mode == Mode::weak ? share : options.kv_heads);
    else
      make_decode(options, options.batch * share);
  }
  kumiko::Status run() const {
    if (is_prefill_) return kumiko::distributed::attention_forward(context_, ranks_, prefill_);
    return kumiko::distributed::attention_forward(context_, ranks_, decode_);
  }
  double flops() const { return flops_; }
  double kv_bytes() const { return kv_bytes_; }

 private:
  void make_prefill(const Options& options, std::int64_t kv_heads) {
    is_prefill_ = true;
    lengths_ = {options.tokens, options.tokens};
    prefill_.distribution = options.distribution == "contiguous"
                                ? kumiko::distributed::Distribution::contiguous
                            : options.distribution == "cyclic" ? kumiko::distributed::Distribution::cyclic
                                                               : kumiko::distributed::Distribution::zigzag;
    std::int64_t rows = 0;
    for (const auto& part : rows_of_rank(prefill_.distribution, options.tokens, ranks_.size(), ranks_.rank()))
      rows += part.end - part.begin;
    const std::int64_t heads = kv_heads * group_;
    q_ = noise(heads * rows * dim_, 1), k_ = noise(kv_heads * rows * dim_, 2),
    v_ = noise(kv_heads * rows * dim_, 3);
    out_.resize(q_.size());
    kumiko::AttentionArgs& a = prefill_.local;
    a.q = ConstTensor::bhsd(q_.data(), 1, heads, rows, dim_);
    a.k = ConstTensor::bhsd(k_.data(), 1, kv_heads, rows, dim_);
    a.v = ConstTensor::bhsd(v_.data(), 1, kv_heads, rows, dim_);
    a.out = kumiko::Tensor::bhsd(out_.data(), 1, heads, rows, dim_);
    a.is_causal = true;
    prefill_.sequences = {&lengths_, 1};
    prefill_.is_automatic = options.algorithm == "fastest";
    for (const auto algorithm : kumiko::distributed::kAlgorithms) {
      if (options.algorithm == kumiko::distributed::name(algorithm)) prefill_.algorithm = algorithm;
    }
    const auto tokens = static_cast<double>(options.tokens);
    flops_ = 2 * tokens * (tokens + 1) * static_cast<double>(dim_ * heads);
    kv_bytes_ = 2 * tokens * static_cast<double>(dim_ * kv_heads) * sizeof(float);
  }
  // Splits of 512 keys lie on the ranks in turn, each a page.
  void make_decode(const Options& options, std::int64_t batch) {
    const std::int64_t splits = (options.tokens + 511) / 512,
                       own = (splits - ranks_.rank() + ranks_.size() - 1) / ranks_.size(),
                       pages = std::max<std::int64_t>(own * batch, 1), page = options.kv_heads * 512 * dim_;
    q_ = noise(batch * options.q_heads * dim_, 1), k_ = noise(pages * page, 2), v_ = noise(pages * page, 3);
    out_.resize(q_.size());
    used_.assign(static_cast<std::size_t>(batch), static_cast<std::int32_t>(options.tokens));
    for (std::int64_t b = 0, next = 0; b < batch; ++b) {
      for (std::int64_t split = 0; split < splits; ++split)
        table_.push_back(split % ranks_.size() == ranks_.rank() ? static_cast<std::int32_t>(next++) : -1);
    }
    kumiko::AttentionArgs& a = decode_;
    a.q = ConstTensor::bhsd(q_.data(), batch, options.q_heads, 1, dim_);
    a.k = ConstTensor::bhsd(k_.data(), pages, options.kv_heads, 512, dim_);
    a.v = ConstTensor::bhsd(v_.data(), pages, options.kv_heads, 512, dim_);
    a.out = kumiko::Tensor::bhsd(out_.data(), batch, options.q_heads, 1, dim_);
    a.is_causal = true;
    a.seqused_k = used_.data();
    a.block_table = table_.data();
    a.max_pages = splits;
    const auto keys = static_cast<double>(batch * options.tokens);
    flops_ = 4 * keys * static_cast<double>(dim_ * options.q_heads);
    kv_bytes_ = 2 * keys * static_cast<double>(dim_ * options.kv_heads) * sizeof(float);
  }

  const kumiko::Context& context_;
  const Communicator& ranks_;
  const std::int64_t group_, dim_;
  bool is_prefill_ = false;
  kumiko::distributed::SequenceLengths lengths_;
  kumiko::distributed::SequenceParallelArgs prefill_;
  kumiko::AttentionArgs decode_;
  std::vector<float> q_, k_, v_, out_;
  std::vector<std::int32_t> used_, table_;
  double flops_ = 0, kv_bytes_ = 0;
};

// The fastest of many runs, each as long as its slowest rank; rank 0 says how many.
double measure(const Call& call, MPI_Comm comm, double seconds) {
  using Steady = std::chrono::steady_clock;
  const auto since = [](Steady::time_point start) {
    return std::chrono::duration<double>(Steady::now() - start).count();
  };
  check(call.run());
  double best = 1e300;
  const auto start = Steady::now();
  for (int runs = 0, goes_on = 1; goes_on; ++runs) {
    MPI_Barrier(comm);
    const auto begin = Steady::now();
    check(call.run());
    double time = since(begin), slowest = 0;
    MPI_Allreduce(&time, &slowest, 1, MPI_DOUBLE, MPI_MAX, comm);
    best = std::min(best, slowest);
    goes_on = runs < 2 || since(start) < seconds;
    MPI_Bcast(&goes_on, 1, MPI_INT, 0, comm);
  }
  return best;
}

std::vector<Point> measure_all(Mode mode, const Options& options, std::vector<double>* work) {
  int rank = 0, size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  std::set<int> counts(options.ranks.begin(), options.ranks.end());
  for (int n = 1; options.ranks.empty() && n <= size; n = 2 * n > size && n < size ? size : 2 * n)
    counts.insert(n);
  kumiko::ContextOptions wanted;
  if (!options.threads.empty()) wanted.num_threads = options.threads.front();
  kumiko::Context context;
  check(kumiko::Context::create(wanted, &context));
  std::vector<Point> points;
  for (const int count : counts) {
    if (count > size)
      end_job("--ranks: " + std::to_string(count) + " is more than mpirun started, " + std::to_string(size));
    MPI_Comm comm = MPI_COMM_NULL;
    MPI_Comm_split(MPI_COMM_WORLD, rank < count ? 0 : MPI_UNDEFINED, rank, &comm);
    if (comm != MPI_COMM_NULL) {
      kumiko::distributed::Machine machine;
      if (options.link_gbps > 0) machine.link.bandwidth = options.link_gbps * 1e9;
      if (options.link_us >= 0) machine.link.latency_seconds = options.link_us * 1e-6;
      Communicator communicator;
      check(Communicator::create(comm, machine, &communicator));
      const Call call(mode, options, context, communicator);
      Point point;
      point.executor = "mpi";
      point.bind = "ranks";
      point.threads = count * context.num_threads();
      point.domains = count;
      point.seconds = measure(call, comm, options.seconds);
      point.gflops = call.flops() / point.seconds * 1e-9;
      point.gbps = call.kv_bytes() / point.seconds * 1e-9;
      points.push_back(point);
      work->push_back(mode == Mode::strong ? 1.0 : count);
    }
    if (comm != MPI_COMM_NULL) MPI_Comm_free(&comm);
    MPI_Barrier(MPI_COMM_WORLD);
  }
  return points;
}

}  // namespace

int run_mpi_ranks(Mode mode, const Options& options) {
  int provided = 0, rank = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (rank == 0 && check_results(options) != 0) MPI_Abort(MPI_COMM_WORLD, 1);
  std::vector<double> work;
  std::vector<Point> points;
  try {
    points = measure_all(mode, options, &work);
  } catch (const std::bad_alloc&) {
    end_job(kNoMemory);
  }
  int status = 0;
  if (rank == 0) {
    relate(points, work);
    std::ostringstream text;
    text << (mode == Mode::strong ? "strong" : "weak") << " scaling of " << options.workload
         << " over MPI ranks (the column domains)\n"
         << table(points);
    status = write_results(options, text.str(), json(points, options, mode, "MPI ranks"));
  }
  MPI_Finalize();
  return status;
}

}  // namespace scaling
