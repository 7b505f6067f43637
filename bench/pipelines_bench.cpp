// The pipelines on one core. Three families, each a fraction of the ISA's FMA peak and each checked first:
//
//   pv_<pipeline>_m<rows>_n<keys>_d<dim>   softmax of precomputed scores times V, V in panels beforehand: the
//   tables
//                                          of the A64FX kernels this library grew from. m0: one query tile.
//   pv_phases_m..._n..._d...               the same, phase by phase, in the order of three_pass
//   attention_<pipeline>_d<dim>_<len>      attention_forward, Q K^T on the fly
//   fused_gemm_d<dim>_<len>                fused_gemm: the public call, packing and all
#include <benchmark/benchmark.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "bench/data_pool.h"
#include "bench/machine_peak.h"
#include "bench/problem.h"
#include "bench/rounds.h"
#include "kernels/pipelines/walk.h"
#include "runtime/tuning.h"
#include "scheduler/topology.h"

namespace kumiko::bench {
namespace {

using kernels::kBlockKeys;
using kernels::kSplitKeys;

constexpr double kWindow = 25e-3;

std::vector<int> first_core() {
  static const std::vector<int> core = {allowed_cores().front()};
  return core;
}

std::int64_t l2_bytes() {
  std::string why;
  static const auto topology = scheduler::discover_topology("", {}, why);
  return topology ? topology->domains.front().l2_bytes_per_core : 0;
}

/// 64-byte aligned memory of T.
template <class T>
class Aligned {
 public:
  explicit Aligned(std::int64_t n) : storage_(static_cast<std::size_t>(n) * sizeof(T) + 64) {
    void* start = storage_.data();
    std::size_t space = storage_.size();
    data_ = static_cast<T*>(std::align(64, static_cast<std::size_t>(n) * sizeof(T), start, space));
  }
  T* data() const { return data_; }
  T& operator[](std::int64_t i) const { return data_[i]; }

 private:
  std::vector<std::byte> storage_;
  T* data_;
};

/// Scores [rows][keys] and V, as panels and as rows.
struct ScoresAndValues {
  std::int64_t rows, keys, dim;
  kernels::KernelSet kernels;
  Aligned<float> scores, values, panels, out;
  kernels::HeadProblem head{};
  kernels::TaskRange range{};
  std::unique_ptr<Aligned<std::byte>> scratch;

  ScoresAndValues(kernels::Isa isa, const char* pipeline, std::int64_t rows_or_tile, std::int64_t key_count,
                  std::int64_t dims)
      : rows(rows_or_tile),
        keys(key_count),
        dim(dims),
        kernels(*kernels::kernel_set(isa, kernels::Element::f32, kernels::Element::f32)),
        scores((rows_or_tile ? rows_or_tile : kernels.max_nr) * keys),
        values(keys * dim),
        panels(keys * kernels::round_up(dim, kernels.mr)),
        out((rows_or_tile ? rows_or_tile : kernels.max_nr) * dim) {
    if (rows == 0) rows = kernels.max_nr;
    Random random(0x9e3779b97f4a7c15ull);
    for (std::int64_t i = 0; i < rows * keys; ++i) scores[i] = 3 * random.uniform();
    for (std::int64_t i = 0; i < keys * dim; ++i) values[i] = random.uniform();
    for (std::int64_t at = 0; at < keys; at += kBlockKeys) {
      kernels.pack->value({&values[at * dim], dim, kernels::min_of(kBlockKeys, keys - at), dim,
                           &panels[at * kernels::round_up(dim, kernels.mr)]});
    }
    const Tuning tuning = tune(kernels, rows, 0, dim, l2_bytes(), pipeline);
    kernels.pipe_ahead = tuning.pipe_ahead;
    kernels.staged_splits = tuning.staged_splits;
    head.out = out.data();
    head.v = values.data();
    head.v_seq_stride = head.out_seq_stride = dim;
    head.group = 1;
    head.q_len = rows;
    head.kv_len = head.end_offset = keys;
    head.begin_offset = -rows;
    head.v_head_dim = dim;
    head.q_scale = kernels::kLog2e;
    head.scores = scores.data();
    head.scores_seq_stride = keys;
    head.value_panels = panels.data();
    range = {0, rows, 0, (keys + kSplitKeys - 1) / kSplitKeys, nullptr, 0};
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
        const double p = std::exp(static_cast<double>(scores[row * keys + j]));
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

/// Runs `work` in rounds against the FMA peak; `right()` before and after.
template <class Run, class Poison, class Right>
void judge(benchmark::State& state, kernels::Isa isa, double flops, Run run, Poison poison, Right right) {
  const FmaRow* peak = find_fma_row(kernels::name(isa));
  if (!peak) return state.SkipWithError("machine_peak has no row for this ISA");
  poison();
  run();
  if (!right()) return state.SkipWithError("wrong answer");
  report_compute(state, measure_rounds(
                            state, flops, [&] { return seconds_per_call(kWindow, thread_seconds, run); },
                            [&] { return fma_flops(*peak, first_core(), kFmaWindow); }));
  if (!right()) state.SkipWithError("wrong answer after the measurement");
}

void softmax_pv_task(benchmark::State& state, kernels::Isa isa, const std::string& pipeline,
                     std::int64_t rows, std::int64_t keys, std::int64_t dim) {
  ScoresAndValues data(isa, pipeline.c_str(), rows, keys, dim);
  const kernels::PipelineRow* row = kernels::find_pipeline(pipeline.c_str());
  judge(
      state, isa, data.flops(), [&] { row->run(data.kernels, data.head, data.range, data.scratch->data()); },
      [&] { data.poison(); }, [&] { return data.right(); });
}

/// three_pass with a clock between its phases. Seconds of one run are added to `seconds`.
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

void softmax_pv_phases(benchmark::State& state, kernels::Isa isa, std::int64_t rows, std::int64_t keys,
                       std::int64_t dim) {
  ScoresAndValues data(isa, "three_pass", rows, keys, dim);
  const FmaRow* peak = find_fma_row(kernels::name(isa));
  if (!peak) return state.SkipWithError("machine_peak has no row for this ISA");
  data.poison();
  Phases warm;
  run_phases(data, &warm);
  if (!data.right()) return state.SkipWithError("wrong answer");
  std::vector<double> scores, exp2, gemm, normalize, fractions;
  for (auto _ : state) {
    Phases sum;
    std::int64_t runs = 0;
    const double before = fma_flops(*peak, first_core(), kFmaWindow);
    const double seconds = seconds_per_call(kWindow, thread_seconds, [&] {
      run_phases(data, &sum);
      ++runs;
    });
    const double after = fma_flops(*peak, first_core(), kFmaWindow);
    const double elements = static_cast<double>(data.rows * data.keys * runs);
    scores.push_back(sum.scores / elements * 1e9);
    exp2.push_back(sum.exp2 / elements * 1e9);
    gemm.push_back(sum.gemm / elements * 1e9);
    normalize.push_back(sum.normalize / elements * 1e9);
    fractions.push_back(data.flops() * static_cast<double>(runs) / sum.gemm / (0.5 * (before + after)));
    state.SetIterationTime(seconds);
  }
  if (!data.right()) return state.SkipWithError("wrong answer after the measurement");
  state.counters["max_ns"] = median(scores);
  state.counters["exp2_ns"] = median(exp2);
  state.counters["gemm_ns"] = median(gemm);
  state.counters["normalize_ns"] = median(normalize);
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

void add_pv(kernels::Isa isa, const std::vector<std::string>& pipelines, std::int64_t rows, std::int64_t keys,
            std::int64_t dim) {
  const std::string shape =
      "_m" + std::to_string(rows) + "_n" + std::to_string(keys) + "_d" + std::to_string(dim);
  for (const std::string& pipeline : pipelines) {
    add("pv_" + pipeline + shape, isa,
        [=](benchmark::State& state) { softmax_pv_task(state, isa, pipeline, rows, keys, dim); });
  }
  add("pv_phases" + shape, isa,
      [=](benchmark::State& state) { softmax_pv_phases(state, isa, rows, keys, dim); });
}

void register_all() {
  for (const kernels::Isa isa : {kernels::Isa::avx512, kernels::Isa::avx2, kernels::Isa::neon}) {
    if (!(kernels::host_isas() & kernels::bit(isa)) ||
        !kernels::kernel_set(isa, kernels::Element::f32, kernels::Element::f32))
      continue;
    for (const std::int64_t dim : {64, 128, 256, 512}) add_pv(isa, {"two_pass"}, 0, 256, dim);
    for (const std::int64_t keys : {4096, 8192, 16384, 32768})
      for (const std::int64_t rows : {0, 12})
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
