// SPDX-License-Identifier: Apache-2.0
// The pipelines on one core, each a fraction of the ISA's FMA peak and each checked first:
//
//   pv_<pipeline>_<rows>_n<keys>_d<dim>  softmax of precomputed scores times V, V in panels beforehand: the
//                                        tables of the A64FX kernels this library grew from. <rows>: m12 (12
//                                        rows), t1 or t4 (one or four query tiles)
//   pv_phases_<rows>_n<keys>_d<dim>      the same, phase by phase, in the order of three_pass
//   pv_block_n<keys>_d<dim>              one block of keys in the middle of a row
//   attention_<pipeline>_d<dim>_<len>    attention_forward, Q K^T on the fly
//   fused_gemm_d<dim>_<len>              fused_gemm: the public call, packing and all
#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "bench/benchmark_rounds.h"
#include "bench/data_pool.h"
#include "bench/machine_peak.h"
#include "bench/problem.h"
#include "kernels/pipelines/walk.h"
#include "runtime/tuning.h"
#include "scheduler/topology.h"

namespace kumiko::bench {
namespace {

using kernels::kBlockKeys;
using kernels::kSplitKeys;

constexpr double kWindow = 25e-3;
/// Scores between two rows. Rows of a power of two fall into the same sets of the caches: 32768 keys, D =
/// 256, one tile, interleaved, 0.79 of peak without (AVX2 0.75) and 0.85 with (0.86).
constexpr std::int64_t kPadding = 64;

std::vector<int> first_core() {
  static const std::vector<int> core = {allowed_cores().front()};
  return core;
}

std::int64_t l2_bytes() {
  std::string why;
  static const auto topology = scheduler::discover_topology("", {}, why);
  return topology ? topology->domains.front().l2_bytes_per_core : 0;
}

/// Memory of T in large pages, if the system has any: as 4 KiB pages, 48 rows of scores and the panels of V
/// would be more than a virtual machine's TLB holds.
template <class T>
class Aligned {
 public:
  explicit Aligned(std::int64_t n) {
    const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(T);
    std::size_t space = bytes + kLargePage;
    storage_ =
        std::make_unique_for_overwrite<std::byte[]>(space);  // untouched, so that its pages can be large
    void* start = storage_.get();
    data_ = static_cast<T*>(std::align(kLargePage, bytes, start, space));
    ::madvise(data_, bytes, MADV_HUGEPAGE);
    std::uninitialized_default_construct_n(data_, n);
  }
  T* data() const { return data_; }
  T& operator[](std::int64_t i) const { return data_[i]; }

 private:
  static constexpr std::size_t kLargePage = std::size_t{1} << 21;
  std::unique_ptr<std::byte[]> storage_;
  T* data_;
};

struct Rows {
  const char* name;
  std::int64_t rows, tiles;  ///< one of them is 0
};
constexpr Rows kTwelve{"m12", 12, 0}, kOneTile{"t1", 0, 1}, kFourTiles{"t4", 0, 4};

/// Scores [rows][keys] and V, as panels and as rows.
struct ScoresAndValues {
  kernels::KernelSet kernels;
  std::int64_t rows, keys, dim, stride;
  Aligned<float> scores, values, panels, out;
  kernels::HeadProblem head{};
  kernels::TaskRange range{};
  std::unique_ptr<Aligned<std::byte>> scratch;

  ScoresAndValues(kernels::Isa isa, const char* pipeline, Rows row_count, std::int64_t key_count,
                  std::int64_t dims)
      : kernels(*kernels::kernel_set(isa, {})),
        rows(row_count.rows + row_count.tiles * kernels.max_nr),
        keys(key_count),
        dim(dims),
        stride(key_count + kPadding),
        scores(rows * stride),
        values(keys * dim),
        panels(keys * kernels::round_up(dim, kernels.mr)),
        out(rows * dim) {
    Random random(0x9e3779b97f4a7c15ull);
    for (std::int64_t i = 0; i < rows * stride; ++i) scores[i] = 3 * random.uniform();
    for (std::int64_t i = 0; i < keys * dim; ++i) values[i] = random.uniform();
    for (std::int64_t at = 0; at < keys; at += kBlockKeys) {
      kernels.pack->value({&values[at * dim], dim, kernels::min_of(kBlockKeys, keys - at), dim,
                           &panels[at * kernels::round_up(dim, kernels.mr)]});
    }
    const CoreTuning core = core_tuning(kernels::host_core(), isa);
    fit_kernels(core, {}, &kernels);
    const Tuning tuning = tune(core, kernels, {}, rows, core.decode_rows, 0, dim, l2_bytes(), pipeline);
    kernels.staged_splits = tuning.staged_splits;
    head.out = out.data();
    head.v = {values.data(), dim};
    head.out_seq_stride = dim;
    head.group = 1;
    head.q_len = rows;
    head.kv_len = head.end_offset = keys;
    head.begin_offset = -rows;
    head.v_head_dim = dim;
    head.q_scale = kernels::kLog2e;
    head.scores = scores.data();
    head.scores_seq_stride = stride;
    head.value_panels = panels.data();
    range = {0, rows, 0, (keys + kSplitKeys - 1) / kSplitKeys, nullptr, 0, 0, 0};
    scratch = std::make_unique<Aligned<std::byte>>(
        static_cast<std::int64_t>(tuning.pipeline->scratch_bytes(kernels, rows, 0, dim)));
  }

  double flops() const { return 2.0 * static_cast<double>(rows * keys * dim); }
  void poison() const { std::fill_n(out.data(), rows * dim, NAN); }
  bool right() const {
    for (const std::int64_t row : {std::int64_t{0}, rows / 2, rows - 1}) {
      std::vector<double> sum(static_cast<std::size_t>(dim), 0.0);
      double total = 0;
      for (std::int64_t j = 0; j < keys; ++j) {
        const double p = std::exp(static_cast<double>(scores[row * stride + j]));
        total += p;
        for (std::int64_t d = 0; d < dim; ++d)
          sum[static_cast<std::size_t>(d)] += p * static_cast<double>(values[j * dim + d]);
      }
      for (std::int64_t d = 0; d < dim; ++d) {
        const double error =
            sum[static_cast<std::size_t>(d)] / total - static_cast<double>(out[row * dim + d]);
        if (!(std::abs(error) <= 1e-5)) return false;
      }
    }
    return true;
  }
};

/// Measures `run` in rounds against the FMA peak. `right()` checks its answer before and after.
template <class Run, class Poison, class Right>
void judge(benchmark::State& state, kernels::Isa isa, double flops, Run run, Poison poison, Right right) {
  const FmaRow* peak = find_fma_row(kernels::name(isa));
  if (!peak) return state.SkipWithError("machine_peak has no row for this ISA");
  poison();
  run();
  if (!right()) return state.SkipWithError("wrong answer");
  report_compute(state, measure_rounds(
                            state, flops, [&] { return seconds_per_call(kWindow, thread_seconds, run); },
                            [&] { return fma_flops(*peak, first_core(), kFmaWindow, Clock::cpu); }));
  if (!right()) state.SkipWithError("wrong answer after the measurement");
}

void softmax_pv_task(benchmark::State& state, kernels::Isa isa, const std::string& pipeline, Rows rows,
                     std::int64_t keys, std::int64_t dim) {
  ScoresAndValues data(isa, pipeline.c_str(), rows, keys, dim);
  const kernels::PipelineRow* row = kernels::find_pipeline(pipeline.c_str());
  judge(
      state, isa, data.flops(), [&] { row->run(data.kernels, data.head, data.range, data.scratch->data()); },
      [&] { data.poison(); }, [&] { return data.right(); });
}

/// A tile's two passes over one block, kBlocks times into the same state: the cost of a block far from the
/// ends of a row, with V in the L2. The softmax over copies of the keys equals that over the keys.
void softmax_pv_blocks(benchmark::State& state, kernels::Isa isa, std::int64_t keys, std::int64_t dim) {
  constexpr int kBlocks = 32;
  const ScoresAndValues data(isa, "two_pass", kOneTile, keys, dim);
  kernels::Walk walk(data.kernels, data.rows, 0, dim, 1, data.scratch->data());
  walk.begin(data.head, data.range);
  const kernels::Walk::Keys all = walk.keys_of(0);
  kernels::Block block = walk.block_at(0, all);
  walk.pack_values(block);
  judge(
      state, isa, data.flops() * kBlocks,
      [&] {
        walk.begin(data.head, data.range);
        walk.begin_split(0);
        for (int i = 0; i < kBlocks; ++i) {
          walk.score(walk.tile(0), block, walk.slot(0));
          walk.exponentiate(walk.tile(0), walk.slot(0), 0);
          walk.add_values(walk.tile(0), block, walk.slot(0));
        }
        walk.end_split(0, 0);
        walk.finish();
      },
      [&] { data.poison(); }, [&] { return data.right(); });
}

/// three_pass with a clock between its phases.
struct Phases {
  double scores = 0, exp2 = 0, gemm = 0, normalize = 0;
};
void run_phases(const ScoresAndValues& data, Phases* phases) {
  const auto lap = [last = now()](double* phase) mutable {
    const double at = now();
    *phase += at - last;
    last = at;
  };
  const std::int64_t staged = data.kernels.staged_splits, split_blocks = kSplitKeys / kBlockKeys;
  kernels::Walk walk(data.kernels, data.rows, 0, data.dim,
                     staged * split_blocks * kernels::Walk::tiles_of(data.kernels, data.rows),
                     data.scratch->data());
  auto timer = lap;
  walk.begin(data.head, data.range);
  const auto each = [&](std::int64_t first, auto step) {
    for (std::int64_t split = first; split < std::min(first + staged, data.range.split_end); ++split) {
      const kernels::Walk::Keys keys = walk.keys_of(split);
      std::int64_t slot = (split - first) * split_blocks * walk.tile_count();
      for (std::int64_t at = keys.first_block(); at < keys.to; at += kBlockKeys) {
        kernels::Block block = walk.block_at(at, keys);
        for (std::int64_t t = 0; t < walk.tile_count(); ++t)
          step(split, at == keys.first_block(), at + kBlockKeys >= keys.to, block, t, walk.slot(slot++));
      }
    }
  };
  for (std::int64_t first = 0; first < data.range.split_end; first += staged) {
    each(first, [&](std::int64_t, bool, bool, kernels::Block& block, std::int64_t t, kernels::Slot& slot) {
      walk.score(walk.tile(t), block, slot);
    });
    timer(&phases->scores);
    each(first,
         [&](std::int64_t split, bool opens, bool, kernels::Block&, std::int64_t t, kernels::Slot& slot) {
           if (opens && t == 0) walk.begin_sums(split - first);
           walk.exponentiate(walk.tile(t), slot, split - first);
         });
    timer(&phases->exp2);
    each(first, [&](std::int64_t split, bool opens, bool closes, kernels::Block& block, std::int64_t t,
                    kernels::Slot& slot) {
      if (opens && t == 0) walk.begin_values();
      walk.pack_values(block);
      walk.add_values(walk.tile(t), block, slot);
      if (closes && t + 1 == walk.tile_count()) walk.end_split(split, split - first);
    });
    timer(&phases->gemm);
  }
  walk.finish();
  timer(&phases->normalize);
}

void softmax_pv_phases(benchmark::State& state, kernels::Isa isa, Rows rows, std::int64_t keys,
                       std::int64_t dim) {
  ScoresAndValues data(isa, "three_pass", rows, keys, dim);
  const FmaRow* peak = find_fma_row(kernels::name(isa));
  if (!peak) return state.SkipWithError("machine_peak has no row for this ISA");
  data.poison();
  Phases warm;
  run_phases(data, &warm);
  if (!data.right()) return state.SkipWithError("wrong answer");
  // Uses wall time, which costs less to read than the thread's CPU time; medians over single runs leave out
  // those in which another process had the core.
  std::vector<double> scores, exp2, gemm, normalize, fractions;
  for (auto _ : state) {
    std::vector<double> gemm_here;
    const double before = fma_flops(*peak, first_core(), kFmaWindow, Clock::cpu);
    const double seconds = seconds_per_call(kWindow, thread_seconds, [&] {
      Phases run;
      run_phases(data, &run);
      scores.push_back(run.scores);
      exp2.push_back(run.exp2);
      gemm_here.push_back(run.gemm);
      normalize.push_back(run.normalize);
    });
    const double after = fma_flops(*peak, first_core(), kFmaWindow, Clock::cpu);
    gemm.push_back(median(gemm_here));
    fractions.push_back(data.flops() / gemm.back() / (0.5 * (before + after)));
    state.SetIterationTime(seconds);
  }
  if (!data.right()) return state.SkipWithError("wrong answer after the measurement");
  const double ns = 1e9 / static_cast<double>(data.rows * data.keys);
  state.counters["max_ns"] = median(scores) * ns;
  state.counters["exp2_ns"] = median(exp2) * ns;
  state.counters["gemm_ns"] = median(gemm) * ns;
  state.counters["normalize_ns"] = median(normalize) * ns;
  state.counters["gemm_fraction"] = median(fractions);
}

Context context_of(kernels::Isa isa) {
  ContextOptions options;
  options.isa = kernels::name(isa);
  options.num_threads = 1;
  options.cpus = std::to_string(first_core().front());
  Context context;
  const Status status = Context::create(options, &context);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.message().c_str());
  return context;
}

void attention(benchmark::State& state, kernels::Isa isa, Pipeline pipeline, const Shape& shape) {
  Problem problem(shape);
  const Context context = context_of(isa);
  AttentionArgs args = problem.args(0);
  args.pipeline = pipeline;
  Plan prepared;
  Status status = context ? plan(context, args, &prepared) : Status(Code::internal, "no context");
  std::string error = status.message();
  judge(
      state, isa, problem.useful_flops(),
      [&] {
        if (error.empty()) error = prepared.run(args).message();
      },
      [&] { problem.poison(); }, [&] { return error.empty() && problem.check(0).empty(); });
}

/// One head of `length` queries and keys.
void fused(benchmark::State& state, kernels::Isa isa, std::int64_t dim, std::int64_t length) {
  const Context context = context_of(isa);
  Aligned<float> q(length * dim), k(length * dim), v(length * dim), out(length * dim);
  Random random(0xd1b54a32d192ed03ull);
  for (std::int64_t i = 0; i < length * dim; ++i)
    q[i] = random.uniform(), k[i] = random.uniform(), v[i] = random.uniform();
  FusedGemmArgs args;
  args.q = ConstTensor::bhsd(q.data(), 1, 1, length, dim);
  args.k = ConstTensor::bhsd(k.data(), 1, 1, length, dim);
  args.v = ConstTensor::bhsd(v.data(), 1, 1, length, dim);
  args.out = Tensor::bhsd(out.data(), 1, 1, length, dim);
  args.scale = 1.0f / static_cast<float>(dim);
  std::string error = context ? "" : "no context";
  const auto right = [&] {
    for (const std::int64_t row : {std::int64_t{0}, length / 2 + 1, length - 1}) {
      std::vector<double> sum(static_cast<std::size_t>(dim), 0.0);
      double size = 0;
      for (std::int64_t j = 0; j < length; ++j) {
        double score = 0;
        for (std::int64_t d = 0; d < dim; ++d)
          score += static_cast<double>(q[row * dim + d]) * static_cast<double>(k[j * dim + d]);
        score /= static_cast<double>(dim);
        size += std::abs(score);
        for (std::int64_t d = 0; d < dim; ++d)
          sum[static_cast<std::size_t>(d)] += score * static_cast<double>(v[j * dim + d]);
      }
      for (std::int64_t d = 0; d < dim; ++d) {
        const double error_of = sum[static_cast<std::size_t>(d)] - static_cast<double>(out[row * dim + d]);
        if (!(std::abs(error_of) <= 1e-6 * size)) return false;
      }
    }
    return error.empty();
  };
  judge(
      state, isa, 4.0 * static_cast<double>(length * length * dim),
      [&] {
        if (error.empty()) error = fused_gemm(context, args).message();
      },
      [&] { std::fill_n(out.data(), length * dim, NAN); }, right);
}

template <class Body>
void add(const std::string& what, kernels::Isa isa, Body body) {
  benchmark::RegisterBenchmark((what + "/" + kernels::name(isa) + "/t1").c_str(), body)
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond)
      ->Iterations(kRounds);
}

void add_pv(kernels::Isa isa, const std::vector<std::string>& pipelines, Rows rows, std::int64_t keys,
            std::int64_t dim) {
  const std::string shape =
      std::string("_") + rows.name + "_n" + std::to_string(keys) + "_d" + std::to_string(dim);
  for (const std::string& pipeline : pipelines) {
    add("pv_" + pipeline + shape, isa,
        [=](benchmark::State& state) { softmax_pv_task(state, isa, pipeline, rows, keys, dim); });
  }
  add("pv_phases" + shape, isa,
      [=](benchmark::State& state) { softmax_pv_phases(state, isa, rows, keys, dim); });
}

void register_all() {
  for (const kernels::Isa isa : {kernels::Isa::avx512, kernels::Isa::avx2, kernels::Isa::neon}) {
    if (!(kernels::host_isas() & kernels::bit(isa)) || !kernels::kernel_set(isa, {})) continue;
    for (const std::int64_t dim : {64, 128, 256, 512}) {
      add_pv(isa, {"two_pass"}, kOneTile, 256, dim);
      add("pv_block_n256_d" + std::to_string(dim), isa,
          [=](benchmark::State& state) { softmax_pv_blocks(state, isa, 256, dim); });
    }
    for (const std::int64_t keys : {4096, 8192, 16384, 32768})
      for (const Rows rows : {kFourTiles, kOneTile, kTwelve})
        add_pv(isa, {"two_pass", "interleaved", "three_pass", "online"}, rows, keys, 256);
    for (const auto& [pipeline, name] :
         {std::pair{Pipeline::online, "online"}, std::pair{Pipeline::two_pass, "two_pass"},
          std::pair{Pipeline::interleaved, "interleaved"}, std::pair{Pipeline::three_pass, "three_pass"}}) {
      for (const std::int64_t dim : {64, 128, 256}) {
        const Shape shape{"", 1, 8, 8, 1024, 1024, dim, dim};
        add(std::string("attention_") + name + "_d" + std::to_string(dim) + "_1024", isa,
            [=, chosen = pipeline](benchmark::State& state) { attention(state, isa, chosen, shape); });
      }
    }
    for (const std::int64_t dim : {128, 256})
      for (const std::int64_t length : {1024, 2048, 4096})
        add("fused_gemm_d" + std::to_string(dim) + "_" + std::to_string(length), isa,
            [=](benchmark::State& state) { fused(state, isa, dim, length); });
  }
}

}  // namespace
}  // namespace kumiko::bench

int main(int argc, char** argv) {
  kumiko::bench::register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  const kumiko::bench::ScopedAffinity affinity(kumiko::bench::first_core());
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
