// SPDX-License-Identifier: Apache-2.0
// A decode of one token over a cache in pages of 512 keys.
#pragma once

#include <kumiko/attention.h>

#include <cstdint>
#include <numeric>
#include <vector>

namespace kumiko::test {

/// All values are 1, and so is every output.
struct PagedDecode {
  explicit PagedDecode(std::int32_t keys = 3000, std::int64_t num_heads = 2, std::int64_t head_dim = 8)
      : heads(num_heads),
        dim(head_dim),
        length(keys),
        table(static_cast<std::size_t>((keys + 511) / 512)),
        q(static_cast<std::size_t>(heads * dim), 0.5f),
        k(table.size() * 512 * q.size(), 0.5f),
        v(k.size(), 1.0f),
        out(q.size(), -1.0f) {
    std::iota(table.begin(), table.end(), 0);
  }
  PagedDecode(const PagedDecode&) = delete;

  AttentionArgs args() {
    const std::int64_t pages = std::ssize(table);
    AttentionArgs a;
    a.q = ConstTensor::bhsd(q.data(), 1, heads, 1, dim);
    a.k = ConstTensor::bhsd(k.data(), pages, heads, 512, dim);
    a.v = ConstTensor::bhsd(v.data(), pages, heads, 512, dim);
    a.out = Tensor::bhsd(out.data(), 1, heads, 1, dim);
    a.seqused_k = &length;
    a.block_table = table.data(), a.max_pages = pages;
    return a;
  }
  void clear() { out.assign(out.size(), -1.0f); }
  bool is_untouched() const { return out == std::vector<float>(out.size(), -1.0f); }
  bool is_right() const { return all_are_one(out); }
  static bool all_are_one(const std::vector<float>& values) {
    for (const float x : values) {
      if (!(x > 0.999f && x < 1.001f)) return false;  // nor NaN
    }
    return true;
  }

  const std::int64_t heads, dim;
  const std::int32_t length;
  std::vector<std::int32_t> table;
  std::vector<float> q, k, v, out;
};

}  // namespace kumiko::test
