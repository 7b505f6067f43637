// SPDX-License-Identifier: Apache-2.0
// Random tree masks and lists of key blocks, between guard pages.
#pragma once

#include <cstdint>
#include <ostream>
#include <vector>

#include "runtime/attention.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/random.h"

namespace kumiko::test {

struct KeyListShape {
  bool tree = false;
  std::int64_t bsr_rows = 0, bsr_keys = 0;  ///< 0: no lists
  bool bsr_heads = false;                   ///< each head its own
};
std::ostream& operator<<(std::ostream& os, const KeyListShape& shape);
/// One of them, or both.
KeyListShape draw_key_lists(Random& random);

class KeyListData {
 public:
  KeyListData() = default;
  /// For sequences of so many queries and keys.
  KeyListData(const KeyListShape& shape, std::int64_t q_heads, const std::vector<std::int64_t>& q_lens,
              const std::vector<std::int64_t>& kv_lens, Random& random);
  /// Points the fields of `args` to the lists.
  void set(AttentionArgs* args) const;
  /// Those of sequence b alone.
  void set_alone(std::size_t b, AttentionArgs* args) const;

  std::int32_t* indptr() const { return reinterpret_cast<std::int32_t*>(indptr_.data()); }
  std::int32_t* indices() const { return reinterpret_cast<std::int32_t*>(indices_.data()); }

 private:
  KeyListShape shape_;
  std::int64_t tree_stride_ = 0, head_stride_ = 0;
  std::vector<std::int64_t> first_position_, first_block_;  // of each sequence
  GuardedBuffer tree_, indptr_, indices_;
};

}  // namespace kumiko::test
