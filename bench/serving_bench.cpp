// SPDX-License-Identifier: Apache-2.0
// A server's steps. Keys and values in pages against the same ones in dense tensors, a step of prompt and
// decodes in one call against its parts, in turn within a round, and new tokens written into pages against a
// copy of the same bytes.
#include <benchmark/benchmark.h>
#include <kumiko/attention.h>
#include <kumiko/kv_append.h>

#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/append_step.h"
#include "bench/benchmark_rounds.h"
#include "bench/ceilings.h"
#include "bench/contexts.h"
#include "bench/mixed_step.h"
#include "bench/shapes.h"
#include "bench/workload.h"

namespace kumiko::bench {
namespace {

// The memory of the last case: the benchmarks of a case follow each other.
Problem& problem_of(const Shape& paged, const std::string& name) {
  static std::unique_ptr<Problem> last;
  static std::string last_name;
  if (!last || last_name != name) {
    last.reset();
    last = std::make_unique<Problem>(paged, bytes_beyond_caches());
    last_name = name;
  }
  last->touch();
  return *last;
}

using ChangeCall = std::function<AttentionArgs(const AttentionArgs&)>;

/// Runs a plan of `planned` on the memory of each call over the same problem; `change` may give it other
/// keys.
Workload workload_on(Problem& problem, const AttentionArgs& planned, const std::string& isa, int threads,
                     const ChangeCall& change = {}) {
  Context context;
  Plan made;
  Status status = context_for(isa, threads, &context);
  if (status.ok()) status = plan(context, planned, &made);
  return {problem, [=](const AttentionArgs& memory) {
            if (!status.ok()) return status;
            AttentionArgs args = planned;
            args.q.data = memory.q.data, args.v.data = memory.v.data;
            args.k.data = change ? change(memory).k.data : memory.k.data;
            args.out.data = memory.out.data;
            return made.run(args);
          }};
}

/// Whether all answers are right; if not, the state has the error.
bool are_right(benchmark::State& state, std::initializer_list<Workload*> works) {
  for (Workload* work : works) {
    work->verify();
    if (work->error().empty()) continue;
    state.SkipWithError(work->error().c_str());
    return false;
  }
  return true;
}

/// Reports how near `own` comes to its limit, in turns with `other`. Returns its time over the other's.
double time_over(benchmark::State& state, const Problem& problem, Workload& own, Workload& other,
                 const FmaRow& row, int threads) {
  const ScopedAffinity affinity(first_cores(threads));
  std::vector<double> ratios;
  const auto seconds = [&] {
    const double others = other.seconds_per_run(kWorkWindow, clock_of(threads)),
                 owns = own.seconds_per_run(kWorkWindow, clock_of(threads));
    ratios.push_back(owns / others);
    return owns;
  };
  report_limit(state, problem.work(), seconds, [&] { return both_ceilings(row, threads, problem.cache()); });
  return median(ratios);
}

void decode_in_pages(benchmark::State& state, const Case& c, std::int64_t page_keys, const FmaRow& row,
                     int threads) {
  const Shape paged = in_pages(c.shape, page_keys);
  Problem& problem = problem_of(paged, c.shape.name + std::to_string(page_keys));
  Workload dense_work = workload_on(problem, arguments(c.shape), row.isa, threads),
           paged_work = workload_on(problem, arguments(problem.shape()), row.isa, threads);
  const double paged_over_dense = time_over(state, problem, paged_work, dense_work, row, threads);
  if (!are_right(state, {&dense_work, &paged_work})) return;
  state.counters["over_dense"] = 1 / paged_over_dense;
}

/// Latents dense and in pages, in turn; the fraction is that of dense ones, over_dense the speed from pages.
void latents(benchmark::State& state, const Shape& shape, const FmaRow& row, int threads) {
  Problem dense(shape, bytes_beyond_caches()), paged(in_pages(shape, 64), bytes_beyond_caches());
  dense.touch();
  paged.touch();
  Workload dense_work = workload_on(dense, dense.args(0), row.isa, threads),
           paged_work = workload_on(paged, paged.args(0), row.isa, threads);
  const double over_pages = time_over(state, dense, dense_work, paged_work, row, threads);
  if (!are_right(state, {&dense_work, &paged_work})) return;
  state.counters["over_dense"] = over_pages;
}

/// The keys of a problem's sets in tiles, in the same order of pages as the rows.
class PackedKeys {
 public:
  explicit PackedKeys(const Problem& problem)
      : problem_(problem),
        keys_(keys_of(problem.shape())),
        memory_(static_cast<std::size_t>(problem.sets()) * bytes()) {
    Context context;
    status_ = Context::create({}, &context);
    const Shape& s = problem.shape();
    const std::int64_t pages = keys_ / s.page_keys;
    for (int set = 0; set < problem.sets() && status_.ok(); ++set)
      status_ = pack_key_pages(
          context, ConstTensor::bhsd(problem.args(set).k.data, pages, 1, s.page_keys, s.head_dim, s.type),
          Tensor::bhsd(tiles(set), pages, 1, s.page_keys, s.head_dim, s.type));
  }
  /// A call over rows in pages, changed to one over tiles.
  AttentionArgs args(AttentionArgs rows) const {
    rows.key_layout = KeyLayout::tiles_of_16;
    for (int set = 0; set < problem_.sets(); ++set) {
      if (rows.k.data && rows.k.data == problem_.args(set).k.data) {
        rows.k.data = tiles(set);
        return rows;
      }
    }
    return rows;
  }
  const Status& status() const { return status_; }

 private:
  static std::int64_t keys_of(const Shape& s) { return s.batch * s.kv_heads * s.kv_len; }
  std::size_t bytes() const {
    return static_cast<std::size_t>(keys_ * problem_.shape().head_dim * bytes_of(problem_.shape().type));
  }
  std::byte* tiles(int set) const { return memory_.data() + static_cast<std::size_t>(set) * bytes(); }

  const Problem& problem_;
  std::int64_t keys_;
  Pages memory_;
  Status status_;
};

/// Pages of tiles against the same pages of rows and dense tensors.
void decode_in_tiles(benchmark::State& state, const Case& c, std::int64_t page_keys, const FmaRow& row,
                     int threads) {
  const std::string name = c.shape.name + std::to_string(page_keys);
  Problem& problem = problem_of(in_pages(c.shape, page_keys), name);
  static std::unique_ptr<PackedKeys> packed;
  static std::string packed_name;
  if (packed_name != name) {
    packed.reset();
    packed = std::make_unique<PackedKeys>(problem);
    packed_name = name;
  }
  if (!packed->status().ok()) return state.SkipWithError(packed->status().message().c_str());
  const AttentionArgs in_rows = arguments(problem.shape());
  Workload dense_work = workload_on(problem, arguments(c.shape), row.isa, threads),
           rows_work = workload_on(problem, in_rows, row.isa, threads),
           tiles_work = workload_on(problem, packed->args(in_rows), row.isa, threads,
                                    [](const AttentionArgs&args) { return packed->args(args); });
  const ScopedAffinity affinity(first_cores(threads));
  std::vector<double> over_dense, over_rows;
  const auto seconds = [&] {
    const double dense_seconds = dense_work.seconds_per_run(kWorkWindow, clock_of(threads)),
                 rows_seconds = rows_work.seconds_per_run(kWorkWindow, clock_of(threads)),
                 tiles_seconds = tiles_work.seconds_per_run(kWorkWindow, clock_of(threads));
    over_dense.push_back(dense_seconds / tiles_seconds);
    over_rows.push_back(rows_seconds / tiles_seconds);
    return tiles_seconds;
  };
  report_limit(state, problem.work(), seconds, [&] { return both_ceilings(row, threads, problem.cache()); });
  if (!are_right(state, {&dense_work, &rows_work, &tiles_work})) return;
  state.counters["over_dense"] = median(over_dense);
  state.counters["over_rows"] = median(over_rows);
}

void mixed(benchmark::State& state, DataType type, const std::string& isa, int threads) {
  Problem problem(mixed_step(type));
  problem.touch();
  Context context;
  if (const Status s = context_for(isa, threads, &context); !s.ok())
    return state.SkipWithError(s.message().c_str());
  const ScopedAffinity affinity(first_cores(threads));
  std::string error;
  const auto planned = [&](const AttentionArgs& args) {
    Plan made;
    if (const Status s = plan(context, args, &made); !s.ok()) error = s.message();
    return [made, args, &error] {
      if (const Status s = made.run(args); !s.ok()) error = s.message();
    };
  };
  const AttentionArgs step = problem.args(0);
  const PartOfStep first(step, 0, 1), others(step, 1, step.num_sequences);
  const auto whole = planned(step), chunk = planned(first.args()), decodes = planned(others.args());
  const auto seconds_of = [threads](auto run) {
    return seconds_per_call(
        kWorkWindow, [threads] { return seconds_on(clock_of(threads)); }, run);
  };
  const auto verify = [&](const std::string& what) {
    if (const std::string wrong = problem.check(0); error.empty() && !wrong.empty())
      error = what + ": " + wrong;
    problem.poison();
  };
  problem.poison();
  chunk();
  decodes();
  verify("the step's parts");
  std::vector<double> over_parts, rates;
  for (auto _ : state) {
    const double parts = seconds_of(chunk) + seconds_of(decodes), all = seconds_of(whole);
    over_parts.push_back(parts / all);
    rates.push_back(problem.useful_flops() / all);
    state.SetIterationTime(all);
  }
  problem.poison();
  whole();
  verify("the step");
  if (!error.empty()) return state.SkipWithError(error.c_str());
  state.counters["over_parts"] = median(over_parts);
  state.counters["gflops"] = median(rates) * 1e-9;
}

/// Sequences with a common beginning beside the same with pages of their own. With the rows of all sequences
/// on each key it is bound by multiply-adds where one row was bound by reading: the limit says how fast it
/// can be.
void shared_prefixes(benchmark::State& state, DataType type, std::int64_t page_keys, const FmaRow& row,
                     int threads) {
  Problem shared(shared_prefix(type, page_keys, true), bytes_beyond_caches()),
      apart(shared_prefix(type, page_keys, false), bytes_beyond_caches());
  shared.touch();
  apart.touch();
  Workload shared_work = workload_on(shared, shared.args(0), row.isa, threads),
           apart_work = workload_on(apart, apart.args(0), row.isa, threads);
  const double over_apart = time_over(state, shared, shared_work, apart_work, row, threads);
  if (!are_right(state, {&shared_work, &apart_work})) return;
  state.counters["over_apart"] = 1 / over_apart;
  state.counters["bytes_over_apart"] = shared.kv_bytes() / apart.kv_bytes();
}

/// A call that hides keys, by lists or a window, beside one that does not. per_element: its speed for each
/// visible pair of query and key over the other's. over_other: its time over the other's.
void hidden_keys(benchmark::State& state, const Shape& shape, const Shape& other, const FmaRow& row,
                 int threads) {
  Problem problem(shape, bytes_beyond_caches()), other_problem(other, bytes_beyond_caches());
  problem.touch();
  other_problem.touch();
  Workload work = workload_on(problem, problem.args(0), row.isa, threads),
           other_work = workload_on(other_problem, other_problem.args(0), row.isa, threads);
  const double over_other = time_over(state, problem, work, other_work, row, threads);
  if (!are_right(state, {&work, &other_work})) return;
  state.counters["over_other"] = over_other;
  state.counters["per_element"] = problem.work().flops / other_problem.work().flops / over_other;
}

// The memory of the last case: the benchmarks of a case follow each other.
AppendStep& append_step_of(DataType type, std::int64_t tokens) {
  static std::unique_ptr<AppendStep> last;
  static std::pair<DataType, std::int64_t> last_case;
  if (!last || last_case != std::pair(type, tokens)) {
    last.reset();
    last = std::make_unique<AppendStep>(type, tokens);
    last_case = {type, tokens};
  }
  return *last;
}

void append(benchmark::State& state, DataType type, std::int64_t tokens, const std::string& isa,
            int threads) {
  AppendStep& step = append_step_of(type, tokens);
  Context context;
  if (const Status s = context_for(isa, threads, &context); !s.ok())
    return state.SkipWithError(s.message().c_str());
  const std::vector<int> cores = first_cores(threads);
  const ScopedAffinity affinity(cores);
  std::string error;
  const auto run = [&] {
    if (const Status s = kv_append(context, step.next()); !s.ok() && error.empty()) error = s.message();
  };
  const auto verify = [&] {
    step.poison();
    for (std::int64_t i = 0; i < step.steps(); ++i) run();
    if (error.empty()) error = step.check();
  };
  verify();
  if (!error.empty()) return state.SkipWithError(error.c_str());
  const Rounds rounds = measure_rounds(
      state, step.bytes(),
      [&] {
        return seconds_per_call(
            kWorkWindow, [threads] { return seconds_on(clock_of(threads)); }, run);
      },
      [&] { return step.copy_ceiling(cores, clock_of(threads)); });
  verify();
  if (!error.empty()) return state.SkipWithError(error.c_str());
  state.counters["gbps"] = rounds.rate * 1e-9;
  state.counters["copy_gbps"] = rounds.ceiling * 1e-9;
  state.counters["copy_fraction"] = rounds.fraction;
}

void add(const std::string& name, auto run) {
  benchmark::RegisterBenchmark(name.c_str(), run)
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond)
      ->Iterations(kRounds);
}

using DecodeBench = void (*)(benchmark::State&, const Case&, std::int64_t page_keys, const FmaRow&,
                             int threads);

void add_in_pages(const std::vector<Case>& cases, const std::string& kind, const std::vector<int>& counts,
                  DecodeBench run) {
  for (const Case& c : cases) {
    for (const std::int64_t page_keys : {16, 128}) {
      for (const FmaRow& row : fma_rows()) {
        const std::string isa = row.isa;
        if (!row.host_runs() || isa == "reference") continue;
        if (isa == "avx512_bf16" && c.shape.type != DataType::bf16) continue;
        for (const int threads : counts)
          add(c.shape.name + kind + std::to_string(page_keys) + "/" + isa + "/t" + std::to_string(threads),
              [=, &c, &row](benchmark::State& state) { run(state, c, page_keys, row, threads); });
      }
    }
  }
}

void register_all() {
  std::vector<int> counts = {1};
  if (allowed_cores().size() > 1) counts.push_back(2);
  for (const FmaRow& row : fma_rows()) {
    benchmark::AddCustomContext(std::string("host_runs_") + row.isa, row.host_runs() ? "yes" : "no");
    const std::string isa = row.isa;
    if (!row.host_runs() || isa == "reference") continue;
    for (const int threads : counts) {
      for (const DataType type : {DataType::f32, DataType::bf16}) {
        if (isa == "avx512_bf16" && type != DataType::bf16)
          continue;  // Its other types run avx512's kernels.
        add(std::string("mixed_step_") + (type == DataType::f32 ? "f32/" : "bf16/") + isa + "/t" +
                std::to_string(threads),
            [=](benchmark::State& state) { mixed(state, type, isa, threads); });
        const std::string of =
            (type == DataType::f32 ? "_f32/" : "_bf16/") + isa + "/t" + std::to_string(threads);
        for (const std::int64_t heads : {128, 16}) {
          const Shape shape = latent_decode(type, heads);
          add(shape.name + of, [=, &row](benchmark::State& state) { latents(state, shape, row, threads); });
        }
        add("block_sparse" + of, [=, &row](benchmark::State& state) {
          hidden_keys(state, block_sparse(type, false), block_sparse(type, true), row, threads);
        });
        add("window_pages" + of, [=, &row](benchmark::State& state) {
          hidden_keys(state, window_in_pages(type), block_sparse(type, true), row, threads);
        });
        add("token_tree" + of, [=, &row](benchmark::State& state) {
          hidden_keys(state, token_tree(type, false), token_tree(type, true), row, threads);
        });
        for (const std::int64_t page_keys : {16, 128})
          add(std::string("shared_prefix_pages") + std::to_string(page_keys) +
                  (type == DataType::f32 ? "_f32/" : "_bf16/") + isa + "/t" + std::to_string(threads),
              [=, &row](benchmark::State& state) { shared_prefixes(state, type, page_keys, row, threads); });
      }
    }
  }
  for (const DataType type : {DataType::f32, DataType::bf16}) {
    for (const std::int64_t tokens : {64, 512}) {
      for (const FmaRow& row : fma_rows()) {
        const std::string isa = row.isa;
        if (!row.host_runs() || isa == "reference") continue;
        if (isa == "avx512_bf16" && type != DataType::bf16) continue;
        for (const int threads : counts)
          add("append_" + std::to_string(tokens) + (type == DataType::f32 ? "_f32/" : "_bf16/") + isa + "/t" +
                  std::to_string(threads),
              [=](benchmark::State& state) { append(state, type, tokens, isa, threads); });
      }
    }
  }
  add_in_pages(tile_cases(), "_tiles", counts, decode_in_tiles);
  add_in_pages(server_cases(), "_pages", counts, decode_in_pages);
}

}  // namespace
}  // namespace kumiko::bench

int main(int argc, char** argv) {
  kumiko::bench::register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
