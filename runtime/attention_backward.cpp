// SPDX-License-Identifier: Apache-2.0
// attention_backward and its plans: which heads one thread computes alone, and which are computed together.
#include "runtime/attention_backward.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "runtime/attention_fields.h"
#include "runtime/backward_run.h"
#include "runtime/plan.h"
#include "runtime/validate.h"
#include "runtime/validate_parts.h"

namespace kumiko {

using kernels::Element;

namespace {

// A head whose sums take no more is one thread's work, from its first block pair to its last, if there are
// enough heads: its sums stay in that core's caches (1024 queries and keys, D = 128, eight heads, AVX-512 on
// one thread of a Zen 5: 0.85 of the FMA peak, four heads at a time 0.80), and no step waits for its last
// task.
constexpr double kMostOwnBytes = 16 << 20;
constexpr std::int64_t kHeadsPerThread = 2;
// Other heads are computed together, as many as give a step this many tasks and multiply-adds for each
// thread: more would only take more memory. (5e7 multiply-adds take about 1 ms.)
constexpr double kStepTasks = 4, kStepProducts = 5e7;
// More bytes than this are refused without asking for them.
constexpr double kMostBytes = 1e15;

BackwardArgs without_pointers(const BackwardArgs& args) {
  BackwardArgs kept = args;
  kept.forward = without_pointers(args.forward);
  kept.dout.data = nullptr;
  for (Tensor* gradient : {&kept.dq, &kept.dk, &kept.dv, &kept.dbias}) gradient->data = nullptr;
  kept.dlse.data = kept.delta.data = nullptr;
  kept.dsinks = kept.dalibi_slopes = nullptr;
  return kept;
}

/// What dq, dk and dv multiply, by the caller's precision or else the environment's. Errors: unsupported.
Status choose_product(const Context::Impl& context, const Problem& problem, DataType dout, Element* product) {
  const bool is_callers = problem.precision != Precision::automatic,
             has_pairs = problem.types.value == Element::bf16 && dout == DataType::bf16 &&
                         kernels::find_gradient(context.isa, Element::bf16);
  const Precision precision = is_callers ? problem.precision : context.config.precision;
  *product = has_pairs && precision != Precision::standard ? Element::bf16 : Element::f32;
  if (precision <= Precision::standard || (precision == Precision::half && has_pairs)) return {};
  return {Code::unsupported,
          std::string(is_callers ? "forward.precision" : "KUMIKO_PRECISION") + " is \"" +
              precision_name(precision) +
              "\"; expected standard, or q, k, v and dout of bf16 on isa avx512_bf16; q is " +
              kernels::element_name(problem.types.value) + ", dout is " + name_of(dout) + " and isa is " +
              kernels::name(context.isa)};
}

void add_sinks(const BackwardRun& run) {
  const Problem& problem = run.plan.problem;
  const std::int64_t q_blocks = run.plan.q_blocks();
  for (std::int64_t h = 0; run.args.dsinks && h < problem.q_heads; ++h) {
    double sum = 0.0;
    for (std::int64_t b = 0; b < problem.batch && run.plan.units > 0; ++b) {
      const double* const blocks = run.state.sink_sums.data() + (b * problem.q_heads + h) * q_blocks;
      const std::int64_t count = ceil_div(problem.sequence(b).q_len, kernels::kGradientBlock);
      for (std::int64_t i = 0; i < count; ++i) sum += blocks[i];
    }
    run.args.dsinks[h] = kernels::canonical(static_cast<float>(sum));
  }
}

}  // namespace

BackwardPlan::Impl::Impl(std::shared_ptr<Context::Impl> on, const BackwardArgs& what)
    : context(std::move(on)),
      args(without_pointers(what)),
      has_dsinks(what.dsinks != nullptr),
      has_dalibi_slopes(what.dalibi_slopes != nullptr),
      problem(lower(what.forward)) {}

kernels::GradientKernels BackwardPlan::Impl::kernels_of(Element product) const {
  const kernels::Isa isa = context->isa;
  kernels::GradientKernels made{};
  made.set = *kernels::kernel_set(isa, problem.types, product);
  made.gradient = kernels::find_gradient(isa, product);
  made.pack_dout = kernels::find_pack(isa, element_of(args.dout.dtype), product);
  made.pack_dscores = kernels::find_pack(isa, product, product);
  made.store_dq = kernels::find_store(isa, element_of(args.dq.dtype));
  made.store_dk = kernels::find_store(isa, element_of(args.dk.dtype));
  made.store_dv = kernels::find_store(isa, element_of(args.dv.dtype));
  return made;
}

double BackwardPlan::Impl::lay_out(GradientUnit* unit, std::byte* memory) const {
  double bytes = 0;
  const auto take = [&](double floats) {
    std::byte* const piece = memory ? memory + static_cast<std::int64_t>(bytes) : nullptr;
    bytes += 64 * std::ceil(floats / 16);
    return reinterpret_cast<float*>(piece);
  };
  const auto sums = [&](std::int64_t positions, std::int64_t dim) {
    return static_cast<double>(kernels::gradient_floats(kernels, positions, dim));
  };
  kernels::GradientProblem& g = unit->gradient;
  const auto group = static_cast<double>(g.head.group);
  g.lse = unit->lse = take(group * static_cast<double>(g.head.q_len));
  g.delta = unit->delta = take(group * static_cast<double>(g.head.q_len));
  g.dq_sum = take(group * sums(g.head.q_len, g.head.head_dim));
  g.dk_sum = take(sums(g.head.kv_len, g.head.head_dim));
  g.dv_sum = take(sums(g.head.kv_len, g.head.v_head_dim));
  return bytes;
}

Status BackwardPlan::Impl::prepare() {
  Element product{};
  if (Status s = choose_product(*context, problem, args.dout.dtype, &product); !s.ok()) return s;
  kernels = kernels_of(product);
  term_kernels = kernels_of(Element::f32);
  for (const kernels::GradientKernels* of : {&kernels, &term_kernels})
    pair_bytes =
        std::max(pair_bytes, kernels::gradient_scratch_bytes(*of, problem.head_dim, problem.v_head_dim));
  // Where there are no queries and no keys, the number of heads may be huge: none is counted.
  if (problem.q_len != 0 || args.dk.shape[2] != 0) units = problem.batch * problem.kv_heads;
  if (Status s = check_tasks("forward.q.shape", units); !s.ok()) return s;
  const std::int64_t threads = context->executor->concurrency();
  BackwardState none;
  const BackwardRun planned{*this, args, {}, none};
  double own_bytes = 0;
  if (threads == 1 || units >= threads * kHeadsPerThread) {
    const std::int64_t end = units - units % threads;
    for (std::int64_t number = 0; number < end;
         number += problem.kv_heads) {  // Heads of a sequence are alike.
      GradientUnit unit = planned.make_unit(number);
      own_bytes = std::max(own_bytes, lay_out(&unit, nullptr));
    }
    if (own_bytes <= kMostOwnBytes) alone = end;
  }
  most_tasks = std::max(alone, count_term_tasks(*this));
  for (std::int64_t next = alone; next < units;) {
    const auto workers = static_cast<double>(threads);
    const std::int64_t first = next;
    double tasks = 0, products = 0, bytes = 0;
    std::int64_t blocks = 0;
    for (; next < units && (tasks < workers * kStepTasks || products < workers * kStepProducts); ++next) {
      GradientUnit unit = planned.make_unit(next);
      const kernels::HeadProblem& head = unit.gradient.head;
      bytes += lay_out(&unit, nullptr);
      blocks += unit.all_q_blocks + ceil_div(unit.capacity, kernels::kGradientBlock);
      tasks += static_cast<double>(unit.steps());
      products += static_cast<double>(head.group * head.q_len) * static_cast<double>(head.kv_len) *
                  static_cast<double>(3 * head.head_dim + 2 * head.v_head_dim);
    }
    groups.push_back(next);
    sum_bytes = std::max(sum_bytes, bytes);
    most_units = std::max(most_units, next - first);
    most_tasks = std::max(most_tasks, blocks);
  }
  if (Status s = check_tasks("forward.q.shape", most_tasks); !s.ok()) return s;
  if (sum_bytes > kMostBytes || count_term_regions(*this) > kMostBytes)
    return {Code::out_of_memory, "out of memory"};
  scratch_bytes = pair_bytes + (alone > 0 ? static_cast<std::size_t>(own_bytes) : 0);
  if (count_term_tasks(*this) > 0) scratch_bytes = std::max(scratch_bytes, pair_bytes + kTermSumBytes);
  idle_ = make_state();
  // Last, because the scratch stays with the context: a plan that fails must not enlarge it.
  if (most_tasks == 0 || context->executor->reserve(scratch_bytes)) return {};
  return {Code::out_of_memory,
          "scratch of " + std::to_string(scratch_bytes) + " bytes a core could not be allocated"};
}

std::unique_ptr<BackwardState> BackwardPlan::Impl::make_state() const {
  auto state = std::make_unique<BackwardState>();
  state->units.reserve(static_cast<std::size_t>(most_units));
  state->items.reserve(static_cast<std::size_t>(groups.empty() ? 0 : most_tasks));
  state->tasks.assign(static_cast<std::size_t>(most_tasks), scheduler::Task{1, 0});
  scheduler::find_policy("flat")->fill(state->tasks, workers_, state->space, state->assignment);
  if (sum_bytes > 0)
    state->sums.reset(
        static_cast<std::byte*>(::operator new[](static_cast<std::size_t>(sum_bytes), std::align_val_t{64})));
  if (has_dsinks && units > 0)
    state->sink_sums.resize(static_cast<std::size_t>(problem.batch * problem.q_heads * q_blocks()));
  return state;
}

Status BackwardPlan::Impl::execute(const BackwardArgs& run_args) {
  std::unique_ptr<BackwardState> state;
  {
    const std::lock_guard lock(mutex_);
    if (idle_) {
      state = std::move(idle_);
      idle_ = std::move(state->next);
    }
  }
  if (!state) state = make_state();
  const BackwardRun run{*this, run_args, operands_of(run_args.forward), *state};
  Status status = run_steps(run);
  if (status.ok()) status = run_terms(run);
  if (status.ok()) add_sinks(run);
  const std::lock_guard lock(mutex_);
  state->next = std::move(idle_);
  idle_ = std::move(state);
  return status;
}

std::int64_t BackwardPlan::Impl::workspace_bytes() const {
  const double sinks =
      has_dsinks && units > 0 ? static_cast<double>(problem.batch * problem.q_heads * q_blocks()) : 0;
  return static_cast<std::int64_t>(scratch_bytes) * context->executor->concurrency() +
         static_cast<std::int64_t>(sum_bytes + sinks * sizeof(double));
}

std::string BackwardPlan::Impl::explain() const {
  std::string text = describe(problem);
  text += std::string("gradients: isa ") + kernels::name(kernels.set.isa) + ", elements " +
          kernels::element_name(problem.types.value) + ", products of " +
          kernels::element_name(kernels.set.product) + ", blocks of " +
          std::to_string(kernels::kGradientBlock) + ", pieces of " + std::to_string(kernels::kGradientPiece) +
          "\n";
  text += "heads: " + std::to_string(units) + ", " + std::to_string(alone) + " each by one thread alone, " +
          std::to_string(units - alone) + " by all threads in " + std::to_string(groups.size()) + " groups\n";
  if (const std::int64_t tasks = count_term_tasks(*this); tasks > 0)
    text += "dbias and dalibi_slopes: " + std::to_string(tasks) +
            " tasks at most, two more products of f32 a pair\n";
  text += "workspace: " + std::to_string(workspace_bytes()) + " bytes (" + std::to_string(scratch_bytes) +
          " a core, " + std::to_string(static_cast<std::int64_t>(sum_bytes)) + " of sums)\n";
  return text;
}

Status BackwardPlan::run(const BackwardArgs& args) const {
  return guarded([&]() -> Status {
    if (!impl_) return {Code::invalid_argument, "plan is empty; expected one made by plan_backward()"};
    if (impl_->context->is_from_before_fork()) return forked_error();
    if (Status s = validate_same_backward(args, impl_->args, impl_->has_dsinks, impl_->has_dalibi_slopes,
                                          impl_->problem);
        !s.ok())
      return s;
    return impl_->execute(args);
  });
}

std::string BackwardPlan::explain() const {
  return impl_ ? impl_->explain() : "no plan\n";
}

std::int64_t BackwardPlan::workspace_bytes() const {
  return impl_ ? impl_->workspace_bytes() : 0;
}

Status plan_backward(const Context& context, const BackwardArgs& args, BackwardPlan* plan) {
  return guarded([&]() -> Status {
    if (!plan) return {Code::invalid_argument, "plan is null; expected a BackwardPlan to fill"};
    if (Status s = check_context(context); !s.ok()) return s;
    if (Status s = validate_backward_problem(args); !s.ok()) return s;
    auto impl = std::make_shared<BackwardPlan::Impl>(impl_of(context), args);
    if (Status s = impl->prepare(); !s.ok()) return s;
    Internals::of(*plan) = std::move(impl);
    return {};
  });
}

Status attention_backward(const Context& context, const BackwardArgs& args) {
  return guarded([&]() -> Status {
    if (Status s = validate_backward_problem(args); !s.ok()) return s;
    if (Status s = validate_backward_pointers(args); !s.ok()) return s;
    if (Status s = check_context(context); !s.ok()) return s;
    BackwardPlan::Impl plan(impl_of(context), args);
    if (Status s = plan.prepare(); !s.ok()) return s;
    return plan.execute(args);
  });
}

}  // namespace kumiko
