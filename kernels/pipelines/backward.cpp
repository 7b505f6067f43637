// SPDX-License-Identifier: Apache-2.0
#include "kernels/pipelines/backward.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/pipelines/backward_operands.h"

namespace kumiko::kernels {
namespace {

/// The first position of [begin, end) for which is_past() holds, or `end`. It must hold for all positions
/// after that one.
template <class IsPast>
std::int64_t first_of(std::int64_t begin, std::int64_t end, IsPast is_past) {
  while (begin < end) {
    const std::int64_t middle = begin + (end - begin) / 2;
    if (is_past(middle))
      end = middle;
    else
      begin = middle + 1;
  }
  return begin;
}

/// The queries of `queries` that see a key of [first, last): an interval, because both ends of what a query
/// sees grow with its position.
Positions queries_seeing(const HeadProblem& head, const Positions& queries, std::int64_t first,
                         std::int64_t last) {
  const std::int64_t group = head.group;
  Positions seeing{};
  seeing.begin =
      first_of(queries.begin, queries.end, [&](std::int64_t i) { return head.end_of(i * group) > first; });
  seeing.end =
      first_of(seeing.begin, queries.end, [&](std::int64_t i) { return head.begin_of(i * group) >= last; });
  return seeing;
}

/// Prefetches into L2.
void fetch(const float* from, std::int64_t floats) {
  constexpr std::int64_t kStep = 16;
  for (std::int64_t i = 0; i < floats; i += kStep) __builtin_prefetch(from + i, 0, 2);
}

class Pair {
 public:
  /// Lays the scratch out over `memory`; with nullptr it only counts.
  Pair(const GradientKernels& kernels, std::int64_t head_dim, std::int64_t v_head_dim, std::byte* memory)
      : kernels_(kernels),
        set_(kernels.set),
        dim_(head_dim),
        v_dim_(v_head_dim),
        carver_(memory),
        operands_(kernels, head_dim, v_head_dim, &carver_) {
    const std::int64_t rows = kGradientPiece;
    p_ = carver_.take<float>(rows * set_.max_nr);
    ds_ = carver_.take<float>(rows * set_.max_nr);
    capped_ = carver_.take<float>(rows * set_.max_nr);
    transposed_ = carver_.take<float>(set_.steps(rows) * rows);
    if (set_.is_in_pairs()) ds_rows_ = carver_.take<std::uint16_t>(rows * set_.max_nr);
  }
  std::size_t scratch_bytes() const { return carver_.used(); }

  void run(const GradientProblem& problem, std::int64_t first, std::int64_t last, const Positions& keys) {
    for (std::int64_t n = 0; n < set_.max_nr; ++n) ones_[n] = 1.0f;
    bool is_packed[kPieces] = {};
    for (std::int64_t r = last - 1; r >= first; --r) {
      begin(problem, r / problem.q_blocks());
      run(problem.queries(r), keys, is_packed);
    }
  }

  /// Adds the gradients of terms of a piece of queries and a piece of keys to `sums`.
  void run_terms(const GradientProblem& problem, std::int64_t g, const Positions& queries,
                 const Positions& keys, const float* lse, const float* delta, const TermSums& sums) {
    begin(problem, g);
    if (!sees_any(*head_, queries, keys) || !mask_shows_any(queries, keys)) return;
    operands_.pack_tiles_of_keys(keys, 0);
    operands_.pack_panels_of_queries(queries);
    const float *b = operands_.keys[0], *b_values = operands_.values[0];
    for_each_tile(set_, keys.begin, keys.end, [&](std::int64_t first, std::int64_t used, std::int64_t nr) {
      const auto [lo, hi] = whole_steps(queries_seeing(*head_, queries, first, first + used), queries);
      if (lo < hi) {
        first_product(operands_.q, b, dim_, nr, lo, hi, p_);
        first_product(operands_.dout, b_values, v_dim_, nr, lo, hi, ds_);
        scores_to_gradients(queries.begin, first, used, nr, lo, hi, lse, delta, false);
        add_to_terms(queries, {first, first + used}, first - keys.begin, nr, lo, hi, sums);
      }
      b += nr * set_.steps(dim_);
      b_values += nr * set_.steps(v_dim_);
    });
  }

 private:
  static constexpr std::int64_t kPieces = GradientOperands::kPieces;

  void begin(const GradientProblem& problem, std::int64_t g) {
    problem_ = &problem;
    head_ = &problem.head;
    g_ = g;
    operands_.begin(problem, g);
  }

  /// Packs the pieces of keys that are seen and were not packed before.
  void run(const Positions& queries, const Positions& keys, bool* is_packed) {
    bool sees[kPieces][kPieces] = {}, is_seen[kPieces] = {};
    std::int64_t i = 0, k = 0;
    for_each_piece(queries, [&](const Positions& piece) {
      k = 0;
      for_each_piece(keys, [&](const Positions& key_piece) {
        sees[i][k] = sees_any(*head_, piece, key_piece) && mask_shows_any(piece, key_piece);
        is_seen[k] |= sees[i][k];
        ++k;
      });
      ++i;
    });
    k = 0;
    for_each_piece(keys, [&](const Positions& piece) {
      if (is_seen[k] && !is_packed[k]) {
        operands_.pack_keys(piece, k);
        is_packed[k] = true;
      }
      ++k;
    });
    i = 0;
    for_each_piece(queries, [&](const Positions& piece) {
      const bool* const seen = sees[i++];
      if (std::find(seen, seen + kPieces, true) == seen + kPieces) return;
      operands_.pack_queries(piece);
      k = 0;
      for_each_piece(keys, [&](const Positions& key_piece) {
        if (seen[k]) add(piece, key_piece, k);
        ++k;
      });
    });
  }

  /// Whether the mask shows a key of one piece to a query of the other.
  bool mask_shows_any(const Positions& queries, const Positions& keys) const {
    if (!head_->terms.has_mask) return true;
    for (std::int64_t i = queries.begin; i < queries.end; ++i) {
      const std::uint8_t* const shown = head_->mask_row(row(i), keys.begin);
      unsigned any = 0;
      for (std::int64_t j = 0; j < keys.count(); ++j) any |= shown[j * head_->mask_key_stride];
      if (any != 0) return true;
    }
    return false;
  }

  std::int64_t row(std::int64_t position) const { return operands_.row(position); }

  const GemmKernel& gemm(std::int64_t nr) const { return *set_.gemm[nr / set_.lanes - 1]; }

  /// Rows [lo, hi) of a piece times a tile of keys or values, into `to`.
  void first_product(const float* a, const float* b, std::int64_t dim, std::int64_t nr, std::int64_t lo,
                     std::int64_t hi, float* to) const {
    const std::int64_t panel = lo / set_.mr, panels = (hi + set_.mr - 1) / set_.mr - panel;
    const std::int64_t steps = set_.steps(dim);
    const GemmArgs args{a + panel * set_.mr * steps,
                        set_.panel_bytes(dim),
                        b,
                        to + panel * set_.mr * nr,
                        steps,
                        panels,
                        nullptr,
                        nullptr};
    gemm(nr).init(&args);
  }

  /// sum += values[lo, hi)^T weights[lo, hi), for `rows` rows of panels. `lo` is a whole number of steps.
  void last_product(const GradientPanels& values, std::int64_t rows, std::int64_t dim, const float* weights,
                    std::int64_t nr, std::int64_t lo, std::int64_t hi, float* sum) const {
    const std::int64_t first = lo / set_.per_step();
    const GemmArgs args{values.data + first * set_.mr,
                        set_.panel_bytes(rows),
                        weights + first * nr,
                        sum,
                        set_.steps(hi - lo),
                        round_up(dim, set_.mr) / set_.mr,
                        ones_,
                        nullptr};
    gemm(nr).accumulate(&args);
  }

  bool is_visible(std::int64_t i, std::int64_t j) const {
    const std::int64_t r = row(i);
    return j >= head_->begin_of(r) && j < head_->end_of(r) &&
           (!head_->terms.has_mask || *head_->mask_row(r, j) != 0);
  }

  float weight_of(const float* weights, std::int64_t k, std::int64_t n, std::int64_t nr) const {
    if (!set_.is_in_pairs()) return weights[k * nr + n];
    return to_float(reinterpret_cast<const Bf16*>(weights)[(k / 2 * nr + n) * 2 + k % 2]);
  }

  /// Adds the elements that the panels of values leave out, those that are not finite: elements of row_of(k)
  /// times weight k of each lane n for which goes_with(k, n) holds.
  template <class RowOf, class GoesWith>
  void add_poison(Element element, std::int64_t dim, RowOf row_of, GoesWith goes_with, const float* weights,
                  std::int64_t nr, std::int64_t used, std::int64_t lo, std::int64_t hi, float* sum) const {
    for (std::int64_t k = lo; k < hi; ++k) {
      for (std::int64_t d = 0; d < dim; ++d) {
        const float x = load_element(element, row_of(k), d);
        if (std::isfinite(x)) continue;
        for (std::int64_t n = 0; n < used; ++n)
          if (goes_with(k, n)) sum[d * nr + n] = std::fma(weight_of(weights, k, n, nr), x, sum[d * nr + n]);
      }
    }
  }

  /// P and dS of rows [lo, hi) of the piece that begins with query `first_row`, whose lse and delta are
  /// given, and keys [first, first + used). dS is the gradient of the score before the softcap
  /// (is_before_cap) or after it.
  void scores_to_gradients(std::int64_t first_row, std::int64_t first, std::int64_t used, std::int64_t nr,
                           std::int64_t lo, std::int64_t hi, const float* lse, const float* delta,
                           bool is_before_cap) {
    std::int32_t begin[kGradientPiece], end[kGradientPiece];
    // Both ends grow with the query.
    const bool all_visible = head_->begin_of(row(first_row + hi - 1)) <= first &&
                             head_->end_of(row(first_row + lo)) >= first + used;
    for (std::int64_t i = lo; i < hi && !all_visible; ++i) {
      const std::int64_t r = row(first_row + i);
      begin[i] = static_cast<std::int32_t>(max_of(min_of(head_->begin_of(r) - first, nr), 0));
      end[i] = static_cast<std::int32_t>(max_of(min_of(head_->end_of(r) - first, nr), 0));
    }
    const bool has_cap = head_->terms.softcap != 0.0f;
    if (head_->terms.any()) {
      for (std::int64_t i = lo; i < hi; ++i)
        add_terms(first_row + i, first, used, p_ + i * nr, capped_ + i * nr, nr);
    }
    kernels_.gradient->scores({p_ + lo * nr, ds_ + lo * nr, hi - lo, nr, lse + lo, delta + lo,
                               all_visible ? nullptr : begin + lo, end + lo,
                               has_cap && is_before_cap ? capped_ + lo * nr : nullptr,
                               has_cap ? 1.0f / head_->terms.softcap : 0.0f,
                               head_->terms.any() ? 1.0f : set_.score_scale(head_->q_scale),
                               ds_rows_ ? ds_rows_ + lo * nr : nullptr});
  }

  void add_terms(std::int64_t position, std::int64_t first, std::int64_t used, float* s, float* capped,
                 std::int64_t nr) const {
    const std::int64_t r = row(position);
    ScoreTerms terms = head_->terms;
    float scale = set_.score_scale(head_->q_scale);
    if (terms.softcap != 0.0f) {
      ScoreTerms cap;
      cap.softcap = terms.softcap;
      set_.score->row({s, used, &cap, nullptr, nullptr, 0.0f, 0, scale});
      std::memcpy(capped, s, static_cast<std::size_t>(nr) * sizeof(float));
      terms.softcap = 0.0f, scale = 1.0f;
      if (!terms.any()) return;
    }
    set_.score->row({s, used, &terms, terms.has_bias ? head_->bias_row(r, first) : nullptr,
                     terms.has_mask ? head_->mask_row(r, first) : nullptr,
                     terms.has_alibi ? head_->slope_of(r) : 0.0f,
                     terms.has_alibi ? head_->position_of(r, first) : 0, scale});
  }

  /// `seen` counted from the first position of `piece`, with its begin rounded down to a whole step: P and dS
  /// of the position that this adds are 0.
  Positions whole_steps(const Positions& seen, const Positions& piece) const {
    const std::int64_t lo = seen.begin - piece.begin, hi = seen.end - piece.begin;
    return lo < hi ? Positions{lo / set_.per_step() * set_.per_step(), hi} : Positions{lo, lo};
  }

  /// The keys of a piece that a tile of queries sees, from the first to the last.
  Positions keys_seen(std::int64_t tile, std::int64_t used, const Positions& keys) const {
    return {max_of(keys.begin, head_->begin_of(row(tile))),
            min_of(keys.end, head_->end_of(row(tile + used - 1)))};
  }

  /// Transposes dS of rows [lo, hi) and keys [first, first + used), to queries in the lanes; 0 for queries
  /// outside these rows.
  void transpose(const Positions& queries, const Positions& keys, std::int64_t first, std::int64_t used,
                 std::int64_t nr, std::int64_t lo, std::int64_t hi) const {
    alignas(64) static constexpr float kZeros[kMaxLanes] = {};
    float* to = transposed_;
    for_each_tile(
        set_, queries.begin, queries.end, [&](std::int64_t tile, std::int64_t rows, std::int64_t lanes) {
          const Positions seen = keys_seen(tile, rows, keys);
          if (seen.begin < first + used && seen.end > first) {
            const void* from[kMaxLanes];
            for (std::int64_t n = 0; n < rows; ++n) {
              const std::int64_t i = tile - queries.begin + n;
              from[n] = i < lo || i >= hi    ? static_cast<const void*>(kZeros)
                        : set_.is_in_pairs() ? static_cast<const void*>(ds_rows_ + i * nr)
                                             : ds_ + i * nr;
            }
            kernels_.pack_dscores->query(
                {from, rows, lanes, used, 1.0f, to + (first - keys.begin) / set_.per_step() * lanes});
          }
          to += lanes * set_.steps(kGradientPiece);
        });
  }

  /// Adds what a piece of queries and a piece of keys, number k of its block, contribute to the sums.
  void add(const Positions& queries, const Positions& keys, std::int64_t k) {
    const float *b = operands_.keys[k], *b_values = operands_.values[k];
    for_each_tile(set_, keys.begin, keys.end, [&](std::int64_t first, std::int64_t used, std::int64_t nr) {
      const auto [lo, hi] = whole_steps(queries_seeing(*head_, queries, first, first + used), queries);
      if (lo < hi) add_keys(queries, first, used, nr, b, b_values, lo, hi);
      transpose(queries, keys, first, used, nr, lo, hi);
      b += nr * set_.steps(dim_);
      b_values += nr * set_.steps(v_dim_);
    });
    add_to_queries(queries, keys, operands_.key_values[k]);
  }

  void add_keys(const Positions& queries, std::int64_t first, std::int64_t used, std::int64_t nr,
                const float* keys, const float* values, std::int64_t lo, std::int64_t hi) {
    float *const dv = problem_->dv_sum + first * round_up(v_dim_, set_.mr), *const dk =
                                                                                problem_->dk_sum +
                                                                                first *
                                                                                    round_up(dim_, set_.mr);
    // The sums of dQ are not fetched: no gain (1.00 at 1024, 0.98 to 1.00 at 4096, pairs of bf16).
    fetch(dv, nr * round_up(v_dim_, set_.mr));
    fetch(dk, nr * round_up(dim_, set_.mr));
    first_product(operands_.q, keys, dim_, nr, lo, hi, p_);
    first_product(operands_.dout, values, v_dim_, nr, lo, hi, ds_);
    const std::int64_t from = g_ * head_->q_len + queries.begin;
    scores_to_gradients(queries.begin, first, used, nr, lo, hi, problem_->lse + from, problem_->delta + from,
                        true);
    // The steps were written from row `lo` on, and last_product() counts them from the first row.
    const std::int64_t before = (lo - lo / set_.per_step()) * nr;
    const float *const p = p_ + before, *const ds = ds_ + before;
    last_product(operands_.dout_values, queries.count(), v_dim_, p, nr, lo, hi, dv);
    last_product(operands_.q_values, queries.count(), dim_, ds, nr, lo, hi, dk);
    const auto goes_with = [&](std::int64_t i, std::int64_t n) {
      return is_visible(queries.begin + i, first + n);
    };
    if (!operands_.dout_values.is_finite)
      add_poison(
          problem_->dout_element, v_dim_,
          [&](std::int64_t i) { return operands_.dout_row(queries.begin + i); }, goes_with, p, nr, used, lo,
          hi, dv);
    if (!operands_.q_values.is_finite)
      add_poison(
          set_.types.query, dim_, [&](std::int64_t i) { return operands_.q_row(queries.begin + i); },
          goes_with, ds, nr, used, lo, hi, dk);
  }

  /// Adds dS of rows [lo, hi) of a piece of queries and of a tile of keys to `to`. The first key is column
  /// `column`.
  void add_to_terms(const Positions& queries, const Positions& keys, std::int64_t column, std::int64_t nr,
                    std::int64_t lo, std::int64_t hi, const TermSums& to) const {
    for (std::int64_t i = lo; i < hi; ++i) {
      const float* const ds = ds_ + i * nr;
      double* const sums = to.sums + i * to.row_stride + column * to.column_stride;
      const std::int64_t ahead = queries.begin + i + head_->diagonal - keys.begin;
      for (std::int64_t n = 0; n < keys.count(); ++n) {
        const auto x = static_cast<double>(ds[n]);
        const std::int64_t distance = ahead < n ? n - ahead : ahead - n;
        sums[n * to.column_stride] += to.is_times_distance ? x * -static_cast<double>(distance) : x;
      }
    }
  }

  void add_to_queries(const Positions& queries, const Positions& keys, const GradientPanels& values) {
    const float* weights = transposed_;
    for_each_tile(
        set_, queries.begin, queries.end, [&](std::int64_t tile, std::int64_t used, std::int64_t nr) {
          const auto [lo, hi] = whole_steps(keys_seen(tile, used, keys), keys);
          float* const dq = problem_->dq_sum + g_ * gradient_floats(kernels_, head_->q_len, dim_) +
                            tile * round_up(dim_, set_.mr);
          if (lo < hi) {
            last_product(values, keys.count(), dim_, weights, nr, lo, hi, dq);
            if (!values.is_finite)
              add_poison(
                  set_.types.key, dim_, [&](std::int64_t j) { return operands_.key_row(keys.begin + j); },
                  [&](std::int64_t j, std::int64_t n) { return is_visible(tile + n, keys.begin + j); },
                  weights, nr, used, lo, hi, dq);
          }
          weights += nr * set_.steps(kGradientPiece);
        });
  }

  const GradientKernels& kernels_;
  const KernelSet& set_;
  const std::int64_t dim_, v_dim_;
  const GradientProblem* problem_ = nullptr;
  const HeadProblem* head_ = nullptr;
  std::int64_t g_ = 0;
  Carver carver_;
  GradientOperands operands_;
  float *p_, *ds_, *capped_;          // [kGradientPiece][nr]
  float* transposed_;                 // [tiles of queries][steps of kGradientPiece keys][nr]
  std::uint16_t* ds_rows_ = nullptr;  // [kGradientPiece][nr], of pairs
  alignas(64) float ones_[kMaxLanes];
};

}  // namespace

bool sees_any(const HeadProblem& head, const Positions& queries, const Positions& keys) {
  return queries_seeing(head, queries, keys.begin, keys.end).count() > 0;
}

std::size_t gradient_scratch_bytes(const GradientKernels& kernels, std::int64_t head_dim,
                                   std::int64_t v_head_dim) {
  return Pair(kernels, head_dim, v_head_dim, nullptr).scratch_bytes();
}

void gradient_pairs(const GradientKernels& kernels, const GradientProblem& problem, std::int64_t first,
                    std::int64_t last, const Positions& keys, std::byte* scratch) noexcept {
  Pair(kernels, problem.head.head_dim, problem.head.v_head_dim, scratch).run(problem, first, last, keys);
}

void gradient_terms(const GradientKernels& kernels, const GradientProblem& problem, std::int64_t g,
                    const Positions& queries, const Positions& keys, const float* lse, const float* delta,
                    const TermSums& sums, std::byte* scratch) noexcept {
  Pair(kernels, problem.head.head_dim, problem.head.v_head_dim, scratch)
      .run_terms(problem, g, queries, keys, lse, delta, sums);
}

}  // namespace kumiko::kernels
