#include "runtime/plan.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "runtime/validate.h"
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

/// Sum of clamp(i + offset, 0, limit) for i in [first, last).
std::int64_t sum_clamped(std::int64_t first, std::int64_t last, std::int64_t offset, std::int64_t limit) {
  const std::int64_t rise = std::clamp(-offset, first, last), flat = std::clamp(limit - offset, rise, last);
  return (flat - rise) * (rise + flat - 1 + 2 * offset) / 2 + (last - flat) * limit;
}

/// Query-key pairs that rows [row_begin, row_end) see; rows of a query position are taken as a whole at the
/// rim.
std::int64_t visible_pairs(const kernels::HeadProblem& head, std::int64_t row_begin, std::int64_t row_end) {
  const std::int64_t first = row_begin / head.group, last = (row_end + head.group - 1) / head.group;
  const std::int64_t pairs = sum_clamped(first, last, head.end_offset, head.kv_len) -
                             sum_clamped(first, last, head.begin_offset, head.kv_len);
  return std::max<std::int64_t>(pairs, 0) * (row_end - row_begin) / std::max<std::int64_t>(last - first, 1);
}

/// A row block of one KV head before it is cut along the keys.
struct RowBlock {
  std::int64_t row_begin, row_end, split_begin, split_end;
  std::int64_t cost;
};

void append_row_blocks(const Plan::Impl& plan, const kernels::HeadProblem& head, std::int64_t task_rows,
                       std::vector<RowBlock>* blocks) {
  const std::int64_t rows = head.group * head.q_len;
  for (std::int64_t row = 0; row < rows; row += task_rows) {
    const std::int64_t end = min_of(row + task_rows, rows);
    const std::int64_t first_key = min_of(head.begin_of(row), head.kv_len),
                       last_key = std::max(head.end_of(end - 1), first_key);
    RowBlock block{row, end, first_key / kSplitKeys, (last_key + kSplitKeys - 1) / kSplitKeys, 0};
    block.split_end = std::max(block.split_end, block.split_begin);
    block.cost = task_cost(*plan.tuning.pipeline, visible_pairs(head, row, end), end - row,
                           last_key - first_key, head.head_dim, head.v_head_dim);
    blocks->push_back(block);
  }
}

/// Rows a task takes: all that fits, but fewer where that would leave workers without enough tasks.
std::int64_t task_rows_for(const Plan::Impl& plan, std::int64_t heads, std::int64_t rows,
                           std::int64_t workers) {
  const Tuning& tuning = plan.tuning;
  if (workers == 1) return tuning.max_task_rows;
  const std::int64_t wanted = heads * rows / (workers * tuning.tasks_per_worker);
  const std::int64_t unit = tuning.min_task_rows;
  return std::clamp(wanted / unit * unit, tuning.min_task_rows, tuning.max_task_rows);
}

/// The sum of all tasks' costs: those of `blocks`, once per KV head. A cost is below 2^55, but the sum over a
/// long batch of long sequences passes 2^63. Only the costs' proportions matter, so where the sum would pass
/// 2^61 all are made smaller by the same power of two: policies may add up what they are given.
std::int64_t scale_costs(std::vector<RowBlock>& blocks, std::int64_t kv_heads, double* unit) {
  __extension__ using Wide = unsigned __int128;
  Wide sum = 0;
  for (const RowBlock& block : blocks) sum += static_cast<Wide>(block.cost) * static_cast<Wide>(kv_heads);
  int shift = 0;
  while (sum >> shift > Wide{1} << 61) ++shift;
  *unit = std::ldexp(1.0, shift);
  if (shift == 0) return static_cast<std::int64_t>(sum);
  std::int64_t total = 0;
  for (RowBlock& block : blocks) total += (block.cost >>= shift) * kv_heads;
  return total;
}

/// floats += splits * rows * size; false when they would not fit in 2^63 bytes.
bool add_states(std::int64_t splits, std::int64_t rows, std::int64_t size, std::int64_t* floats) {
  std::int64_t more = 0, bytes = 0;
  return !__builtin_mul_overflow(splits, rows, &more) && !__builtin_mul_overflow(more, size, &more) &&
         !__builtin_add_overflow(*floats, more, floats) &&
         !__builtin_mul_overflow(*floats, static_cast<std::int64_t>(sizeof(float)), &bytes);
}

/// Which domain holds the split states of each row block: the one that computes them. Offsets so far count
/// from one beginning, and from here on from the domain's.
void place_split_states(Plan::Impl& plan, std::int64_t rows, std::int64_t partial_size) {
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
    floats += (merge.split_end - merge.split_begin) * rows * partial_size;
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
  if (given(a.bias)) {
    head.terms.has_bias = true;
    head.terms.bias_element = element(a.bias.dtype);
    head.terms.bias_stride = a.bias.stride[3];
    head.bias = element_at(head.terms.bias_element, a.bias.data,
                           batch * a.bias.stride[0] + first_head * a.bias.stride[1]);
    head.bias_head_stride = a.bias.stride[1];
    head.bias_seq_stride = a.bias.stride[2];
  }
  if (given(a.mask)) {
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
  // none.
  plan.q_scale = static_cast<float>(a.softcap != 0.0f ? scale / static_cast<double>(a.softcap)
                                    : plan.computation == Computation::fused_gemm ? scale
                                                                                  : scale * kLog2e);
  plan.softcap_log2 = static_cast<float>(static_cast<double>(a.softcap) * kLog2e);

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
  plan.kernels.max_nr = tile_rows(plan.kernels, given(a.mask));
  plan.tuning = tune(plan.kernels, rows, a.q.shape[3], a.v.shape[3], l2, pipeline_name(wanted));
  plan.kernels.pipe_ahead = plan.tuning.pipe_ahead;
  plan.kernels.staged_splits = plan.tuning.staged_splits;
  if (batch == 0 || rows == 0) return {};
  const std::int64_t task_rows = task_rows_for(plan, batch * kv_heads, rows, workers);
  // Below 2^62, as are batch * kv_heads and batch * kv_heads * rows: q fits in the address space.
  const std::int64_t blocks_per_head = (rows + task_rows - 1) / task_rows,
                     count = batch * kv_heads * blocks_per_head;
  if (count > kMaxTasks) {
    return {Code::unsupported, "q.shape makes " + std::to_string(count) +
                                   " tasks of attention; expected at most " + std::to_string(kMaxTasks)};
  }

  // Heads of one sequence are alike: their blocks are computed once.
  std::vector<RowBlock> blocks;
  blocks.reserve(static_cast<std::size_t>(batch * blocks_per_head));
  for (std::int64_t b = 0; b < batch; ++b) append_row_blocks(plan, plan.head(a, b, 0), task_rows, &blocks);
  const std::int64_t total = scale_costs(blocks, kv_heads, &plan.cost_unit);
  // Blocks costlier than this are cut along the keys: only then can all workers be busy.
  const std::int64_t target =
      workers == 1 ? total + 1 : std::max<std::int64_t>(total / (workers * plan.tuning.tasks_per_worker), 1);
  std::vector<scheduler::Task> costs;
  plan.tasks.reserve(static_cast<std::size_t>(count));
  costs.reserve(static_cast<std::size_t>(count));
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t h = 0; h < kv_heads; ++h) {
      for (std::int64_t i = 0; i < blocks_per_head; ++i) {
        const RowBlock& block = blocks[static_cast<std::size_t>(b * blocks_per_head + i)];
        const std::int64_t splits = block.split_end - block.split_begin;
        const std::int64_t parts = count >= workers * plan.tuning.tasks_per_worker
                                       ? 1
                                       : std::clamp<std::int64_t>((block.cost + target - 1) / target, 1,
                                                                  std::max<std::int64_t>(splits, 1));
        PlannedTask task{static_cast<std::int32_t>(b),
                         static_cast<std::int32_t>(h),
                         block.row_begin,
                         block.row_end,
                         0,
                         0,
                         block.cost,
                         -1};
        if (parts > 1) {
          task.merge = static_cast<std::int32_t>(plan.merges.size());
          plan.merges.push_back({static_cast<std::int32_t>(parts), block.split_begin, block.split_end,
                                 block.row_begin, block.row_end, plan.partial_floats});
          if (!add_states(splits, rows, kernels::partial_size(a.v.shape[3]), &plan.partial_floats))
            return {Code::out_of_memory, "the split states of q.shape would take more than 2^63 bytes"};
        }
        for (std::int64_t part = 0; part < parts; ++part) {
          task.split_begin = block.split_begin + splits * part / parts;
          task.split_end = block.split_begin + splits * (part + 1) / parts;
          task.cost = block.cost / parts;
          plan.tasks.push_back(task);
          costs.push_back({block.cost / parts, static_cast<std::int32_t>(b * kv_heads + h)});
        }
      }
    }
  }
  const std::vector<int> workers_per_domain = context.executor->workers_per_domain();
  plan.assignment = context.config.policy->assign(costs, workers_per_domain);
  place_split_states(plan, rows, kernels::partial_size(a.v.shape[3]));
  const std::int64_t most_rows = min_of(task_rows, rows);
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
      ", up to " + std::to_string(task_rows) + " query rows a task" + tuning.describe() + "\n";
  text += "tasks: " + std::to_string(tasks.size()) + ", " + std::to_string(merges.size()) +
          " row blocks split along the keys\n";
  const auto& begin = assignment.domain_begin;
  for (std::size_t d = 0; d + 1 < begin.size(); ++d)
    text += "domain " + std::to_string(d) + ": " + std::to_string(begin[d + 1] - begin[d]) + " tasks\n";
  char imbalance[64] = "0.0";
  if (assignment.lower_bound > 0) {
    std::snprintf(imbalance, sizeof imbalance, "%.1f",
                  100.0 * (static_cast<double>(assignment.predicted_makespan) /
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
