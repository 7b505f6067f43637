// One attention call to be measured: data, what counts as useful work, and whether the answer is right.
#pragma once

#include <kumiko/attention.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace kumiko::bench {

struct Shape {
  std::string name;
  std::int64_t batch = 1, q_heads = 1, kv_heads = 1, q_len = 1, kv_len = 1, head_dim = 1, v_head_dim = 1;
  bool is_causal = false;
  std::vector<std::int32_t> seqused_k{};  ///< Empty or one per batch.
  DataType type = DataType::f32;          ///< Of every tensor.
  std::int64_t window_left = -1;          ///< As in AttentionArgs.
  std::int64_t mask_block = 0;            ///< > 0: a boolean mask, half of its squares of this size hidden.
};

class Problem {
 public:
  explicit Problem(const Shape& shape);

  /// The keys and values lie in sets() copies' worth of the pool. Run after run over the sets, a decode step
  /// finds its cache line in memory and not in a cache that the previous step filled.
  int sets() const { return sets_; }
  AttentionArgs args(int set) const;

  /// 2 * (head_dim + v_head_dim) per visible score and query head. Invisible scores and the softmax do not
  /// count.
  double useful_flops() const;
  /// K and V of the used keys, read once.
  double kv_bytes() const;

  /// Makes every output NaN, so that a row that a run leaves out is seen.
  void poison();
  /// Compares sampled output rows of a run over `set` with an fp64 computation of the definition. "" or a
  /// sentence.
  std::string check(int set) const;

 private:
  std::int64_t used(std::int64_t batch) const;
  bool sees(std::int64_t batch, std::int64_t row, std::int64_t key) const;
  std::int64_t visible(std::int64_t batch, std::int64_t row) const;
  std::vector<double> expected_row(int set, std::int64_t batch, std::int64_t head, std::int64_t row) const;

  Shape shape_;
  int sets_ = 1;
  std::size_t set_elements_ = 0;
  std::vector<std::uint8_t> mask_;  ///< [q_len][kv_len], shared by batch and heads
  std::vector<std::byte> q_;
  std::vector<std::byte> out_;
};

}  // namespace kumiko::bench
