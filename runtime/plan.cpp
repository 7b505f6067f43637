// SPDX-License-Identifier: Apache-2.0
#include "runtime/plan.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "runtime/partition.h"
#include "runtime/traffic.h"
#include "runtime/validate.h"
#include "scheduler/list_schedule.h"
#include "scheduler/memory.h"

namespace kumiko {
namespace {

using kernels::element_at;
using kernels::kSplitKeys;
using kernels::min_of;

kernels::Element element(DataType type) {
  static_assert(static_cast<int>(kernels::Element::bf16) == static_cast<int>(DataType::bf16) &&
                static_cast<int>(kernels::Element::f16) == static_cast<int>(DataType::f16));
  return static_cast<kernels::Element>(type);
}

Visibility visibility_of(const AttentionArgs& a) {
  constexpr std::int64_t kWide = 4096;  // beyond that it does not matter how wide a window is
  Visibility visibility{is_present(a.mask), 0};
  const std::int64_t most = min_of(a.k.shape[2], kWide), right = a.is_causal ? 0 : a.window_right;
  if (a.window_left >= 0 && right >= 0 && a.k.shape[1] > 0)
    visibility.window_rows =
        (min_of(a.window_left, most) + min_of(right, most) + 1) * (a.q.shape[1] / a.k.shape[1]);
  return visibility;
}

/// Which domain holds the split states of each row block: the one that computes them. Offsets so far count
/// from one beginning, and from here on from the domain's.
void place_split_states(Plan::Impl& plan) {
  const std::int64_t partial_size = kernels::partial_size(plan.args.v.shape[3]);
  const std::vector<std::int32_t>& begin = plan.assignment.domain_begin;
  std::vector<std::int32_t> domain_of(plan.merges.size(), -1);
  for (std::size_t d = 0; d + 1 < begin.size(); ++d) {
    for (std::int32_t i = begin[d]; i < begin[d + 1]; ++i) {
      const std::int32_t merge =
          plan.tasks[static_cast<std::size_t>(plan.assignment.order[static_cast<std::size_t>(i)])].merge;
      if (merge >= 0 && domain_of[static_cast<std::size_t>(merge)] < 0)
        domain_of[static_cast<std::size_t>(merge)] = static_cast<std::int32_t>(d);
    }
  }
  plan.domain_floats.assign(begin.size() - 1, 0);
  for (std::size_t m = 0; m < plan.merges.size(); ++m) {
    PlannedMerge& merge = plan.merges[m];
    merge.domain = std::max(domain_of[m], 0);
    std::int64_t& floats = plan.domain_floats[static_cast<std::size_t>(merge.domain)];
    merge.partial_offset = floats;
    floats += (merge.split_end - merge.split_begin) * (merge.row_end - merge.row_begin) * partial_size;
  }
}

}  // namespace

kernels::HeadProblem Plan::Impl::head(const AttentionArgs& a, std::int64_t batch,
                                      std::int64_t kv_head) const {
  kernels::HeadProblem head{};
  const std::int64_t group = a.k.shape[1] > 0 ? a.q.shape[1] / a.k.shape[1] : 1;
  const auto lse = lse_strides(a);
  // Validation bounds index * stride where there are elements to reach. Any other stride may be anything, so
  // nothing is computed from it: not that of an absent or empty tensor, nor that of a dimension of size 1,
  // which a kernel would turn into bytes.
  const auto at = [&](kernels::Element type, auto* data, std::int64_t size, std::int64_t head_number,
                      std::int64_t batch_stride, std::int64_t head_stride) {
    return size > 0 ? element_at(type, data, batch * batch_stride + head_number * head_stride) : data;
  };
  const auto step = [](std::int64_t size, std::int64_t stride) { return size > 1 ? stride : 0; };
  const std::int64_t q_head = kv_head * group, keys = a.k.shape[2];
  head.q = at(kernels.input, a.q.data, 1, q_head, a.q.stride[0], a.q.stride[1]);
  head.k = at(kernels.input, a.k.data, keys, kv_head, a.k.stride[0], a.k.stride[1]);
  head.v = at(kernels.input, a.v.data, keys, kv_head, a.v.stride[0], a.v.stride[1]);
  head.out = at(kernels.output, a.out.data, 1, q_head, a.out.stride[0], a.out.stride[1]);
  head.lse = a.lse.data ? a.lse.data + (batch * lse[0] + q_head * lse[1]) : nullptr;
  head.q_head_stride = step(group, a.q.stride[1]);
  head.q_seq_stride = step(a.q.shape[2], a.q.stride[2]);
  head.k_seq_stride = step(keys, a.k.stride[2]);
  head.v_seq_stride = step(keys, a.v.stride[2]);
  head.out_head_stride = step(group, a.out.stride[1]);
  head.out_seq_stride = step(a.q.shape[2], a.out.stride[2]);
  head.lse_head_stride = step(group, lse[1]);
  head.lse_seq_stride = step(a.q.shape[2], lse[2]);
  head.group = group;
  head.q_len = a.q.shape[2];
  head.kv_len = has_seqused_k ? seqused_k[static_cast<std::size_t>(batch)] : a.k.shape[2];
  head.head_dim = a.q.shape[3];
  head.v_head_dim = a.v.shape[3];
  head.q_scale = q_scale;
  head.has_softmax = computation != Computation::fused_gemm;
  if (computation == Computation::softmax_pv) {
    head.scores = at(kernels::Element::f32, scores.data, keys, q_head, scores.stride[0], scores.stride[1]);
    head.integer_scores = scores.dtype == DataType::i32;
    head.scores_head_stride = step(group, scores.stride[1]);
    head.scores_seq_stride = step(a.q.shape[2], scores.stride[2]);
  }
  set_terms(head, a, batch, kv_head * group);
  // Query i stands at key position i + diagonal. Limits beyond reach are cut so that no sum can overflow.
  const std::int64_t diagonal =
      a.causal_alignment == CausalAlignment::bottom_right ? head.kv_len - head.q_len : 0;
  const std::int64_t reach = head.kv_len + head.q_len;
  const std::int64_t left = a.window_left < 0 ? -1 : min_of(a.window_left, 2 * reach);
  std::int64_t right = a.window_right < 0 ? -1 : min_of(a.window_right, 2 * reach);
  if (a.is_causal) right = 0;
  head.diagonal = diagonal;
  head.begin_offset = left < 0 ? -head.q_len : diagonal - left;
  head.end_offset = right < 0 ? head.kv_len : diagonal + right + 1;
  return head;
}

void Plan::Impl::set_terms(kernels::HeadProblem& head, const AttentionArgs& a, std::int64_t batch,
                           std::int64_t first_head) const {
  head.terms.softcap = softcap_log2;
  head.terms.has_alibi = has_alibi;
  if (has_alibi && a.alibi_slopes)
    head.alibi_slopes = a.alibi_slopes + batch * a.alibi_batch_stride + first_head;
  if (a.k.shape[2] == 0) return;  // Nothing is read, and strides of empty tensors may be anything.
  if (is_present(a.bias)) {
    head.terms.has_bias = true;
    head.terms.bias_element = element(a.bias.dtype);
    head.terms.bias_stride = a.bias.stride[3];
    head.bias = element_at(head.terms.bias_element, a.bias.data,
                           batch * a.bias.stride[0] + first_head * a.bias.stride[1]);
    head.bias_head_stride = a.bias.stride[1];
    head.bias_seq_stride = a.bias.stride[2];
  }
  if (is_present(a.mask)) {
    head.terms.has_mask = true;
    head.terms.mask_stride = a.mask.stride[3];
    if (a.mask.data) {
      head.mask = static_cast<const std::uint8_t*>(a.mask.data) + batch * a.mask.stride[0] +
                  first_head * a.mask.stride[1];
    }
    head.mask_head_stride = a.mask.stride[1];
    head.mask_seq_stride = a.mask.stride[2];
  }
}

Status build_plan(Plan::Impl& plan) {
  const AttentionArgs& a = plan.args;
  const Context::Impl& context = *plan.context;
  const std::int64_t batch = a.q.shape[0], kv_heads = a.k.shape[1], workers = context.executor->concurrency();
  const bool is_attention = plan.computation == Computation::attention;
  const double scale = is_attention && a.scale == 0.0f ? 1.0 / std::sqrt(static_cast<double>(a.q.shape[3]))
                                                       : static_cast<double>(a.scale);
  constexpr double kLog2e = 1.44269504088896340736;
  // Under a softcap q carries scale / softcap, and the cap brings the log2(e). Without a softmax there is
  // none. Caps below 1e-30 leave no score that moves a probability, so they count as that: divided by a
  // smaller one the scale would overflow, and where subnormals are flushed (float_state.h) a subnormal cap
  // would be none.
  const double cap = a.softcap != 0.0f ? std::max(static_cast<double>(a.softcap), 1e-30) : 0.0;
  plan.q_scale = static_cast<float>(cap != 0.0                                    ? scale / cap
                                    : plan.computation == Computation::fused_gemm ? scale
                                                                                  : scale * kLog2e);
  plan.softcap_log2 = static_cast<float>(cap * kLog2e);

  const std::int64_t rows = kv_heads > 0 ? a.q.shape[1] / kv_heads * a.q.shape[2] : 0;
  Pipeline wanted = a.pipeline != Pipeline::automatic ? a.pipeline : context.config.pipeline;
  if (wanted == Pipeline::automatic && !is_attention)
    wanted = Pipeline::online;  // decode makes its own scores
  std::int64_t l2 = 0;
  for (const auto& domain : context.topology.domains)
    l2 = l2 == 0 ? domain.l2_bytes_per_core : std::min(l2, domain.l2_bytes_per_core);
  // bf16 products want their probabilities as the softmax of a product writes them.
  const kernels::Isa isa = is_attention ? context.isa : kernels::base_of(context.isa);
  plan.kernels = *kernels::kernel_set(isa, element(a.q.dtype), element(a.out.dtype));
  const Visibility visibility = visibility_of(a);
  fit_kernels(context.core, visibility, &plan.kernels);
  plan.tuning = tune(context.core, plan.kernels, visibility, rows, a.q.shape[3], a.v.shape[3], l2,
                     pipeline_name(wanted));
  plan.kernels.staged_splits = plan.tuning.staged_splits;
  if (batch == 0 || rows == 0) return {};
  if (Status s = partition_and_assign(plan, workers); !s.ok()) return s;
  place_split_states(plan);
  std::int64_t most_rows = 0;
  for (const PlannedTask& task : plan.tasks) most_rows = std::max(most_rows, task.row_end - task.row_begin);
  plan.scratch_bytes =
      plan.tuning.pipeline->scratch_bytes(plan.kernels, most_rows, a.q.shape[3], a.v.shape[3]);
  // The last task of a merge needs one row of O more.
  plan.scratch_bytes = std::max(plan.scratch_bytes, static_cast<std::size_t>(a.v.shape[3]) * sizeof(float));
  return {};
}

Plan::Impl::~Impl() {
  while (idle_) {
    RunState* next = idle_->next;
    // In a forked child the pool's lock may be held for good; the arenas then go on their own.
    for (std::size_t d = 0; d < idle_->arenas.size() && !context->is_from_before_fork(); ++d)
      context->split_states[d].give(std::move(idle_->arenas[d]));
    delete idle_;
    idle_ = next;
  }
}

RunState* Plan::Impl::acquire() {
  {
    const std::lock_guard lock(mutex_);
    if (RunState* state = idle_) {
      idle_ = state->next;
      return state;
    }
  }
  return make_state().release();
}

std::unique_ptr<RunState> Plan::Impl::make_state() const {
  auto state = std::make_unique<RunState>();
  state->pending = std::make_unique<std::atomic<std::int32_t>[]>(merges.size());
  state->partials.resize(domain_floats.size(), nullptr);
  if (context->split_states.empty()) {
    state->heap = std::make_unique_for_overwrite<float[]>(static_cast<std::size_t>(partial_floats));
    float* next = state->heap.get();
    for (std::size_t d = 0; d < domain_floats.size(); ++d) {
      state->partials[d] = next;
      next += domain_floats[d];
    }
    return state;
  }
  state->arenas.resize(domain_floats.size());
  for (std::size_t d = 0; d < domain_floats.size(); ++d) {
    if (domain_floats[d] == 0) continue;
    state->arenas[d] =
        context->split_states[d].take(static_cast<std::size_t>(domain_floats[d]) * sizeof(float));
    if (state->arenas[d].data() == nullptr) throw std::bad_alloc();
    state->partials[d] = reinterpret_cast<float*>(state->arenas[d].data());
  }
  return state;
}

void Plan::Impl::release(RunState* state) noexcept {
  const std::lock_guard lock(mutex_);
  state->next = idle_;
  idle_ = state;
}

std::int64_t Plan::Impl::workspace_bytes() const {
  return static_cast<std::int64_t>(scratch_bytes) * context->executor->concurrency() +
         partial_floats * static_cast<std::int64_t>(sizeof(float));
}

std::string Plan::Impl::explain() const {
  std::int64_t task_rows = 0;
  for (const PlannedTask& task : tasks) task_rows = std::max(task_rows, task.row_end - task.row_begin);
  std::string text = "problem: batch " + std::to_string(args.q.shape[0]) + ", query heads " +
                     std::to_string(args.q.shape[1]) + ", KV heads " + std::to_string(args.k.shape[1]) +
                     ", q_len " + std::to_string(args.q.shape[2]) + ", kv_len " +
                     std::to_string(args.k.shape[2]) + ", head_dim " + std::to_string(args.q.shape[3]) +
                     ", v_head_dim " + std::to_string(args.v.shape[3]) + (args.is_causal ? ", causal" : "") +
                     "\n";
  text +=
      "pipeline: " + std::string(tuning.pipeline->name) + ", isa " + kernels::name(kernels.isa) +
      ", elements " + kernels::element_name(kernels.input) +
      (kernels.output == kernels.input ? "" : std::string(" to ") + kernels::element_name(kernels.output)) +
      ", key blocks of " + std::to_string(kernels::kBlockKeys) + ", splits of " + std::to_string(kSplitKeys) +
      ", up to " + std::to_string(task_rows) + " query rows a task" + tuning.describe() + ", tuning " +
      context->core.source + "\n";
  text += "tasks: " + std::to_string(tasks.size()) + ", " + std::to_string(merges.size()) +
          " row blocks split along the keys\n";
  const auto& begin = assignment.domain_begin;
  const Traffic traffic = planned_traffic(*this);
  const auto reads = [](std::int64_t local, std::int64_t remote) {
    return "reads " + std::to_string(local) + " bytes of K and V locally, " + std::to_string(remote) +
           " remotely";
  };
  for (std::size_t d = 0; d + 1 < begin.size(); ++d) {
    text += "domain " + std::to_string(d) + ": " + std::to_string(begin[d + 1] - begin[d]) + " tasks";
    if (d < traffic.local.size()) text += ", " + reads(traffic.local[d], traffic.remote[d]);
    text += "\n";
  }
  text += "memory: " + reads(traffic.total_local(), traffic.total_remote()) + "; " +
          std::to_string(traffic.cut_heads) + " KV heads read by several domains\n";
  char imbalance[64] = "0.0";
  if (assignment.lower_bound > 0) {
    std::snprintf(imbalance, sizeof imbalance, "%.1f",
                  100.0 * (static_cast<double>(scheduler::simulate_makespan(
                               costs, assignment, context->executor->workers_per_domain())) /
                               static_cast<double>(assignment.lower_bound) -
                           1.0));
  }
  text += "predicted imbalance: " + std::string(imbalance) + " % over the lower bound\n";
  text += "workspace: " + std::to_string(workspace_bytes()) + " bytes (" + std::to_string(scratch_bytes) +
          " a core, " + std::to_string(partial_floats * static_cast<std::int64_t>(sizeof(float))) +
          " of split states)\n";
  // Without placement every byte may come from another node, and nothing else would tell.
  if (const std::string note = context->topology.is_host ? scheduler::placement_note() : ""; !note.empty())
    text += "warning: " + note + "\n";
  return text;
}

}  // namespace kumiko
