// SPDX-License-Identifier: Apache-2.0
// dbias and dalibi_slopes: sums over pairs of the gradient of a score after the softcap. An element may be
// shared by heads, sequences, queries and keys, in any combination, so these gradients have a walk of their
// own: a task owns some elements and visits every pair that contributes to them, in an order that depends on
// nothing else, and computes the scores and dP of these pairs once more. Five products become seven, but only
// if these gradients are asked for.
#include <algorithm>
#include <array>
#include <cstddef>

#include "kernels/float_state.h"
#include "runtime/backward_run.h"
#include "runtime/validate_parts.h"

namespace kumiko {
namespace {

using kernels::kGradientPiece;
using kernels::Positions;

/// Most tasks of a walk: with more regions, a task has several.
constexpr std::int64_t kMostTermTasks = 65536;

/// A strided tensor in which each element is the sum over the pairs that share it.
struct TermGradient {
  void* data;
  kernels::Element element;
  Layout layout;
  std::int64_t key_stride, columns;
  bool has_rows_of_q;  ///< Packed sequences are rows of one batch; else each has its own, layout.batch apart.
  bool is_times_distance;  ///< kernels::TermSums
};

bool is_wanted(const Tensor& dbias) {
  return dbias.shape != std::array<std::int64_t, 4>{} && !empty(dbias.shape);
}
TermGradient gradient_of_bias(const Tensor& dbias) {
  return {dbias.data,
          element_of(dbias.dtype),
          layout_of(dbias.shape, dbias.stride),
          dbias.shape[3] > 1 ? dbias.stride[3] : 0,
          dbias.shape[3],
          true,
          false};
}
TermGradient gradient_of_slopes(float* slopes, const AttentionArgs& forward) {
  return {slopes, kernels::Element::f32, {forward.alibi_batch_stride, 1, 0}, 0, 1, false, true};
}

/// The regions of a gradient: pieces in each dimension, or one region along a dimension in which all
/// positions share their elements.
struct Regions {
  bool sums_sequences, sums_heads, sums_queries, sums_keys, has_packed_rows;
  std::int64_t sequences, heads, query_pieces, key_pieces;

  Regions(const Problem& problem, const TermGradient& term)
      : sums_sequences(false),
        sums_heads(term.layout.head == 0),
        sums_queries(term.layout.seq == 0),
        sums_keys(term.key_stride == 0),
        has_packed_rows(term.has_rows_of_q && problem.has_cu_seqlens_q) {
    sums_sequences = (has_packed_rows ? term.layout.seq : term.layout.batch) == 0;
    sequences = sums_sequences ? 1 : problem.batch;
    heads = sums_heads ? 1 : problem.q_heads;
    query_pieces = sums_queries ? 1 : ceil_div(problem.q_len, kGradientPiece);
    key_pieces = sums_keys ? 1 : ceil_div(term.columns, kGradientPiece);
  }
  double count() const {
    return static_cast<double>(sequences) * static_cast<double>(heads) * static_cast<double>(query_pieces) *
           static_cast<double>(key_pieces);
  }
};

void store_element(kernels::Element element, float x, void* data, std::int64_t index) {
  if (element == kernels::Element::f32) return kernels::from_float(x, static_cast<float*>(data) + index);
  if (element == kernels::Element::bf16)
    return kernels::from_float(x, static_cast<kernels::Bf16*>(data) + index);
  kernels::from_float(x, static_cast<kernels::F16*>(data) + index);
}

Positions one_or_all(std::int64_t number, bool is_all, std::int64_t count) {
  return is_all ? Positions{0, count} : Positions{number, number + 1};
}

class TermWalk {
 public:
  TermWalk(const BackwardRun& run, const TermGradient& term)
      : run_(run), problem_(run.plan.problem), term_(term), regions_(problem_, term) {}

  Status run() const {
    const auto count = static_cast<std::int64_t>(regions_.count());
    const std::int64_t per_task = ceil_div(count, kMostTermTasks);
    if (count == 0) return {};
    return run_.for_each_task(ceil_div(count, per_task), [&](std::int32_t task, std::byte* scratch) {
      const std::int64_t first = task * per_task;
      for (std::int64_t region = first; region < std::min(first + per_task, count); ++region)
        sum_region(region, scratch);
    });
  }

 private:
  /// The positions of a piece, of `count` in all; or all of them.
  static Positions positions(std::int64_t piece, bool is_all, std::int64_t count) {
    if (is_all) return {0, count};
    return {std::min(piece * kGradientPiece, count), std::min((piece + 1) * kGradientPiece, count)};
  }

  void sum_region(std::int64_t region, std::byte* scratch) const {
    const std::int64_t key_piece = region % regions_.key_pieces,
                       query_piece = region / regions_.key_pieces % regions_.query_pieces,
                       others = region / regions_.key_pieces / regions_.query_pieces,
                       h = others % regions_.heads, b = others / regions_.heads;
    auto* const sums = reinterpret_cast<double*>(scratch + run_.plan.pair_bytes);
    const kernels::TermSums to{sums, regions_.sums_queries ? 0 : kGradientPiece, regions_.sums_keys ? 0 : 1,
                               term_.is_times_distance};
    std::fill_n(sums, kGradientPiece * kGradientPiece, 0.0);
    const Positions sequences = one_or_all(b, regions_.sums_sequences, problem_.batch),
                    heads = one_or_all(h, regions_.sums_heads, problem_.q_heads);
    for (std::int64_t s = sequences.begin; s < sequences.end; ++s) {
      for (std::int64_t head = heads.begin; head < heads.end; ++head)
        add_head(s, head, query_piece, key_piece, to, scratch);
    }
    store(b, h, query_piece, key_piece, sums);
  }

  void add_head(std::int64_t b, std::int64_t h, std::int64_t query_piece, std::int64_t key_piece,
                const kernels::TermSums& to, std::byte* scratch) const {
    const std::int64_t group = problem_.group();
    const GradientUnit unit = run_.make_unit(b * problem_.kv_heads + h / group);
    const kernels::HeadProblem& head = unit.gradient.head;
    const Positions queries = positions(query_piece, regions_.sums_queries, head.q_len),
                    keys = positions(key_piece, regions_.sums_keys, head.kv_len);
    auto* const lse = reinterpret_cast<float*>(to.sums + kGradientPiece * kGradientPiece);
    float* const delta = lse + kGradientPiece;
    for (std::int64_t i = queries.begin; i < queries.end; i += kGradientPiece) {
      const Positions piece{i, std::min(i + kGradientPiece, queries.end)};
      if (!kernels::sees_any(head, piece, keys)) continue;
      for (std::int64_t at = piece.begin; at < piece.end; ++at)
        run_.begin_row(unit, h % group, at, lse + at - piece.begin, delta + at - piece.begin);
      const kernels::FloatState float_state(run_.plan.term_kernels.set.isa);
      for (std::int64_t j = keys.begin; j < keys.end; j += kGradientPiece)
        kernels::gradient_terms(run_.plan.term_kernels, unit.gradient, h % group, piece,
                                {j, std::min(j + kGradientPiece, keys.end)}, lse, delta, to, scratch);
    }
  }

  void store(std::int64_t b, std::int64_t h, std::int64_t query_piece, std::int64_t key_piece,
             const double* sums) const {
    const kernels::FloatState float_state;
    const Layout& layout = term_.layout;
    std::int64_t q_len = problem_.q_len, first = h * layout.head + b * layout.batch;
    if (regions_.has_packed_rows) {
      const Sequence sequence = problem_.sequence(b);
      first = h * layout.head + sequence.q_begin * layout.seq;
      q_len = sequence.q_len;
    }
    const Positions rows = regions_.sums_queries ? Positions{0, 1} : positions(query_piece, false, q_len),
                    columns =
                        regions_.sums_keys ? Positions{0, 1} : positions(key_piece, false, term_.columns);
    for (std::int64_t i = rows.begin; i < rows.end; ++i) {
      for (std::int64_t j = columns.begin; j < columns.end; ++j) {
        const double sum = sums[(i - rows.begin) * kGradientPiece + j - columns.begin];
        store_element(term_.element, kernels::canonical(static_cast<float>(sum)), term_.data,
                      first + i * layout.seq + j * term_.key_stride);
      }
    }
  }

  const BackwardRun& run_;
  const Problem& problem_;
  const TermGradient term_;
  const Regions regions_;
};

}  // namespace

double count_term_regions(const BackwardPlan::Impl& plan) {
  double regions = 0;
  if (is_wanted(plan.args.dbias)) regions = Regions(plan.problem, gradient_of_bias(plan.args.dbias)).count();
  if (plan.has_dalibi_slopes)
    regions =
        std::max(regions, Regions(plan.problem, gradient_of_slopes(nullptr, plan.args.forward)).count());
  return regions;
}

std::int64_t count_term_tasks(const BackwardPlan::Impl& plan) {
  return static_cast<std::int64_t>(std::min(count_term_regions(plan), static_cast<double>(kMostTermTasks)));
}

Status run_terms(const BackwardRun& run) {
  if (is_wanted(run.args.dbias)) {
    if (Status s = TermWalk(run, gradient_of_bias(run.args.dbias)).run(); !s.ok()) return s;
  }
  if (!run.args.dalibi_slopes) return {};
  return TermWalk(run, gradient_of_slopes(run.args.dalibi_slopes, run.args.forward)).run();
}

}  // namespace kumiko
