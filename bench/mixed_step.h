// SPDX-License-Identifier: Apache-2.0
// One step of a server that has a prompt's chunk and decodes at once: the step as one call, and its two
// parts.
#pragma once

#include <kumiko/attention.h>

#include <cstdint>
#include <string>
#include <vector>

#include "bench/data_pool.h"

namespace kumiko::bench {

/// A chunk of 512 queries after 2048 keys, and 63 decodes of 128 to 8192 keys. GQA 32/8, D = 128, pages of
/// 128 keys, [pages, page_size, heads, dim], in any order.
class MixedStep {
 public:
  explicit MixedStep(DataType type);

  AttentionArgs chunk() const { return args(0, 1); }
  AttentionArgs decodes() const { return args(1, kSequences); }
  AttentionArgs whole() const { return args(0, kSequences); }
  /// Makes every output NaN.
  void poison();
  const std::vector<std::byte>& output() const { return out_; }
  /// Compares rows of both parts with the definition in double. "" or a sentence.
  std::string check() const;

  static constexpr std::int64_t kSequences = 64;

 private:
  static constexpr std::int64_t kQueryHeads = 32, kHeads = 8, kDim = 128, kChunk = 512, kPage = 128;

  /// The call of sequences [first, last).
  AttentionArgs args(std::int64_t first, std::int64_t last) const;
  double value(const std::byte* rows, std::int64_t index) const;
  /// Of a key or value row, in bytes.
  std::int64_t row_at(std::int64_t sequence, std::int64_t key, std::int64_t head) const;
  void mark_values();
  std::string check_row(std::int64_t sequence, std::int64_t position, std::int64_t head) const;

  DataType type_;
  std::vector<std::int32_t> lengths_, cu_seqlens_, block_table_;
  std::int64_t max_pages_ = 0, pages_ = 0;
  std::vector<std::int32_t> chunk_positions_, decode_positions_;
  Pages keys_, values_;
  std::vector<std::byte> q_, out_;
};

}  // namespace kumiko::bench
