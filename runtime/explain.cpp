// SPDX-License-Identifier: Apache-2.0
// Plan::explain(): what a plan decided, one fact per line.
#include <algorithm>
#include <cstdio>

#include "runtime/plan.h"
#include "runtime/traffic.h"
#include "scheduler/list_schedule.h"
#include "scheduler/memory.h"

namespace kumiko {

using kernels::kSplitKeys;

namespace {

/// "512", or "1..512" of sequences of different lengths.
std::string lengths_of_queries(const Problem& problem) {
  std::int64_t least = problem.q_len;
  for (std::int64_t b = 0; b < problem.batch && problem.has_cu_seqlens_q; ++b)
    least = std::min(least, problem.sequence(b).q_len);
  return (least < problem.q_len ? std::to_string(least) + ".." : "") + std::to_string(problem.q_len);
}

/// ", causal", or ", causal in 3 sequences" if each has its own.
std::string causality_of(const Problem& problem) {
  if (!problem.has_causal_sequences) return problem.is_causal ? ", causal" : "";
  std::int64_t causal = 0;
  for (std::int64_t b = 0; b < problem.batch; ++b) causal += problem.is_causal_sequence(b);
  return ", causal in " + std::to_string(causal) + " sequences";
}

/// "online", or "decode up to 16 rows, online above" if the sequences' lengths call for two.
std::string pipelines_of(const Plan::Impl& plan) {
  const Tunings& tunings = plan.tunings;
  if (tunings.few.pipeline == tunings.many.pipeline) return tunings.many.pipeline->name;
  return std::string(tunings.few.pipeline->name) + " up to " + std::to_string(tunings.few_rows) + " rows, " +
         tunings.many.pipeline->name + " above";
}

/// A line on the keys that are read once for several sequences, if there are any.
std::string shared_prefixes_of(const Plan::Impl& plan) {
  const Problem& problem = plan.problem;
  const SharedGroups& shared = plan.partition.shared;
  if (shared.groups.empty()) return "";
  std::int64_t keys = 0;
  for (const SharedKeys& group : shared.groups)
    keys += (group.last - group.first - 1) * (group.split_end - group.split_begin) * kSplitKeys;
  return "shared prefixes: " + std::to_string(shared.groups.size()) + " groups of sequences, " +
         std::to_string(keys * problem.kv_heads * problem.key_bytes()) + " bytes of K and V less to read\n";
}

/// ", up to 8 KV heads a task", if tasks have several.
std::string heads_of(const Partition& partition) {
  const std::int64_t most = partition.most_heads();
  return most == 1 ? "" : ", up to " + std::to_string(most) + " KV heads a task";
}

/// ", scores of up to 4 rows of adjacent keys by decode_f16_avx2", if such rows are decoded by narrower
/// vectors. Scores of int8 keys and of keys in tiles have kernels of their own.
std::string narrow_decode_of(const Plan::Impl& plan) {
  const kernels::KernelSet& kernels = plan.kernels;
  const bool decodes =
      plan.tunings.few.pipeline->traits.in_place || plan.tunings.many.pipeline->traits.in_place;
  if (!decodes || !kernels.narrow_decode) return "";
  const bool of_scores = &kernels.decode_scores_of(1, true) == kernels.narrow_decode && !kernels.int8 &&
                         !plan.problem.has_key_tiles;
  const bool of_values = &kernels.decode_values_of(1, true) == kernels.narrow_decode;
  if (!of_scores && !of_values) return "";
  return std::string(!of_scores  ? ", values"
                     : of_values ? ", scores and values"
                                 : ", scores") +
         " of up to " + std::to_string(kernels.narrow_decode_rows) + " rows of adjacent keys by " +
         kernels.narrow_decode->name;
}

}  // namespace

std::string describe(const Problem& problem) {
  return "problem: " + std::string(problem.has_cu_seqlens_q ? "sequences " : "batch ") +
         std::to_string(problem.batch) + ", query heads " + std::to_string(problem.q_heads) + ", KV heads " +
         std::to_string(problem.kv_heads) + ", q_len " + lengths_of_queries(problem) + ", kv_len " +
         std::to_string(problem.kv_len) + ", head_dim " + std::to_string(problem.head_dim) + ", v_head_dim " +
         std::to_string(problem.v_head_dim) + causality_of(problem) +
         (problem.window_sink_tokens > 0
              ? ", first " + std::to_string(problem.window_sink_tokens) + " keys besides the window"
              : "") +
         (problem.has_prefix_lens ? ", prefixes" : "") + (problem.has_tree_mask ? ", tree masks" : "") +
         (problem.has_bsr_indptr ? ", lists of key blocks of " + std::to_string(problem.bsr_rows) + " x " +
                                       std::to_string(problem.bsr_keys)
                                 : "") +
         (problem.has_sinks ? ", sinks" : "") +
         (problem.value_in_key >= 0 ? ", values in the keys' rows" : "") +
         (problem.has_block_table ? ", pages of " + std::to_string(problem.page_keys) + " keys" : "") +
         (problem.has_key_tiles ? " in tiles of 16" : "") + "\n";
}

std::string Plan::Impl::explain() const {
  std::string text = describe(problem);
  text += "pipeline: " + pipelines_of(*this) + ", isa " + kernels::name(kernels.isa) + ", elements " +
          (kernels.int8 ? "i8 and " : "") + kernels::element_name(kernels.types.value) +
          (kernels.types.output == kernels.types.value
               ? ""
               : std::string(" to ") + kernels::element_name(kernels.types.output)) +
          ", products of " + (kernels.int8 ? "i8 (" + std::string(kernels.int8->name) + ") and " : "") +
          kernels::element_name(kernels.product) + ", key blocks of " + std::to_string(kernels::kBlockKeys) +
          ", splits of " + std::to_string(kSplitKeys) + ", up to " + std::to_string(partition.most_rows()) +
          " query rows a task" + narrow_decode_of(*this) + tunings.many.describe() + ", tuning " +
          context->core.source + "\n";
  text += "tasks: " + std::to_string(partition.tasks.size()) + ", " +
          std::to_string(partition.shared_merges) + " row blocks split along the keys" + heads_of(partition) +
          "\n";
  text += shared_prefixes_of(*this);
  const scheduler::Assignment& assignment = partition.assignment;
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
                               partition.costs, assignment, context->executor->workers_per_domain())) /
                               static_cast<double>(assignment.lower_bound) -
                           1.0));
  }
  text += "predicted imbalance: " + std::string(imbalance) + " % over the lower bound\n";
  text += "workspace: " + std::to_string(workspace_bytes()) + " bytes (" + std::to_string(scratch_bytes) +
          " a core, " + std::to_string(partition.partial_floats * static_cast<std::int64_t>(sizeof(float))) +
          " of split states)\n";
  // Without placement every byte may come from another node, which the lines above do not show.
  if (const std::string note = context->topology.is_host ? scheduler::placement_note() : ""; !note.empty())
    text += "warning: " + note + "\n";
  return text;
}

}  // namespace kumiko
