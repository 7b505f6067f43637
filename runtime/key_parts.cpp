// SPDX-License-Identifier: Apache-2.0
#include "runtime/key_parts.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "runtime/attention_fields.h"
#include "runtime/context.h"
#include "runtime/partition.h"
#include "runtime/plan.h"
#include "runtime/validate.h"
#include "runtime/validate_parts.h"

namespace kumiko {
namespace {

static_assert(kKeysPerSplit == kernels::kSplitKeys);
constexpr std::int64_t kMergedRows = 256;  ///< Of a task: states of about 260 KB with v_head_dim 128.

Status check_queries(const AttentionArgs& args, const KeyPart& part) {
  const std::int64_t sequences = number_of_sequences(args);
  const auto size = [](std::span<const std::int64_t> list) { return std::ssize(list); };
  if (part.query_begin.empty() && part.query_total.empty()) return {};
  if (size(part.query_begin) != sequences)
    return invalid("part.query_begin.size()", size(part.query_begin),
                   std::to_string(sequences) + " (sequences), or 0 for both lists");
  if (size(part.query_total) != sequences)
    return invalid("part.query_total.size()", size(part.query_total),
                   std::to_string(sequences) + " (sequences), or 0 for both lists");
  for (std::int64_t b = 0; b < sequences; ++b) {
    const std::int64_t q_len = args.cu_seqlens_q ? args.cu_seqlens_q[b + 1] - args.cu_seqlens_q[b]
                                                 : args.q.shape[2],
                       begin = part.query_begin[static_cast<std::size_t>(b)],
                       total = part.query_total[static_cast<std::size_t>(b)];
    if (total < q_len || total > kMost32)
      return invalid(entry("part.query_total", b), total, std::to_string(q_len) + " (q_len)..2147483647");
    if (begin < 0 || begin > total - q_len)
      return invalid(entry("part.query_begin", b), begin,
                     "0.." + std::to_string(total - q_len) + " (query_total - q_len)");
  }
  if (args.tree_mask || args.bsr_indptr)
    return {Code::unsupported, std::string(args.tree_mask ? "tree_mask" : "bsr_indptr") +
                                   " is given; expected null, as part.query_begin is given"};
  return {};
}

Status check_part(const AttentionArgs& args, const KeyPart& part) {
  if (part.key_begin < 0 || part.key_begin % kKeysPerSplit != 0 || part.key_begin > kMost32)
    return invalid("part.key_begin", part.key_begin, "a multiple of 512 in 0..2147483136");
  if (part.key_end != -1 && (part.key_end < part.key_begin || part.key_end % kKeysPerSplit != 0))
    return invalid("part.key_end", part.key_end,
                   "-1 (no end), or a multiple of 512 from part.key_begin on, which is " +
                       std::to_string(part.key_begin));
  if (part.parts < 1 || part.parts > kMost32) return invalid("part.parts", part.parts, "1 or more");
  if (part.part < 0 || part.part >= part.parts)
    return invalid("part.part", part.part, "0.." + std::to_string(part.parts - 1) + " (part.parts - 1)");
  const std::int64_t heads = args.k.shape[1];
  if (part.kv_head_begin < 0 || part.kv_head_begin > heads)
    return invalid("part.kv_head_begin", part.kv_head_begin, "0.." + std::to_string(heads) + " (k.shape[1])");
  if (part.kv_head_end != -1 && (part.kv_head_end < part.kv_head_begin || part.kv_head_end > heads))
    return invalid("part.kv_head_end", part.kv_head_end,
                   "-1, or " + std::to_string(part.kv_head_begin) + ".." + std::to_string(heads));
  return check_queries(args, part);
}

constexpr std::int64_t kMostStateFloats = std::int64_t{1} << 45;
Status states_too_large() {
  return {Code::out_of_memory, "the states of q.shape would take more than 2^47 bytes"};
}

/// The problem of a part, and where its states lie. Errors: out_of_memory.
Status set_part(const KeyPart& part, StatesKept kept, Problem* problem) {
  problem->part = part;
  problem->part.query_begin = problem->part.query_total = {};
  problem->query_begin.assign(part.query_begin.begin(), part.query_begin.end());
  problem->query_total.assign(part.query_total.begin(), part.query_total.end());
  problem->states_kept = kept;
  const std::int64_t size = kernels::partial_size(problem->v_head_dim);
  std::int64_t floats = 0;
  problem->states_begin.assign(1, 0);
  for (std::int64_t b = 0; b < problem->batch; ++b) {
    const std::int64_t states = kept == StatesKept::running ? 1 : problem->own_splits(b);
    std::int64_t more = 0;
    if (__builtin_mul_overflow(states, problem->kv_heads, &more) ||
        __builtin_mul_overflow(more, problem->rows_of(b), &more) ||
        __builtin_mul_overflow(more, size, &more) || __builtin_add_overflow(floats, more, &floats) ||
        floats > kMostStateFloats)
      return states_too_large();
    problem->states_begin.push_back(floats);
  }
  return {};
}

Span span_of_floats(const float* data, std::int64_t count) {
  const std::int64_t stride = 1;
  return data ? span_of(data, &count, &stride, 1, DataType::f32) : Span{};
}

/// `states` must not overlap the tensors of `args`, which are valid.
Status check_states(const AttentionArgs& args, std::int64_t floats, const float* states) {
  if (floats == 0) return {};
  const std::int64_t stride = 1;
  const Span span = span_of(states, &floats, &stride, 1, DataType::f32);
  if (Status s = check_pointer("states", states, span, DataType::f32); !s.ok()) return s;
  for (const TensorMemory& tensor : tensors_of(args)) {
    if (overlap(span, tensor.span))
      return invalid("states", hex(states), std::string("memory apart from ") + tensor.name);
  }
  return {};
}

Status check_columns(const AttentionArgs& args, const KeyPart& part) {
  if (part.score_columns == 0) return {};
  std::int64_t longest = 0;
  for (std::int64_t b = 0; args.seqused_k && b < number_of_sequences(args); ++b)
    longest = std::max<std::int64_t>(longest, args.seqused_k[b]);
  if (!args.seqused_k || part.score_columns < longest)
    return invalid("part.score_columns", part.score_columns,
                   "0, or with seqused_k at least its longest, which is " + std::to_string(longest));
  for (const auto& [name, view] : {std::pair{"bias", &args.bias}, std::pair{"mask", &args.mask}}) {
    if (view->data && view->shape[3] != part.score_columns)
      return invalid(element(name, "shape", 3), view->shape[3],
                     "part.score_columns, which is " + std::to_string(part.score_columns));
  }
  return {};
}

/// The same call with a column of bias and mask for each key that there is room for; the columns added are
/// not read.
AttentionArgs with_all_columns(const AttentionArgs& args, const KeyPart& part) {
  AttentionArgs all = args;
  for (ConstTensor* view : {&all.bias, &all.mask}) {
    if (view->data && part.score_columns > 0) view->shape[3] = longest_capacity(args);
  }
  return all;
}

Status check_arguments(const Context& context, const AttentionArgs& args, const KeyPart& part) {
  if (Status s = check_context(context); !s.ok()) return s;
  if (Status s = validate_problem(with_all_columns(args, part)); !s.ok()) return s;
  if (Status s = check_columns(args, part); !s.ok()) return s;
  if (Status s = check_part(args, part); !s.ok()) return s;
  return validate_pointers(args);
}

/// A part ready to run. Errors: those of attention_forward(), before anything is written.
struct PreparedPart {
  Plan::Impl plan;
  Operands operands;

  PreparedPart(const Context& context, const AttentionArgs& args, const KeyPart& part)
      : plan(impl_of(context), lower(with_all_columns(args, part))), operands(operands_of(args)) {}

  Status prepare(const AttentionArgs& args, const KeyPart& part, StatesKept kept) {
    plan.args = without_pointers(args);
    if (Status s = set_part(part, kept, &plan.problem); !s.ok()) return s;
    if (args.kv_domains) {
      if (Status s = copy_kv_domains(args, plan); !s.ok()) return s;
    }
    if (Status s = kumiko::prepare(plan); !s.ok()) return s;
    if (Status s = check_row_max(plan, args); !s.ok()) return s;
    return validate_block_table(plan.problem, operands.pages);
  }
  std::int64_t floats() const { return plan.problem.states_begin.back(); }
};

/// Makes all states empty: a row has tasks only for the splits that it sees.
void clear_states(const Problem& problem, float* states) {
  const std::int64_t size = kernels::partial_size(problem.v_head_dim);
  for (std::int64_t i = 0; i < problem.states_begin.back(); i += size) {
    std::memset(states + i, 0, static_cast<std::size_t>(size) * sizeof(float));
    states[i + size - 2] = -__builtin_inff();
  }
}

Status check_split_states(const AttentionArgs& args, const KeyPart& part) {
  if (part.kv_head_begin != 0 || part.kv_head_end != -1)
    return {Code::unsupported, "part.kv_head_begin and kv_head_end are " +
                                   std::to_string(part.kv_head_begin) + " and " +
                                   std::to_string(part.kv_head_end) + "; expected 0 and -1 for split states"};
  if (args.window_left < 0 || args.window_sink_tokens == 0) return {};
  return {Code::unsupported, "window_sink_tokens is " + std::to_string(args.window_sink_tokens) +
                                 "; expected 0 for split states, or no window"};
}

/// Rows [row_begin, row_end) of a unit (sequence, KV head).
struct MergePiece {
  std::int64_t unit, row_begin, row_end;
};

/// The merge of some units.
struct SplitMerge {
  const Problem& problem;
  const Operands& operands;
  const kernels::KernelSet& kernels;
  std::span<const float* const> states;
  std::int64_t unit_begin;
  std::vector<MergePiece> pieces;
  std::vector<std::int64_t> begin{};  // [units][parts] floats before a unit in each part
  std::int64_t most_splits = 0;       // of a sequence with queries

  std::int64_t splits(std::int64_t b) const {
    return (problem.sequence(b).kv_len + kKeysPerSplit - 1) / kKeysPerSplit;
  }

  void run(const MergePiece& piece, float* scratch) const {
    const std::int64_t b = piece.unit / problem.kv_heads, all = splits(b),
                       size = kernels::partial_size(problem.v_head_dim), parts = std::ssize(states);
    const kernels::HeadProblem head = problem.head(operands, b, piece.unit % problem.kv_heads);
    const std::int64_t* const from = begin.data() + (piece.unit - unit_begin) * parts;
    for (std::int64_t row = piece.row_begin; row < piece.row_end; ++row) {
      kernels::RowMerge merged(kernels, head, row, scratch);
      for (std::int64_t split = 0; split < all; ++split) {
        const std::int64_t part = split % parts;
        merged.add(states[static_cast<std::size_t>(part)] + from[part] +
                   (split / parts * problem.rows_of(b) + row) * size);
      }
      merged.end();
    }
  }
};

/// Merges the states `next`, which were computed ahead, into the running states of the rows of some units.
struct RunningMerge {
  const Problem& problem;
  const Operands& operands;
  const kernels::KernelSet& kernels;
  std::span<const float* const> next;
  std::vector<MergePiece> pieces;

  void run(const MergePiece& piece, float* scratch) const {
    const std::int64_t size = kernels::partial_size(problem.v_head_dim);
    const kernels::HeadProblem head =
        problem.head(operands, piece.unit / problem.kv_heads, piece.unit % problem.kv_heads);
    const std::int64_t begin = head.running.rows - operands.states;
    for (std::int64_t row = piece.row_begin; row < piece.row_end; ++row) {
      const auto is_empty = [&](const float* states) {
        const float* const state = states + begin + row * size;
        return state[size - 2] == -__builtin_inff() && state[size - 1] == 0.0f;
      };
      // Causal rows see none of the later splits; their running state stays as it is.
      if (head.running.loads() && head.running.stores() && std::ranges::all_of(next, is_empty)) continue;
      kernels::RowMerge merged(kernels, head, row, scratch);
      for (const float* const states : next) merged.add(states + begin + row * size);
      merged.end();
    }
  }
};

/// A task of run_equal_tasks: piece `number` of a SplitMerge or RunningMerge.
template <class Merge>
void merge_piece(void* context, std::int32_t number, const scheduler::Slot& slot) noexcept {
  const Merge& merge = *static_cast<const Merge*>(context);
  const kernels::FloatState float_state(merge.kernels.isa);
  merge.run(merge.pieces[static_cast<std::size_t>(number)], reinterpret_cast<float*>(slot.scratch));
}

/// Cuts the merge into tasks of about 512 states, 260 KB with v_head_dim 128. Errors: unsupported,
/// out_of_memory (states larger than the address space).
Status cut_merge(std::int64_t unit_end, SplitMerge* merge) {
  const Problem& problem = merge->problem;
  const std::int64_t parts = std::ssize(merge->states), size = kernels::partial_size(problem.v_head_dim);
  std::vector<std::int64_t> floats(static_cast<std::size_t>(parts), 0);
  const auto too_many = [](const std::string& what) {
    return Status(Code::unsupported,
                  "q.shape makes " + what + " to merge; expected at most " + std::to_string(kMaxTasks));
  };
  if (unit_end - merge->unit_begin > kMaxTasks)
    return too_many(std::to_string(unit_end - merge->unit_begin) + " heads of sequences");
  for (std::int64_t unit = merge->unit_begin; unit < unit_end; ++unit) {
    const std::int64_t b = unit / problem.kv_heads, rows = problem.rows_of(b), all = merge->splits(b);
    const std::int64_t step = std::max<std::int64_t>(512 / std::max<std::int64_t>(all, 1), 1);
    merge->begin.insert(merge->begin.end(), floats.begin(), floats.end());
    for (std::int64_t p = 0; p < parts; ++p) {
      std::int64_t &sum = floats[static_cast<std::size_t>(p)],
                   more = all > p ? (all - p + parts - 1) / parts : 0;
      if (__builtin_mul_overflow(more, rows, &more) || __builtin_mul_overflow(more, size, &more) ||
          __builtin_add_overflow(sum, more, &sum) || sum > kMostStateFloats)
        return states_too_large();
    }
    if (std::ssize(merge->pieces) + (rows + step - 1) / step > kMaxTasks) return too_many("more tasks");
    for (std::int64_t row = 0; row < rows; row += step)
      merge->pieces.push_back({unit, row, std::min(row + step, rows)});
    merge->most_splits = std::max(merge->most_splits, rows > 0 ? all : 0);
  }
  return {};
}

}  // namespace

Status prepare_running_states(const Context& context, const AttentionArgs& args, const KeyPart& part,
                              std::int64_t* floats) {
  return guarded([&]() -> Status {
    if (!floats) return {Code::invalid_argument, "floats is null; expected where to put their number"};
    if (Status s = check_arguments(context, args, part); !s.ok()) return s;
    PreparedPart made(context, args, part);
    if (Status s = made.prepare(args, part, StatesKept::running); !s.ok()) return s;
    *floats = made.floats();
    return {};
  });
}

Status prepare_split_states(const Context& context, const AttentionArgs& args, const KeyPart& part,
                            std::int64_t* floats) {
  return guarded([&]() -> Status {
    if (!floats) return {Code::invalid_argument, "floats is null; expected where to put their number"};
    if (Status s = check_arguments(context, args, part); !s.ok()) return s;
    if (Status s = check_split_states(args, part); !s.ok()) return s;
    PreparedPart made(context, args, part);
    if (Status s = made.prepare(args, part, StatesKept::of_each_split); !s.ok()) return s;
    *floats = made.floats();
    return {};
  });
}

Status attention_continue(const Context& context, const AttentionArgs& args, const KeyPart& part,
                          float* states, bool is_first, bool is_last) {
  return guarded([&]() -> Status {
    if (Status s = check_arguments(context, args, part); !s.ok()) return s;
    const bool keeps = !is_first || !is_last;
    PreparedPart made(context, args, part);
    if (Status s = made.prepare(args, part, keeps ? StatesKept::running : StatesKept::none); !s.ok())
      return s;
    if (Status s = keeps ? check_states(args, made.floats(), states) : Status(); !s.ok()) return s;
    made.operands.states = states;
    made.operands.is_first_part = is_first;
    made.operands.is_last_part = is_last;
    return execute(made.plan, made.operands);
  });
}

Status merge_running_states(const Context& context, const AttentionArgs& args, const KeyPart& part,
                            float* states, std::span<const float* const> next, bool is_first, bool is_last) {
  return guarded([&]() -> Status {
    if (Status s = check_arguments(context, args, part); !s.ok()) return s;
    PreparedPart made(context, args, part);
    if (Status s = made.prepare(args, part, StatesKept::running); !s.ok()) return s;
    if (Status s = check_states(args, made.floats(), states); !s.ok()) return s;
    const Span own = span_of_floats(states, made.floats());
    for (std::size_t i = 0; i < next.size() && made.floats() > 0; ++i) {
      const std::string name = entry("next", static_cast<std::int64_t>(i));
      if (!next[i]) return invalid(name, "null", "the states of a split");
      if (overlap(span_of_floats(next[i], made.floats()), own))
        return invalid(name, "memory of states", "the states of a split, in memory apart from states");
    }
    made.operands.states = states;
    made.operands.is_first_part = is_first;
    made.operands.is_last_part = is_last;
    const Problem& problem = made.plan.problem;
    RunningMerge merge{problem, made.operands, made.plan.kernels, next, {}};
    for (std::int64_t b = 0; b < problem.batch; ++b) {
      const std::int64_t rows = problem.rows_of(b);
      for (std::int64_t h = problem.first_head(); h < problem.end_head(); ++h) {
        for (std::int64_t row = 0; row < rows; row += kMergedRows)
          merge.pieces.push_back({b * problem.kv_heads + h, row, std::min(row + kMergedRows, rows)});
      }
    }
    return run_equal_tasks(*made.plan.context, "q.shape", std::ssize(merge.pieces), merge_piece<RunningMerge>,
                           &merge, static_cast<std::size_t>(problem.v_head_dim) * sizeof(float));
  });
}

Status attention_split_states(const Context& context, const AttentionArgs& args, const KeyPart& part,
                              float* states) {
  return guarded([&]() -> Status {
    if (Status s = check_arguments(context, args, part); !s.ok()) return s;
    if (Status s = check_split_states(args, part); !s.ok()) return s;
    PreparedPart made(context, args, part);
    if (Status s = made.prepare(args, part, StatesKept::of_each_split); !s.ok()) return s;
    if (Status s = check_states(args, made.floats(), states); !s.ok()) return s;
    clear_states(made.plan.problem, states);
    made.operands.states = states;
    return execute(made.plan, made.operands);
  });
}

Status merge_split_states(const Context& context, const AttentionArgs& args,
                          std::span<const float* const> states, std::int64_t unit_begin,
                          std::int64_t unit_end) {
  return guarded([&]() -> Status {
    if (Status s = check_arguments(context, args, {}); !s.ok()) return s;
    if (states.empty()) return invalid("states.size()", 0, "1 or more");
    Plan::Impl plan(impl_of(context), lower(args));
    const std::int64_t units = plan.problem.batch * plan.problem.kv_heads;
    if (unit_end == -1) unit_end = units;
    if (unit_begin < 0 || unit_begin > units)
      return invalid("unit_begin", unit_begin, "0.." + std::to_string(units));
    if (unit_end < unit_begin || unit_end > units)
      return invalid("unit_end", unit_end,
                     "-1, or " + std::to_string(unit_begin) + ".." + std::to_string(units));
    if (Status s = choose_kernels(plan); !s.ok()) return s;
    if (Status s = check_row_max(plan, args); !s.ok()) return s;
    const Operands operands = operands_of(args);
    SplitMerge merge{plan.problem, operands, plan.kernels, states, unit_begin, {}};
    if (Status s = cut_merge(unit_end, &merge); !s.ok()) return s;
    for (std::int64_t p = 0; p < std::min(merge.most_splits, std::ssize(states)); ++p) {
      if (!states[static_cast<std::size_t>(p)])
        return invalid(entry("states", p), "null", "the states of part " + std::to_string(p));
    }
    return run_equal_tasks(*plan.context, "q.shape", std::ssize(merge.pieces), merge_piece<SplitMerge>,
                           &merge, static_cast<std::size_t>(plan.problem.v_head_dim) * sizeof(float));
  });
}

}  // namespace kumiko
