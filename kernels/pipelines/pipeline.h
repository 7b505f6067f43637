// SPDX-License-Identifier: Apache-2.0
// Single-core compositions of the operations: one task of attention from strided tensors to output rows.
//
// The canonical walk, the same in every pipeline, so that a row's bits do not depend on how the work was cut:
//   keys are cut at absolute positions into splits of kSplitKeys and these into blocks of kBlockKeys;
//   a split starts from the empty state and takes its blocks in order (softmax.h's update per block);
//   split states are merged in order into the row's state (state.h).
// kSplitKeys bounds the parallelism of decode (a 4096-key head gives 8 tasks) and costs prefill one pass over
// O^T per 512 keys (0.4 %). kBlockKeys x 48 queries of S^T are 48 KiB: the L1 of Zen 5, half the L2 traffic
// of 128-key blocks elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "kernels/decode/decode.h"
#include "kernels/float_state.h"
#include "kernels/gemm/gemm.h"
#include "kernels/int8_scores/int8_scores.h"
#include "kernels/key_tiles/key_tiles.h"
#include "kernels/pack/pack.h"
#include "kernels/pipelines/key_lists.h"
#include "kernels/pipelines/key_rows.h"
#include "kernels/score/score.h"
#include "kernels/score_tile/score_tile.h"
#include "kernels/softmax/softmax.h"
#include "kernels/state/state.h"
#include "kernels/store/store.h"

namespace kumiko::kernels {

inline constexpr std::int64_t kBlockKeys = 256;
inline constexpr std::int64_t kSplitKeys = 512;
/// Floats between the slots of a ring or a staging buffer: blocks are multiples of 4 KiB and, at 64 queries,
/// of 16 KiB, the sizes of an L1 way on x86 and on A64FX, so that slots without a gap would fall into the
/// same sets. Five of A64FX's 256-byte lines. It makes no difference on Zen 5: three_pass of four tiles over
/// 4096 keys at D = 256 ran at 0.83 of peak without, at 0.85 and 0.88 with the gap, over 32768 keys at 0.82
/// against 0.81 and 0.85.
inline constexpr std::int64_t kSlotPadding = 320;

/// Element types of a problem's tensors, by role.
struct ElementTypes {
  Element query, key, value, output;
};

/// Everything a pipeline needs of one ISA for one combination of element types.
struct KernelSet {
  Isa isa;
  ElementTypes types;
  Element product;  ///< what the products multiply: f32, bf16 in pairs, or f16 (gemm.h)
  std::int64_t mr;
  std::int64_t lanes;
  std::int64_t max_nr;  ///< widest query tile
  std::int64_t strip;   ///< no tile crosses a multiple of so many rows of its task
  const ScoreKernel* score;
  const SoftmaxKernel* softmax;
  const PackKernel* pack;
  const StateKernel* state;
  const StoreKernel* store;          ///< output rows
  const StoreKernel* store_partial;  ///< f32 states
  const PackKernel* load_state;      ///< loads f32 states again, from rows to lanes
  const DecodeKernel* decode;
  /// Kernels with vectors half as wide, which give the same bits. They are used for scores, and for f32
  /// values, of up to narrow_decode_rows query rows (fit_kernels() sets it) where keys or values are adjacent
  /// in memory. nullptr where there are none.
  const DecodeKernel* narrow_decode;
  std::int64_t narrow_decode_rows = 0;
  const KeyTilesKernel* key_tiles;
  const GemmKernel* gemm[3];                       ///< [n - 1]: n vectors of queries; nullptr: none
  const TransposedGemmKernel* transposed_gemm[3];  ///< the same
  const ScoreTileKernel* score_tile;
  const Int8ScoresKernel* int8 =
      nullptr;                     ///< for int8 queries and keys (P V is a product of f32); else nullptr
  std::int64_t pipe_ahead = 1;     ///< interleaved: steps from the consumer to the producer
  std::int64_t staged_splits = 1;  ///< three_pass: splits in a super-block
  std::int64_t page_keys = 0;  ///< KeyRows::page_keys of the problem: room for rows that are copied together
  bool has_key_lists = false;  ///< the problem has KeyLists: room for masks that are made from them
  FetchDistances fetch;        ///< decode

  const DecodeKernel& decode_scores_of(std::int64_t rows, bool is_adjacent) const {
    return *(narrow_decode && is_adjacent && rows <= narrow_decode_rows ? narrow_decode : decode);
  }
  const DecodeKernel& decode_values_of(std::int64_t rows, bool is_adjacent) const {
    return types.value == Element::f32 ? decode_scores_of(rows, is_adjacent) : *decode;
  }
  /// Elements and bytes in a step of the product; steps of n elements.
  std::int64_t per_step() const { return is_in_pairs() ? 2 : 1; }
  std::int64_t step_bytes() const { return product == Element::f16 ? 2 : 4; }
  std::int64_t steps(std::int64_t n) const { return (n + per_step() - 1) / per_step(); }
  /// Bytes of the packed queries of a tile, and of a panel of keys.
  std::int64_t query_bytes(std::int64_t dim, std::int64_t nr) const {
    return int8 ? int8->query_bytes(dim, nr) : steps(dim) * nr * step_bytes();
  }
  std::int64_t panel_bytes(std::int64_t dim) const {
    return int8 ? int8->panel_bytes(dim) : steps(dim) * mr * step_bytes();
  }
  /// Steps of the score product.
  std::int64_t score_steps(std::int64_t dim) const { return int8 ? int8->steps(dim) : steps(dim); }
  /// Whether queries and keys have factors beside their panels.
  bool has_ranges() const { return product == Element::f16 || int8; }
  bool is_in_pairs() const { return product == Element::bf16; }
  /// Factors of the query and of the scores, whose product is `scale`. For bf16 products the query's factor
  /// is its sign.
  float query_scale(float scale) const {
    return !is_in_pairs() || scale == 0.0f ? scale : scale > 0.0f ? 1.0f : -1.0f;
  }
  float score_scale(float scale) const {
    return !is_in_pairs() || scale == 0.0f ? 1.0f : scale > 0.0f ? scale : -scale;
  }
  /// Whether a tile's product with a block's values must be one call: chains of f16 end in sums of their own,
  /// and a call that ended earlier would add a rounding. Other products round once a step, wherever calls
  /// end.
  bool has_block_chains() const { return product == Element::f16; }
  /// Largest magnitude of a value that the product takes.
  float value_limit() const {
    return product == Element::f16 ? kHalfValueLimit : std::numeric_limits<float>::max();
  }
};
/// The set with the ISA's own choice of a product. nullptr for an ISA that this build lacks, or types that no
/// kernels take together: queries, keys and values have one type, or queries and keys are int8.
const KernelSet* kernel_set(Isa isa, const ElementTypes& types);
/// The same with that product; nullptr if the ISA has no kernels for it either.
const KernelSet* kernel_set(Isa isa, const ElementTypes& types, Element product);

/// Splits of a call that has only some of the keys. All by default.
struct OwnSplits {
  std::int64_t begin = 0, end = std::numeric_limits<std::int64_t>::max();
  std::int64_t parts = 1, part = 0;  ///< of these, every parts-th: those with split % parts == part

  bool has(std::int64_t split) const {
    return split >= begin && split < end && (parts == 1 || split % parts == part);
  }
};

/// Where the softmax of each row stands between two calls that have some of the keys each: rows of
/// partial_size(v_head_dim) floats. nullptr: one call has all keys.
struct RunningStates {
  float* rows = nullptr;
  bool is_first = true;  ///< rows start from the empty state
  bool is_last = true;   ///< rows end in outputs, and not in states

  bool loads() const { return rows && !is_first; }
  bool stores() const { return rows && !is_last; }
};

/// One KV head of one sequence. Rows are (query position, head of the group), position-major: row r is query
/// r / group of head r % group, so that neighbouring rows see almost the same keys. Strides in elements.
/// Fields without a default must be set.
struct HeadProblem {
  const void* q;
  KeyRows k, v;
  /// Scales of int8 queries and keys; nullptr: 1. Those of keys are laid out as keys are, in rows of one f32.
  const float* q_scales = nullptr;
  std::int64_t q_scales_head_stride = 0, q_scales_seq_stride = 0;
  KeyRows k_scales{};
  void* out;
  float* lse;  ///< nullptr: not wanted
  std::int64_t q_head_stride, q_seq_stride;
  std::int64_t out_head_stride, out_seq_stride;
  std::int64_t lse_head_stride, lse_seq_stride;
  /// Elements from q to each query position, for rows without a constant stride; nullptr: q_seq_stride says
  /// where.
  const std::int64_t* q_offsets = nullptr;
  std::int64_t group;
  std::int64_t q_len, kv_len;
  std::int64_t head_dim, v_head_dim;
  float q_scale;            ///< folded into q: softmax scale * log2(e), or scale / softcap
  bool has_softmax = true;  ///< false: out = (scores) V, and hidden scores are 0
  /// Precomputed scores, instead of q, k and head_dim; times q_scale they are in log2 units. Precomputed
  /// scores, and problems without a softmax, need f32 products.
  const void* scores = nullptr;
  bool integer_scores = false;  ///< int32, else f32
  std::int64_t scores_head_stride = 0, scores_seq_stride = 0;
  /// V as pack.h's panels, finite, block after block of kBlockKeys keys; nullptr: packed by each task.
  const float* value_panels = nullptr;
  std::int64_t diagonal;  ///< query i stands at key position i + diagonal
  ScoreTerms terms;
  const void* bias = nullptr;  ///< of terms.bias_element
  /// nullptr: none. With `lists` a mask is made of both, for some rows and keys.
  const std::uint8_t* mask = nullptr;
  KeyLists lists{};
  const float* alibi_slopes = nullptr;  ///< [group]
  const float* sinks = nullptr;         ///< [group], natural units; nullptr: none
  LseForm lse_form;
  std::int64_t bias_head_stride, bias_seq_stride;
  std::int64_t mask_head_stride, mask_seq_stride, mask_key_stride;
  /// Query i sees keys [max(0, i + begin_offset), max(prefix, min(kv_len, i + end_offset))) and, of the keys
  /// before that end, the first `first_tokens`.
  std::int64_t begin_offset, end_offset;
  std::int64_t first_tokens = 0;  ///< at most kv_len
  std::int64_t prefix = 0;        ///< at most kv_len
  /// Where a key's value begins in the key's own row, in elements; -1: values are elsewhere.
  std::int64_t value_in_key = -1;
  float* row_max = nullptr;  ///< nullptr: not wanted
  std::int64_t row_max_head_stride = 0, row_max_seq_stride = 0;
  OwnSplits own;
  RunningStates running;

  const void* q_row(Element element, std::int64_t row) const {
    const std::int64_t position = row / group;
    return element_at(
        element, q,
        row % group * q_head_stride + (q_offsets ? q_offsets[position] : position * q_seq_stride));
  }
  /// Factor of the scores of int8 query `row`.
  float q_factor(std::int64_t row) const {
    if (!q_scales) return q_scale;
    return q_scales[row % group * q_scales_head_stride + row / group * q_scales_seq_stride] * q_scale;
  }
  /// Factors of int8 keys [first, last).
  void k_factors(std::int64_t first, std::int64_t last, float* to) const {
    for (std::int64_t key = first; key < last;) {
      const std::int64_t end =
          k_scales.data && k_scales.piece_end(key) < last ? k_scales.piece_end(key) : last;
      const auto* from = static_cast<const float*>(k_scales.row(Element::f32, key));
      for (; key < end; ++key, from += from ? k_scales.stride : 0) *to++ = from ? *from : 1.0f;
    }
  }
  std::int64_t score_dim() const { return scores ? 0 : head_dim; }
  void* out_row(Element element, std::int64_t row) const {
    return element_at(element, out, row % group * out_head_stride + row / group * out_seq_stride);
  }
  const void* bias_row(std::int64_t row, std::int64_t key) const {
    return element_at(
        terms.bias_element, bias,
        row % group * bias_head_stride + row / group * bias_seq_stride + key * terms.bias_stride);
  }
  /// Whether mask or lists may hide one of keys [first, last).
  bool masks(std::int64_t first, std::int64_t last) const {
    return terms.has_mask && (mask || lists.hide_within(first, last));
  }
  const std::uint8_t* mask_row(std::int64_t row, std::int64_t key) const {
    return mask + row % group * mask_head_stride + row / group * mask_seq_stride + key * mask_key_stride;
  }
  float slope_of(std::int64_t row) const { return alibi_slopes[row % group] * -kLog2e; }
  /// The row's position counted from key `first`, limited to 32 bits: f32 cannot tell positions apart that
  /// are so far away.
  std::int32_t position_of(std::int64_t row, std::int64_t first) const {
    constexpr std::int64_t kFar = (std::int64_t{1} << 31) - 4096;
    const std::int64_t at = row / group + diagonal - first;
    return static_cast<std::int32_t>(at < -kFar ? -kFar : at > kFar ? kFar : at);
  }
  float& lse_of(std::int64_t row) const {
    return lse[row % group * lse_head_stride + row / group * lse_seq_stride];
  }

  float& row_max_of(std::int64_t row) const {
    return row_max[row % group * row_max_head_stride + row / group * row_max_seq_stride];
  }

  /// Whether ending a row takes the inverse of its sum and nothing else.
  bool ends_with_sum() const { return has_softmax && !lse && !row_max && !sinks; }
  std::int64_t begin_of(std::int64_t row) const {
    const std::int64_t at = row / group + begin_offset;
    return at < 0 ? 0 : at;
  }
  std::int64_t end_of(std::int64_t row) const {
    const std::int64_t at = row / group + end_offset;
    return at < prefix ? prefix : at > kv_len ? kv_len : at;
  }
};

/// Numbers of the splits that rows from some row on see. Between the first tokens and a window many splits
/// may be hidden. These have no numbers: those of the first tokens are numbered right before the window's.
struct SplitNumbers {
  std::int64_t hidden;  ///< how many splits have no number; also the number of the first tokens' first split
  std::int64_t first;   ///< splits of the first tokens

  SplitNumbers(const HeadProblem& head, std::int64_t row) : hidden(0), first(0) {
    if (head.first_tokens == 0) return;
    const std::int64_t begin = head.begin_of(row) < head.kv_len ? head.begin_of(row) : head.kv_len;
    first = (head.first_tokens + kSplitKeys - 1) / kSplitKeys;
    if (begin / kSplitKeys > first) hidden = begin / kSplitKeys - first;
  }
  /// Where split `number` lies among all keys.
  std::int64_t place(std::int64_t number) const { return number < hidden + first ? number - hidden : number; }
  /// The first number whose split lies at `place` or behind it.
  std::int64_t number(std::int64_t place) const {
    return place < first ? hidden + place : place < hidden + first ? hidden + first : place;
  }
};

/// What a task is about to do. A trace is told of it, and reads the clock; kernels do not.
enum class Phase : std::uint8_t { queries, pack, scores, softmax, values, decode, merge, store };
struct PhaseWatch {
  void (*enter)(PhaseWatch* self, Phase phase) noexcept;
};

/// What one task computes: rows [row_begin, row_end) over splits [split_begin, split_end).
struct TaskRange {
  std::int64_t row_begin, row_end;
  std::int64_t split_begin, split_end;
  /// nullptr: the task sees every split of its rows and writes its outputs. Otherwise it writes each split's
  /// state of each row, [splits from partial_split on][partial_rows from partial_row on].
  float* partial;
  std::int64_t partial_split, partial_row, partial_rows;
  PhaseWatch* watch = nullptr;
  std::int64_t partial_step = 1;  ///< from one split with a state to the next
  bool partial_merged = false;  ///< tiles only: one state of all the task's splits, in the place of the first

  bool keeps_each_split() const { return partial && !partial_merged; }

  void enter(Phase phase) const {
    if (watch) watch->enter(watch, phase);
  }

  /// size: partial_size(v_head_dim)
  float* state_of(std::int64_t split, std::int64_t row, std::int64_t size) const {
    return partial + ((split - partial_split) / partial_step * partial_rows + row - partial_row) * size;
  }
};

/// Floats of one stored state: O [v_head_dim] unnormalised, m, l.
constexpr std::int64_t partial_size(std::int64_t v_head_dim) {
  return v_head_dim + 2;
}

/// Relative time of one task, for balance: `visible` query-key pairs in `rows` rows over `keys` keys.
struct TaskSize {
  std::int64_t visible, rows, keys, head_dim, v_head_dim;
};
std::int64_t tile_cost(const TaskSize& task);
std::int64_t in_place_cost(const TaskSize& task);

/// What a plan must know of how a pipeline uses its operands and scratch.
struct PipelineTraits {
  /// K and V are read in place, row by row, and scores cannot be precomputed.
  bool in_place = false;
  /// No tile leaves probabilities behind: only the packed block must stay in the L2.
  bool streams_tiles = false;
  bool uses_ring = false;     ///< KernelSet::pipe_ahead
  bool uses_staging = false;  ///< KernelSet::staged_splits
};

struct PipelineRow {
  const char* name;
  PipelineTraits traits;
  std::int64_t (*cost)(const TaskSize&);
  /// Bytes of scratch for tasks of at most `rows` rows; the scratch must be 64-byte aligned.
  std::size_t (*scratch_bytes)(const KernelSet&, std::int64_t rows, std::int64_t head_dim,
                               std::int64_t v_head_dim);
  void (*run)(const KernelSet&, const HeadProblem&, const TaskRange&, std::byte* scratch) noexcept;
};

/// Writes the LSE and maximum of a row whose last state is (m, l), where they are wanted, and returns the
/// factor of its O.
float end_row(const KernelSet&, const HeadProblem&, std::int64_t row, float m, float l);

std::span<const PipelineRow> pipeline_rows();
const PipelineRow* find_pipeline(const char* name);

/// The state of one row.
struct RowState {
  float *m, *l, *o;  ///< o: [v_head_dim]
};
void load_running(const HeadProblem& head, std::int64_t row, const RowState& to) noexcept;
/// Merges a stored state, partial_size(dim) floats, into a row's.
void merge_state(const KernelSet& kernels, const float* state, std::int64_t dim,
                 const RowState& into) noexcept;
/// Writes a row's last state to where the row ends: running states, or out and lse.
void end_merged_row(const KernelSet& kernels, const HeadProblem& head, std::int64_t row,
                    const RowState& state) noexcept;

/// Merges the states of one row, split after split, with what the row's running state has, and ends it.
class RowMerge {
 public:
  /// `scratch`: v_head_dim floats.
  RowMerge(const KernelSet& kernels, const HeadProblem& head, std::int64_t row, float* scratch) noexcept;
  /// The states of splits [split_begin, split_end) that tasks of `range` stored for its row `row`.
  void add(const TaskRange& range, std::int64_t row, std::int64_t split_begin,
           std::int64_t split_end) noexcept;
  /// Adds one state.
  void add(const float* state) noexcept;
  void end() noexcept;

 private:
  const KernelSet& kernels_;
  const HeadProblem& head_;
  const std::int64_t row_;
  float m_, l_ = 0.0f;
  float* o_;
};

constexpr std::int64_t round_up(std::int64_t x, std::int64_t to) {
  return (x + to - 1) / to * to;
}
constexpr std::int64_t min_of(std::int64_t a, std::int64_t b) {
  return a < b ? a : b;
}
constexpr std::int64_t max_of(std::int64_t a, std::int64_t b) {
  return a > b ? a : b;
}

/// Hands out 64-byte aligned pieces of a task's scratch. With base nullptr it only counts.
class Carver {
 public:
  explicit Carver(std::byte* base) : base_(base) {}
  template <class T>
  T* take(std::int64_t count) {
    T* piece = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += static_cast<std::size_t>(round_up(count * static_cast<std::int64_t>(sizeof(T)), 64));
    return piece;
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

}  // namespace kumiko::kernels
