// SPDX-License-Identifier: Apache-2.0
#include "runtime/plan.h"

#include <algorithm>
#include <utility>

#include "kernels/pipelines/decode.h"
#include "runtime/traffic.h"

namespace kumiko {
namespace {

using kernels::min_of;

Visibility visibility_of(const Problem& problem) {
  constexpr std::int64_t kWide = 4096;  // the width of a window beyond this does not matter
  // A tree hides few keys of many, so tiles need not follow it.
  Visibility visibility{problem.has_mask || problem.has_bsr_indptr, 0};
  const std::int64_t most = min_of(problem.kv_len, kWide);
  const std::int64_t right = problem.is_causal ? 0 : problem.window_right;
  if (problem.window_left >= 0 && right >= 0)
    visibility.window_rows = (min_of(problem.window_left, most) + min_of(right, most) + 1) * problem.group();
  return visibility;
}

/// The smallest L2 share of any core.
std::int64_t l2_bytes(const scheduler::Topology& topology) {
  std::int64_t least = 0;
  for (const auto& domain : topology.domains)
    least = least == 0 ? domain.l2_bytes_per_core : std::min(least, domain.l2_bytes_per_core);
  return least;
}

/// The kernels for the caller's precision, or else the environment's; nullptr if the ISA has none.
const kernels::KernelSet* find_kernels(const Context::Impl& context, const Problem& problem,
                                       Precision precision) {
  using kernels::Element;
  const bool is_attention = problem.computation == Computation::attention,
             is_int8 = problem.types.key == Element::i8;
  const Element type = problem.types.value;
  if (is_int8 ? (precision != Precision::int8 && precision != Precision::automatic) || !is_attention
              : precision == Precision::int8)
    return nullptr;
  if (is_int8 || (precision == Precision::automatic && is_attention))
    return kernels::kernel_set(context.isa, problem.types);
  if (precision != Precision::half) return kernels::kernel_set(context.isa, problem.types, Element::f32);
  // bf16 pairs need scores without their scale, and probabilities that the softmax of pairs writes.
  if (type == Element::f32 || (type == Element::bf16 && !is_attention)) return nullptr;
  return kernels::kernel_set(context.isa, problem.types, type);
}

Status no_kernels(const Context::Impl& context, const Problem& problem, Precision precision) {
  using kernels::Element;
  const std::string what = problem.computation == Computation::softmax_pv   ? "softmax_pv"
                           : problem.computation == Computation::fused_gemm ? "fused_gemm"
                                                                            : "attention",
                    isa = std::string("isa ") + kernels::name(context.isa),
                    type = kernels::element_name(problem.types.value);
  const bool is_int8 = problem.types.key == Element::i8;
  if (is_int8 && problem.computation != Computation::attention)
    return {Code::unsupported, "q.dtype is i8; expected f32, bf16 or f16, as " + what + " takes no i8"};
  if (is_int8 && (precision == Precision::automatic || precision == Precision::int8))
    return {Code::unsupported,
            "q.dtype is i8; expected f32, bf16 or f16, as " + isa + " has no kernels for i8"};
  const std::string asked =
      std::string(problem.precision != Precision::automatic ? "precision" : "KUMIKO_PRECISION") + " is \"" +
      precision_name(precision) + "\"; expected ";
  if (is_int8) return {Code::unsupported, asked + "int8 or automatic, as q and k are i8"};
  if (precision == Precision::int8)
    return {Code::unsupported, asked + "another precision, as " +
                                   (problem.computation == Computation::attention ? "q and k are " + type
                                                                                  : what + " takes no i8")};
  return {Code::unsupported, asked + "standard, as " + isa + " has no half-precision products of " + type +
                                 " in " + what +
                                 " (sve512 has those of f16, avx512_bf16 those of bf16 in attention)"};
}

}  // namespace

Status choose_kernels(Plan::Impl& plan) {
  const Context::Impl& context = *plan.context;
  const Problem& problem = plan.problem;
  const bool is_attention = problem.computation == Computation::attention;
  Pipeline wanted = plan.forced_pipeline();
  if (wanted == Pipeline::automatic && !is_attention)
    wanted = Pipeline::online;  // decode computes the scores itself
  const Precision precision =
      problem.precision != Precision::automatic ? problem.precision : context.config.precision;
  const kernels::KernelSet* const kernels = find_kernels(context, problem, precision);
  if (!kernels) return no_kernels(context, problem, precision);
  if (kernels->product == kernels::Element::f16 && problem.has_key_tiles)
    return {Code::unsupported,
            "key_layout is tiles_of_16 (1); expected rows (0), as products of f16 take keys only in rows"};
  plan.kernels = *kernels;
  const Visibility visibility = visibility_of(problem);
  fit_kernels(context.core, visibility, &plan.kernels);
  plan.kernels.page_keys = problem.page_keys;
  plan.kernels.has_key_lists = problem.has_tree_mask || problem.has_bsr_indptr;
  const std::int64_t few = rows_in_place(context.core, plan.kernels, problem.kv_len, problem.head_dim);
  const auto tuned = [&](std::int64_t rows) {
    return tune(context.core, plan.kernels, visibility, rows, few, problem.head_dim, problem.v_head_dim,
                l2_bytes(context.topology), pipeline_name(wanted));
  };
  const std::int64_t shared = plan.may_share_keys() ? most_shared_rows(problem, few) : 0,
                     most = std::max(problem.most_rows(), shared);
  plan.tunings.many = plan.tunings.few = tuned(most);
  if (const std::int64_t least = problem.least_rows(); least <= few && few < most) {
    plan.tunings.few = tuned(least);
    plan.tunings.few_rows = few;
  }
  plan.kernels.staged_splits = plan.tunings.many.staged_splits;
  return {};
}

namespace {

/// Bytes of scratch a core needs for the largest task, and for tiles and heads of those sizes.
std::size_t scratch_for(const Plan::Impl& plan, const Partition& partition, const PartitionSize& most = {}) {
  const Problem& problem = plan.problem;
  // The last task of a merge needs one row of O.
  std::size_t bytes = static_cast<std::size_t>(problem.v_head_dim) * sizeof(float);
  const auto count = [&](const kernels::PipelineRow& pipeline, std::int64_t rows) {
    if (!pipeline.traits.in_place) rows = std::max(rows, most.tile_rows);
    const bool has_heads = pipeline.traits.in_place && problem.heads_side_by_side() > 1;
    const std::int64_t heads = has_heads ? std::max(partition.most_heads(), most.heads) : 1;
    const std::size_t needed =
        heads > 1 ? kernels::decode_heads_scratch_bytes(plan.kernels, heads, rows, problem.head_dim,
                                                        problem.v_head_dim)
                  : pipeline.scratch_bytes(plan.kernels, rows, problem.head_dim, problem.v_head_dim);
    bytes = std::max(bytes, needed);
  };
  const kernels::PipelineRow *few = plan.tunings.few.pipeline, *many = plan.tunings.many.pipeline;
  if (few == many) {
    count(*many, partition.most_rows());
  } else {
    count(*few, partition.most_rows(few));
    count(*many, partition.most_rows(many));
  }
  return bytes;
}

Status reserve(const Plan::Impl& plan, std::size_t scratch_bytes) {
  if (plan.context->executor->reserve(scratch_bytes)) return {};
  return {Code::out_of_memory,
          "scratch of " + std::to_string(scratch_bytes) + " bytes a core could not be allocated"};
}

}  // namespace

Status prepare(Plan::Impl& plan, bool may_be_updated) {
  if (Status s = choose_kernels(plan); !s.ok()) return s;
  if (plan.problem.is_empty()) return {};
  const PartitionSize most =
      may_be_updated && plan.problem.has_seqused_k ? plan.reserve_for_updates() : PartitionSize{};
  if (Status s = plan.cut(&plan.partition); !s.ok()) return s;
  if (plan.context->tracer) plan.home = planned_traffic(plan).home;
  plan.states.release(plan.states.acquire(plan.partition));  // so that the first run allocates nothing
  // Last, because the scratch stays with the context: a plan that fails must not enlarge it.
  plan.scratch_bytes = scratch_for(plan, plan.partition, most);
  return reserve(plan, plan.scratch_bytes);
}

void Plan::Impl::find_common_pages(const PageTable& table, CommonPages* common) {
  if (may_share_keys()) finder_.find(problem, table, context->core.decode_rows, common);
}

PartitionSize Plan::Impl::reserve_for_updates() {
  const PartitionSize most =
      reserve_for_any_lengths(problem, tunings, {workers_, context->config.policy}, space_);
  for (Partition* made : {&partition, &spare_}) made->reserve(most, workers_.size());
  states.reserve(most);
  return most;
}

Status Plan::Impl::cut(Partition* made) {
  return make_partition(problem, tunings, kv_domains, {workers_, context->config.policy}, space_, made);
}

Status Plan::Impl::update(std::span<const std::int32_t> lengths, const PageTable& table) {
  spare_lengths_.assign(lengths.begin(), lengths.end());
  spare_common_ = problem.common;
  struct Undo {
    Impl* plan;
    bool is_common = false, is_cut = false;
    ~Undo() {
      if (!plan) return;
      std::swap(plan->problem.seqused_k, plan->spare_lengths_);
      if (is_common) std::swap(plan->problem.common, plan->spare_common_);
      if (is_cut) std::swap(plan->partition, plan->spare_);
    }
  } undo{this};
  std::swap(problem.seqused_k, spare_lengths_);
  if (table.block_table) find_common_pages(table, &spare_common_);
  std::swap(problem.common, spare_common_);
  undo.is_common = true;
  if (problem.common == spare_common_ && partition.has_splits_of(problem))
    return undo.plan = nullptr, Status();
  if (Status s = cut(&spare_); !s.ok()) return s;
  const std::size_t scratch = std::max(scratch_bytes, scratch_for(*this, spare_));
  if (Status s = reserve(*this, scratch); !s.ok()) return s;
  std::swap(partition, spare_);
  undo.is_cut = true;
  std::vector<std::int32_t> homes;
  if (context->tracer) homes = planned_traffic(*this).home;
  states.fit(partition);
  undo.plan = nullptr;
  scratch_bytes = scratch;
  home.swap(homes);
  return {};
}

std::int64_t Plan::Impl::workspace_bytes() const {
  return static_cast<std::int64_t>(scratch_bytes) * context->executor->concurrency() +
         partition.partial_floats * static_cast<std::int64_t>(sizeof(float));
}

}  // namespace kumiko
