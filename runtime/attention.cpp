// SPDX-License-Identifier: Apache-2.0
// plan, run and the one-shot calls of attention.h.
#include "runtime/attention.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <span>

#include "kernels/pipelines/decode.h"
#include "runtime/attention_fields.h"
#include "runtime/context.h"
#include "runtime/merges_in_order.h"
#include "runtime/plan.h"
#include "runtime/traffic.h"
#include "runtime/validate.h"
#include "runtime/validate_parts.h"
#include "scheduler/fork.h"

namespace kumiko {
namespace {

struct Run {
  const Plan::Impl& plan;
  const Operands& operands;
  RunState& state;
  std::int32_t number;  // of traced runs
};

TracedTask describe_task(const Run& run, std::int32_t number) {
  const PlannedTask& task = run.plan.partition.tasks[static_cast<std::size_t>(number)];
  TracedTask traced{};
  traced.bytes = bytes_read(run.plan, task);
  traced.run = run.number;
  traced.task = number;
  traced.batch = task.batch;
  traced.kv_head = task.kv_head;
  traced.kv_heads = task.heads;
  traced.home = static_cast<std::int16_t>(run.plan.home[head_number(run.plan, task)]);
  return traced;
}

/// Where tasks store the states of a merge.
kernels::TaskRange states_of(const Run& run, std::int32_t merge_number) {
  const PlannedMerge& merge = run.plan.partition.merges[static_cast<std::size_t>(merge_number)];
  kernels::TaskRange range{};
  range.partial = run.state.partials[static_cast<std::size_t>(merge.domain)] + merge.partial_offset;
  range.partial_split = merge.split_begin;
  range.partial_row = merge.row_begin;
  range.partial_rows = merge.row_end - merge.row_begin;
  return range;
}

/// To be called when a task that computes splits of a sequence's rows is done; the last of them merges all.
void end_task(const Run& run, std::int64_t batch, std::int64_t kv_head, std::int32_t merge_number,
              float* scratch, const kernels::TaskRange& task) {
  // acq_rel: the last task reads what the others stored.
  if (run.state.pending[static_cast<std::size_t>(merge_number)].fetch_sub(1, std::memory_order_acq_rel) != 1)
    return;
  task.enter(kernels::Phase::merge);
  const Partition& partition = run.plan.partition;
  const PlannedMerge& merge = partition.merges[static_cast<std::size_t>(merge_number)];
  const kernels::HeadProblem head = run.plan.problem.head(run.operands, batch, kv_head);
  const kernels::TaskRange own = states_of(run, merge_number);
  for (std::int64_t row = merge.row_begin; row < merge.row_end; ++row) {
    kernels::RowMerge merged(run.plan.kernels, head, row, scratch);
    if (merge.shared_splits > 0) {
      partition.shared.for_each_group_of(batch, head.group, [&](std::int64_t group, std::int64_t first) {
        const auto number =
            static_cast<std::int32_t>(partition.shared_merges + group * run.plan.problem.kv_heads + kv_head);
        const SharedKeys& keys = partition.shared.groups[static_cast<std::size_t>(group)];
        const kernels::TaskRange states = states_of(run, number);
        const std::int64_t one_end = partition.merges[static_cast<std::size_t>(number)].merged_end;
        if (one_end > 0) merged.add(states, first + row, 0, 1);
        merged.add(states, first + row, std::max(keys.split_begin, one_end), keys.split_end);
      });
    }
    merged.add(own, row, merge.split_begin, merge.split_end);
    merged.end();
  }
}

/// The same where states are merged as they become ready, into those of the first split.
void end_task_in_order(const Run& run, std::int32_t number, const kernels::TaskRange& range) {
  const Partition& partition = run.plan.partition;
  const PlannedTask& task = partition.tasks[static_cast<std::size_t>(number)];
  const PlannedMerge& merge = partition.merges[static_cast<std::size_t>(task.merge)];
  const kernels::KernelSet& kernels = run.plan.kernels;
  const std::int64_t dim = run.plan.problem.v_head_dim, size = kernels::partial_size(dim);
  const std::span tasks(&partition.tasks[static_cast<std::size_t>(merge.in_order)],
                        static_cast<std::size_t>(merge.tasks));
  const auto merge_tasks = [&](std::int32_t first, std::int32_t last) {
    range.enter(kernels::Phase::merge);
    const std::int64_t from = std::max(tasks[static_cast<std::size_t>(first)].split_begin,
                                       merge.split_begin + 1),
                       to = tasks[static_cast<std::size_t>(last) - 1].split_end;
    const kernels::HeadProblem head = run.plan.problem.head(run.operands, task.batch, task.kv_head);
    for (std::int64_t row = merge.row_begin; row < merge.row_end; ++row) {
      float* const o = range.state_of(merge.split_begin, row, size);
      const kernels::RowState merged{o + dim, o + dim + 1, o};
      for (std::int64_t split = from; split < to; ++split)
        kernels::merge_state(kernels, range.state_of(split, row, size), dim, merged);
      if (last == merge.tasks) kernels::end_merged_row(kernels, head, row, merged);
    }
  };
  MergesInOrder(run.state.pending[static_cast<std::size_t>(task.merge)])
      .end_task(number - merge.in_order, merge_tasks);
}

/// A group's rows over the keys that its sequences share.
void run_shared_task(const Run& run, const PlannedTask& task, kernels::TaskRange& range, std::byte* scratch) {
  const Partition& partition = run.plan.partition;
  const Problem& problem = run.plan.problem;
  const SharedKeys& keys = partition.shared.groups[static_cast<std::size_t>(task.shared)];
  kernels::HeadProblem head = problem.head(run.operands, task.batch, task.kv_head);
  partition.shared.as_group(problem, run.operands, keys, task.kv_head, &head);
  range.partial_merged = task.split_begin < partition.merges[static_cast<std::size_t>(task.merge)].merged_end;
  task.pipeline->run(run.plan.kernels, head, range, scratch);
  for (std::int64_t i = keys.first; i < keys.last; ++i) {
    if (!partition.shared.has_rows(keys, i, problem.group(), task.row_begin, task.row_end)) continue;
    const std::int32_t b = problem.common.sequences[static_cast<std::size_t>(i)];
    end_task(run, b, task.kv_head,
             partition.merge_of[static_cast<std::size_t>(b * problem.kv_heads + task.kv_head)],
             reinterpret_cast<float*>(scratch), range);
  }
}

/// Where a task stores the states of a head that the caller keeps.
void keep_states(const Run& run, const PlannedTask& task, std::int64_t kv_head, kernels::TaskRange* range) {
  const Problem& problem = run.plan.problem;
  range->partial = run.operands.states + problem.states_of(task.batch, kv_head);
  range->partial_split = problem.first_own_split();
  range->partial_step = problem.part.parts;
  range->partial_row = 0;
  range->partial_rows = problem.rows_of(task.batch);
}

/// What a task computes of the i-th of its heads.
kernels::TaskRange range_of(const Run& run, const PlannedTask& task, std::int32_t i,
                            kernels::PhaseWatch* watch) {
  kernels::TaskRange range = task.merge < 0 ? kernels::TaskRange{} : states_of(run, task.merge + i);
  if (run.plan.problem.states_kept == StatesKept::of_each_split)
    keep_states(run, task, task.kv_head + i, &range);
  range.row_begin = task.row_begin, range.row_end = task.row_end;
  range.split_begin = task.split_begin, range.split_end = task.split_end;
  range.watch = watch;
  return range;
}

void run_heads(const Run& run, const PlannedTask& task, kernels::PhaseWatch* watch, std::byte* scratch) {
  std::array<kernels::HeadTask, kernels::kMaxDecodeHeads> heads;
  for (std::int32_t i = 0; i < task.heads; ++i)
    heads[static_cast<std::size_t>(i)] = {run.plan.problem.head(run.operands, task.batch, task.kv_head + i),
                                          range_of(run, task, i, watch)};
  kernels::decode_heads_run(run.plan.kernels, std::span(heads).first(static_cast<std::size_t>(task.heads)),
                            scratch);
}

void run_task(void* context, std::int32_t number, const scheduler::Slot& slot) noexcept {
  const Run& run = *static_cast<const Run*>(context);
  const Plan::Impl& plan = run.plan;
  const PlannedTask& task = plan.partition.tasks[static_cast<std::size_t>(number)];
  const kernels::KernelSet& kernels = plan.kernels;
  const kernels::FloatState float_state(kernels.isa);
  Tracer* const tracer = plan.context->tracer.get();
  TaskTrace trace(tracer, slot.index, tracer ? describe_task(run, number) : TracedTask{});
  kernels::TaskRange range = range_of(run, task, 0, trace.watch());
  if (task.shared >= 0) return run_shared_task(run, task, range, slot.scratch);
  // Running states that get no key stay as they are.
  if (plan.problem.states_kept == StatesKept::running && task.split_begin == task.split_end &&
      !run.operands.is_first_part && !run.operands.is_last_part)
    return;
  if (task.heads > 1)
    run_heads(run, task, trace.watch(), slot.scratch);
  else
    task.pipeline->run(kernels, plan.problem.head(run.operands, task.batch, task.kv_head), range,
                       slot.scratch);
  if (task.merge < 0) return;
  if (plan.partition.merges[static_cast<std::size_t>(task.merge)].in_order >= 0)
    return end_task_in_order(run, number, range);
  for (std::int32_t i = 0; i < task.heads; ++i)
    end_task(run, task.batch, task.kv_head + i, task.merge + i, reinterpret_cast<float*>(slot.scratch),
             range);
}

/// Checks the lengths given to Plan::update.
Status validate_lengths(const Problem& problem, std::span<const std::int32_t> lengths) {
  if (!problem.has_seqused_k) {
    return {
        Code::invalid_argument,
        "plan was made without seqused_k; expected one that was made with lengths, which update() changes"};
  }
  if (static_cast<std::int64_t>(lengths.size()) != problem.batch) {
    return invalid("seqused_k.size()", static_cast<std::int64_t>(lengths.size()),
                   "the planned batch, " + std::to_string(problem.batch));
  }
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    if (Status s = check_length(b, lengths[static_cast<std::size_t>(b)], problem.capacity(b)); !s.ok())
      return s;
  }
  return {};
}

/// Checks which pointers Plan::update is given.
Status check_presence_of_pages(const Problem& problem, const PageTable& table) {
  if (table.block_table && !problem.has_block_table)
    return invalid("block_table", "given", "null, as the plan was made without it");
  if (table.kv_indptr && !table.block_table)
    return invalid("kv_indptr", "given", "null, as block_table is null");
  if (table.kv_indptr && !problem.has_kv_indptr)
    return invalid("kv_indptr", "given", "null, as the plan was made without it");
  if (table.block_table && !table.kv_indptr && problem.has_kv_indptr)
    return invalid("kv_indptr", "null", "given with block_table, as the plan was made with it");
  return {};
}

/// `args` must have passed validate_problem().
Status make_plan(const Context& context, const AttentionArgs& args, bool may_be_updated,
                 std::shared_ptr<Plan::Impl>* made) {
  auto impl = std::make_shared<Plan::Impl>(impl_of(context), lower(args));
  impl->args = without_pointers(args);
  if (args.block_table && !impl->problem.is_empty()) {
    const PageTable table{args.block_table, args.kv_indptr};
    if (Status s = check_page_table(args, impl->problem.batch, table); !s.ok()) return s;
    impl->find_common_pages(table, &impl->problem.common);
  }
  if (args.kv_domains) {
    if (Status s = copy_kv_domains(args, *impl); !s.ok()) return s;
  }
  if (Status s = prepare(*impl, may_be_updated); !s.ok()) return s;
  if (Status s = check_row_max(*impl, args); !s.ok()) return s;
  *made = std::move(impl);
  return {};
}

}  // namespace

Status copy_kv_domains(const AttentionArgs& args, Plan::Impl& plan) {
  const std::int64_t heads = args.k.shape[1];
  const int domains = static_cast<int>(plan.context->topology.domains.size());
  for (std::int64_t i = 0; i < plan.problem.batch * heads; ++i) {
    const std::int32_t domain = args.kv_domains[i];
    if (domain < -1 || domain >= domains) {
      return invalid("kv_domains[" + std::to_string(i / heads) + ", " + std::to_string(i % heads) + "]",
                     domain, "-1 or a domain below " + std::to_string(domains));
    }
    plan.kv_domains.push_back(domain);
  }
  return {};
}

/// Products of f16 keep a reference near a row's maximum, not the maximum itself (docs/numerics.md).
Status check_row_max(const Plan::Impl& plan, const AttentionArgs& args) {
  if (!args.row_max.data || plan.kernels.product != kernels::Element::f16) return {};
  return {Code::unsupported,
          "row_max is given; expected null, as products of f16 do not find the largest score"};
}

Status plan(const Context& context, const AttentionArgs& args, Plan* plan) {
  return guarded([&]() -> Status {
    if (!plan) return {Code::invalid_argument, "plan is null; expected a Plan to fill"};
    if (Status s = check_context(context); !s.ok()) return s;
    if (Status s = validate_problem(args); !s.ok()) return s;
    return make_plan(context, args, true, &Internals::of(*plan));
  });
}

Status execute(Plan::Impl& plan, const Operands& operands) {
  const Partition& partition = plan.partition;
  if (partition.tasks.empty()) return {};
  struct Return {
    Plan::Impl& plan;
    void operator()(RunState* used) const noexcept { plan.states.release(used); }
  };
  const std::unique_ptr<RunState, Return> state(plan.states.acquire(partition), Return{plan});
  for (std::size_t m = 0; m < partition.merges.size(); ++m) {
    const PlannedMerge& merge = partition.merges[m];
    state->pending[m].store(merge.in_order >= 0 ? 0 : static_cast<std::uint64_t>(merge.tasks),
                            std::memory_order_relaxed);
  }
  Tracer* const tracer = plan.context->tracer.get();
  const std::int64_t begin = tracer ? tracer->now() : 0;
  Run run{plan, operands, *state, tracer ? tracer->next_run() : 0};
  scheduler::Job job;
  job.assignment = &partition.assignment;
  job.body = run_task;
  job.context = &run;
  job.scratch_bytes = plan.scratch_bytes;
  const bool done = plan.context->executor->run(job);
  if (tracer) tracer->add_run(run.number, begin, tracer->now());
  if (!done)
    return {Code::out_of_memory,
            "scratch of " + std::to_string(plan.scratch_bytes) + " bytes a core could not be allocated"};
  return {};
}

Status check_run(const Plan::Impl& plan, const AttentionArgs& args) {
  if (Status s = validate_same_problem(args, plan.args, plan.problem); !s.ok()) return s;
  if (Status s = validate_pointers(args); !s.ok()) return s;
  if (Status s = check_row_max(plan, args); !s.ok()) return s;
  const PageTable pages{args.block_table, args.kv_indptr};
  if (Status s = validate_block_table(plan.problem, pages); !s.ok()) return s;
  return check_shared_pages(plan.problem, plan.partition.shared, pages);
}

Status check_call(const AttentionArgs& args) {
  if (Status s = validate_problem(args); !s.ok()) return s;
  if (Status s = validate_pointers(args); !s.ok()) return s;
  if (!args.block_table) return {};
  return validate_block_table(lower(args), {args.block_table, args.kv_indptr});
}

Status Plan::run(const AttentionArgs& args) const {
  return guarded([&]() -> Status {
    if (!impl_) return {Code::invalid_argument, "plan is empty; expected one made by plan()"};
    if (impl_->context->is_from_before_fork()) return forked_error();
    if (Status s = check_run(*impl_, args); !s.ok()) return s;
    return execute(*impl_, operands_of(args));
  });
}

Status Plan::update(std::span<const std::int32_t> seqused_k, const std::int32_t* block_table,
                    const std::int32_t* kv_indptr) {
  return guarded([&]() -> Status {
    if (!impl_) return {Code::invalid_argument, "plan is empty; expected one made by plan()"};
    if (impl_->context->is_from_before_fork()) return forked_error();
    if (const int open = impl_->submitted.load(std::memory_order_acquire); open > 0)
      return {Code::invalid_argument, "plan has " + std::to_string(open) +
                                          " submitted runs that have not ended; expected none in an update"};
    const PageTable table{block_table, kv_indptr};
    if (Status s = validate_lengths(impl_->problem, seqused_k); !s.ok()) return s;
    if (Status s = check_presence_of_pages(impl_->problem, table); !s.ok()) return s;
    if (Status s = check_page_table(impl_->args, impl_->problem.batch, table); !s.ok()) return s;
    return impl_->update(seqused_k, table);
  });
}

std::string Plan::explain() const {
  return impl_ ? impl_->explain() : "no plan\n";
}
Prediction Plan::predict(const MachineRates& rates) const {
  return impl_ ? impl_->predict(rates) : Prediction{};
}
std::int64_t Plan::workspace_bytes() const {
  return impl_ ? impl_->workspace_bytes() : 0;
}

Status attention_forward(const Context& context, const AttentionArgs& args) {
  return guarded([&]() -> Status {
    if (Status s = validate_problem(args); !s.ok()) return s;
    if (Status s = validate_pointers(args); !s.ok()) return s;
    if (Status s = check_context(context); !s.ok()) return s;
    std::shared_ptr<Plan::Impl> once;
    if (Status s = make_plan(context, args, false, &once); !s.ok()) return s;
    const Operands operands = operands_of(args);
    if (Status s = validate_block_table(once->problem, operands.pages); !s.ok()) return s;
    return execute(*once, operands);
  });
}

Status attention_forward(const AttentionArgs& args) {
  // Never destroyed: at the end of the process other threads may still be calling. A failed creation is tried
  // again at the next call, which may find more memory. A forked child makes a context of its own.
  static std::atomic<const Context*> made{nullptr};
  return guarded([&]() -> Status {
    const auto usable = [](const Context* kept) { return kept && !impl_of(*kept)->is_from_before_fork(); };
    const Context* context = made.load(std::memory_order_acquire);
    if (!usable(context)) {
      const std::lock_guard lock(scheduler::mutex_of(scheduler::ProcessLock::default_context));
      context = made.load(std::memory_order_relaxed);
      if (!usable(context)) {
        auto fresh = std::make_unique<Context>();
        if (Status s = Context::create({}, fresh.get()); !s.ok()) return s;
        context = fresh.release();
        made.store(context, std::memory_order_release);
      }
    }
    return attention_forward(*context, args);
  });
}

}  // namespace kumiko
