// SPDX-License-Identifier: Apache-2.0
// One attention call to be measured: its data, its useful work, and the check of its answer.
#pragma once

#include <kumiko/attention.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "bench/data_pool.h"
#include "bench/limit.h"

namespace kumiko::bench {

/// How a call is told which keys are hidden.
enum class MaskForm {
  booleans,
  key_blocks,  ///< bsr_indptr and bsr_indices
  tree         ///< tree_mask
};

struct Shape {
  std::string name;
  std::int64_t batch = 1, q_heads = 1, kv_heads = 1, q_len = 1, kv_len = 1, head_dim = 1, v_head_dim = 1;
  bool is_causal = false;
  std::vector<std::int32_t> seqused_k{};  ///< Empty or one per batch.
  std::vector<std::int32_t>
      cu_seqlens_q{};             ///< Empty, or as in AttentionArgs; then q_len is the most of a sequence.
  DataType type = DataType::f32;  ///< Of every tensor.
  std::int64_t window_left = -1;  ///< As in AttentionArgs.
  std::int64_t mask_block = 0;    ///< > 0: a mask, half of its squares of this size hidden.
  MaskForm mask_form = MaskForm::booleans;  ///< With a tree each query sees the keys before the last q_len
                                            ///< and, of these, itself and its ancestors; mask_block is 1.
  std::int64_t page_keys = 0;  ///< > 0: keys and values are read by block_table from pages of page_keys keys.
  std::vector<std::int32_t> block_table{};  ///< [batch, kv_len / page_keys]
  std::int64_t shared_keys = 0;  ///< With pages: the first shared_keys keys of all are those of sequence 0.
  bool bshd = false;             ///< Tensors are [batch, seq, heads, dim], not [batch, heads, seq, dim].
  bool is_int8 = false;          ///< Queries and keys are multiples of kInt8Step that fit in int8.
  bool latent = false;           ///< A key's value is the first v_head_dim elements of the key (MLA).
};

inline constexpr float kInt8Step = 0x1p-5f;

/// Changes to the definition: the faults that the check must find (answers_test.cpp).
struct Fault {
  double scale = 1;              ///< Times softmax_scale.
  std::int64_t kv_head = -1;     ///< In this head of every sequence
  std::int64_t dropped_key = 0;  ///< this key counts as hidden.
  bool rounds_weights = false;   ///< Not a fault but permitted rounding: weights rounded to the type.
};

/// A row of the answer in fp64, and how far each element may be from it (answers.cpp).
struct Row {
  std::int64_t batch, head, row;
  std::span<const double> want, tolerance;
};

/// The same problem with its memory seen as pages, those of a sequence in any order. The dense tensor in the
/// same memory has the same keys in another order, which does not change the answer of a decode step. Pages
/// of [batch, heads, seq, dim] are one head's keys; those of another head lie elsewhere. page_keys divides
/// kv_len.
Shape in_pages(Shape shape, std::int64_t page_keys);

/// The call of a problem without its memory, for plan().
AttentionArgs arguments(const Shape& shape);

/// Keys, values and queries are made so that every key, every row and the scale affect the answer visibly
/// (problem.cpp): in random data the contribution of one of 16384 keys averages out.
class Problem {
 public:
  /// Keys and values are laid out as many times as fit into `cache_bytes`, at least once. Run after run
  /// cycles through these sets, so that a decode step reads its cache lines from memory and not from a cache
  /// that the previous step filled.
  explicit Problem(const Shape& shape, std::size_t cache_bytes = 0);
  /// Bytes of such a problem and its check, for any shape; a double, because no integer may hold it.
  static double memory_bytes(const Shape& shape, std::size_t cache_bytes);

  const Shape& shape() const { return shape_; }
  /// Query rows of a sequence, and those before them in a packed tensor.
  std::int64_t q_len(std::int64_t batch) const;
  std::int64_t q_begin(std::int64_t batch) const;
  int sets() const { return sets_; }
  AttentionArgs args(int set) const;
  /// The keys and values of all sets, padded with zeros to a whole 4 KiB: what a decode row reads and its
  /// ceiling is measured on.
  std::span<const std::byte> cache() const;
  void touch() const { cache_.touch(); }

  /// 2 * (head_dim + v_head_dim) per visible score and query head. Invisible scores and the softmax do not
  /// count.
  double useful_flops() const;
  /// Bytes of K and V, or of latents, which are both, of the keys that any query sees (masks are ignored),
  /// each read once.
  double kv_bytes() const;
  Work work() const { return {useful_flops(), kv_bytes()}; }

  /// Makes every output NaN, so that a row that a run leaves out is detected.
  void poison();
  /// Compares every row of a run over `set` with answer(). "" or a sentence.
  std::string check(int set) const;

  /// Calls `visit` with every row of the answer over `set`, from several threads at once, but all rows of a
  /// KV head from one of them; when it returns false, the rest of the KV head's rows is left out.
  void answer(int set, const Fault& fault, const std::function<bool(const Row&)>& visit) const;
  /// The same row computed from the definition and the data alone.
  std::vector<double> defined_row(int set, std::int64_t batch, std::int64_t head, std::int64_t row) const;

  /// Elements from the start of the tensor to a row of q, or of out with v_head_dim.
  std::int64_t row_at(std::int64_t batch, std::int64_t head, std::int64_t row, std::int64_t dim) const;
  std::byte* out() { return out_.data(); }

 private:
  void fill(int set);
  void make_mask();
  void make_tree();
  void list_blocks(const std::vector<std::uint8_t>& shown);
  void answer_head(int set, const Fault& fault, std::int64_t batch, std::int64_t kv_head,
                   const std::function<bool(const Row&)>& visit) const;
  /// The keys that causality, window and length leave visible to a row: [first, end). Both grow with the row.
  struct Range {
    std::int64_t first, end;
  };
  Range range(std::int64_t batch, std::int64_t row) const;
  std::int64_t used(std::int64_t batch) const;
  bool sees(std::int64_t batch, std::int64_t row, std::int64_t key) const;
  std::int64_t visible(std::int64_t batch, std::int64_t row) const;
  /// Where a sequence's key lies, as a key of a dense tensor.
  struct Place {
    std::int64_t batch, key;
  };
  Place place_of(std::int64_t batch, std::int64_t key) const;
  std::int64_t key_at(std::int64_t batch, std::int64_t kv_head, std::int64_t key, std::int64_t dim) const;
  std::int64_t value_at(std::int64_t batch, std::int64_t kv_head, std::int64_t key) const {
    return key_at(batch, kv_head, key, shape_.latent ? shape_.head_dim : shape_.v_head_dim);
  }
  /// answer_head() of latents, whose scores differ from key to key.
  void answer_latents(int set, const Fault& fault, std::int64_t batch, std::int64_t kv_head,
                      const std::function<bool(const Row&)>& visit) const;
  std::size_t kind_at(int set, std::int64_t batch, std::int64_t kv_head, std::int64_t key) const;
  std::byte* keys(int set) const { return cache_.data() + static_cast<std::size_t>(set) * set_bytes_; }
  std::byte* values(int set) const { return keys(set) + value_offset_; }

  Shape shape_;
  std::size_t value_offset_ = 0, set_bytes_ = 0;
  int sets_ = 1;
  Pages cache_;
  std::vector<std::uint8_t> kinds_;  ///< [set][batch][kv_head][key], by place_of(): the kind of each key.
  std::vector<double> kind_keys_;    ///< [kind][head_dim], as they are in memory
  std::vector<std::uint8_t> mask_;   ///< [q_len][kv_len], shared by batch and heads
  std::vector<std::uint8_t> tree_;   ///< MaskForm::tree: [batch * q_len][(q_len + 7) / 8]
  std::vector<std::int32_t> block_begin_, blocks_;  ///< MaskForm::key_blocks
  std::vector<std::byte> q_;
  std::vector<std::byte> out_;
};

/// Number of different key vectors of a problem: few, so that the answer of every row is quickly computed.
inline constexpr std::int64_t kKinds = 16;

/// The largest change of `x` by rounding it to `type`: half a unit in the last place.
double half_ulp(DataType type, double x);

}  // namespace kumiko::bench
