// SPDX-License-Identifier: Apache-2.0
#include "tests/simulator/sweep.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "runtime/context.h"
#include "runtime/plan.h"
#include "runtime/traffic.h"
#include "scheduler/list_schedule.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

std::string synthetic(int domains, int cores) {
  return "numa:" + std::to_string(domains) + " l3:1(size=33554432) l2:" + std::to_string(cores) +
         "(size=1048576) l1d:1(size=32768) core:1 pu:1";
}

/// Costs of the pieces that cannot be cut further: single splits of the keys of a single tile of rows. Tasks
/// of several tiles do not count, because the cost of cutting them depends on the cut.
std::vector<std::int64_t> whole_pieces(const Plan::Impl& plan) {
  std::vector<std::int64_t> pieces;
  for (std::size_t i = 0; i < plan.partition.tasks.size(); ++i) {
    const PlannedTask& task = plan.partition.tasks[i];
    if (task.row_end - task.row_begin > plan.tunings.many.min_task_rows) continue;
    const kernels::HeadProblem head = plan.problem.keys_seen(task.batch);
    const auto inside = [&](std::int64_t split) {
      return std::clamp(split * kernels::kSplitKeys, head.begin_of(task.row_begin),
                        head.end_of(task.row_end - 1));
    };
    const std::int64_t keys = inside(task.split_end) - inside(task.split_begin);
    for (std::int64_t split = task.split_begin; keys > 0 && split < task.split_end; ++split)
      pieces.push_back(plan.partition.costs[i].cost * (inside(split + 1) - inside(split)) / keys);
  }
  return pieces;
}

/// The shortest time in which `cores` can do pieces that are not cut: some core has h + 1 of the h x cores +
/// 1 largest.
std::int64_t whole_bound(std::vector<std::int64_t> pieces, int cores) {
  std::sort(pieces.begin(), pieces.end(), std::greater<>());
  std::int64_t bound = 0;
  for (std::size_t h = 0; h * static_cast<std::size_t>(cores) < pieces.size(); ++h) {
    bound = std::max(bound, static_cast<std::int64_t>(h + 1) * pieces[h * static_cast<std::size_t>(cores)]);
  }
  return bound;
}

}  // namespace

std::vector<SweepMachine> sweep_machines() {
  return {{"1x1", synthetic(1, 1), 1},
          {"1x2", synthetic(1, 2), 2},
          {"4x12", KUMIKO_TEST_DATA "/topologies/a64fx_fx700.xml", 48},
          {"2x64", synthetic(2, 64), 128},
          {"8x8", synthetic(8, 8), 64}};
}

Context planning_context(const SweepMachine& machine) {
  ContextOptions options;
  options.topology = machine.topology;
  options.executor = "serial";
  Context context;
  const Status status = Context::create(options, &context);
  EXPECT_TRUE(status.ok()) << status.message();
  if (!status.ok()) return context;
  EXPECT_EQ(context.num_threads(), machine.cores);
  for (const kernels::Isa isa : {kernels::Isa::avx512, kernels::Isa::neon}) {
    if (!kernels::kernel_set(isa, {})) continue;
    impl_of(context)->isa = isa;
    impl_of(context)->core = core_tuning(kernels::Core::zen5, isa);  // On every host the same plans.
  }
  return context;
}

const char* name(Phase phase) {
  switch (phase) {
    case Phase::decode:
      return "decode";
    case Phase::speculation:
      return "decode of 5";
    case Phase::chunk:
      return "chunk of 512";
    case Phase::prefill:
      break;
  }
  return "prefill";
}

std::int64_t SweepProblem::q_len() const {
  switch (phase) {
    case Phase::decode:
      return 1;
    case Phase::speculation:
      return 5;
    case Phase::chunk:
      return 512;
    case Phase::prefill:
      break;
  }
  return kv_len;
}

std::string SweepProblem::name() const {
  static const char* const kVisibility[] = {"full", "causal", "window", "varlen"};
  return "batch " + std::to_string(batch) + ", " + std::to_string(heads) + "/" + std::to_string(kv_heads) +
         " heads, " + test::name(phase) + ", " + std::to_string(kv_len) + " keys, " +
         kVisibility[static_cast<int>(visibility)];
}

std::vector<SweepProblem> sweep_problems() {
  std::vector<SweepProblem> problems;
  constexpr std::int64_t kHeads[][2] = {{1, 1},   {2, 1},  {7, 7},   {8, 1},   {8, 8},
                                        {12, 12}, {16, 1}, {32, 32}, {32, 8},  {40, 8},
                                        {64, 4},  {64, 8}, {71, 71}, {128, 8}, {128, 128}};
  for (const std::int64_t batch : {1, 2, 3, 8, 17, 64}) {
    for (const auto& [heads, kv_heads] : kHeads) {
      for (const Phase phase : kPhases) {
        for (const std::int64_t kv_len : {1, 100, 700, 4096, 20000, 131072}) {
          if (phase != Phase::decode && kv_len == 1) continue;
          if (phase == Phase::chunk && kv_len < 512) continue;
          for (int v = 0; v < 4; ++v) {
            const SweepProblem problem{batch, heads, kv_heads, kv_len, phase, static_cast<Visibility>(v)};
            // Beyond about 10^5 tasks balance is no problem, and planning them takes seconds.
            if (batch * heads * problem.q_len() > (std::int64_t{1} << 23)) continue;
            problems.push_back(problem);
          }
        }
      }
    }
  }
  return problems;
}

SweepResult result_of(const Plan& plan) {
  SweepResult result;
  const Plan::Impl& impl = *impl_of(plan);
  result.tasks = static_cast<std::int64_t>(impl.partition.tasks.size());
  const std::vector<int> workers = impl.context->executor->workers_per_domain();
  result.makespan = scheduler::simulate_makespan(impl.partition.costs, impl.partition.assignment, workers);
  result.bound = impl.partition.assignment.lower_bound;
  for (const scheduler::Task& task : impl.partition.costs)
    result.costliest = std::max(result.costliest, task.cost);
  for (const PlannedTask& task : impl.partition.tasks) {
    if (task.split_end - task.split_begin > 1 ||
        task.row_end - task.row_begin > impl.tunings.many.min_task_rows)
      result.may_be_cut = true;
  }
  result.whole_bound = whole_bound(whole_pieces(impl), std::accumulate(workers.begin(), workers.end(), 0));
  result.cut_heads = planned_traffic(impl).cut_heads;
  return result;
}

SweepResult plan_problem(const Context& context, const SweepProblem& problem) {
  AttentionArgs args;
  const std::int64_t q_len = problem.q_len();
  args.q = ConstTensor::bhsd(nullptr, problem.batch, problem.heads, q_len, 128);
  args.k = args.v = ConstTensor::bhsd(nullptr, problem.batch, problem.kv_heads, problem.kv_len, 128);
  args.out = Tensor::bhsd(nullptr, problem.batch, problem.heads, q_len, 128);
  args.is_causal = problem.visibility != Visibility::full;
  if (problem.visibility == Visibility::window) args.window_left = 1024;
  std::vector<std::int32_t> lengths;
  if (problem.visibility == Visibility::varlen) {
    Random random(static_cast<std::uint64_t>(problem.batch * 1000003 + problem.kv_len));
    for (std::int64_t b = 0; b < problem.batch; ++b)
      lengths.push_back(static_cast<std::int32_t>(random.between(1, static_cast<int>(problem.kv_len))));
    args.seqused_k = lengths.data();
  }
  Plan plan;
  const Status status = kumiko::plan(context, args, &plan);
  EXPECT_TRUE(status.ok()) << problem.name() << ": " << status.message();
  return status.ok() ? result_of(plan) : SweepResult{};
}

}  // namespace kumiko::test
