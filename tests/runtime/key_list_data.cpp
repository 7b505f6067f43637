// SPDX-License-Identifier: Apache-2.0
#include "tests/runtime/key_list_data.h"

#include <algorithm>
#include <cstring>

namespace kumiko::test {
namespace {

GuardedBuffer copied(const void* from, std::size_t bytes, Random& random) {
  GuardedBuffer buffer(bytes, random.one_in(2) ? Flush::front : Flush::back);
  if (bytes > 0) std::memcpy(buffer.data(), from, bytes);
  return buffer;
}
template <class T>
GuardedBuffer copied(const std::vector<T>& from, Random& random) {
  return copied(from.data(), from.size() * sizeof(T), random);
}

}  // namespace

std::ostream& operator<<(std::ostream& os, const KeyListShape& s) {
  if (s.tree) os << " tree";
  if (s.bsr_rows > 0)
    os << " key blocks of " << s.bsr_rows << " x " << s.bsr_keys << (s.bsr_heads ? " per head" : "");
  return os;
}

KeyListShape draw_key_lists(Random& random) {
  KeyListShape s;
  s.tree = random.one_in(2);
  if (s.tree && random.one_in(2)) return s;
  s.bsr_rows = random.pick<std::int64_t>({1, 3, 16, 64, 100, 1000});
  s.bsr_keys = random.pick<std::int64_t>({1, 5, 16, 64, 100, 256, 300, 2147483647});
  s.bsr_heads = random.one_in(2);
  return s;
}

KeyListData::KeyListData(const KeyListShape& shape, std::int64_t q_heads,
                         const std::vector<std::int64_t>& q_lens, const std::vector<std::int64_t>& kv_lens,
                         Random& random)
    : shape_(shape) {
  std::int64_t positions = 0, blocks = 0, longest = 0;
  for (const std::int64_t q_len : q_lens) {
    first_position_.push_back(positions), first_block_.push_back(blocks);
    positions += q_len;
    longest = std::max(longest, q_len);
    if (shape.bsr_rows > 0) blocks += (q_len + shape.bsr_rows - 1) / shape.bsr_rows;
  }
  if (shape.tree) {
    const std::int64_t bytes = (longest + 7) / 8;
    tree_stride_ = bytes + random.pick({0, 0, 1, 5});
    std::vector<std::uint8_t> bits(
        static_cast<std::size_t>(positions > 0 && bytes > 0 ? (positions - 1) * tree_stride_ + bytes : 0));
    for (std::uint8_t& byte : bits) byte = static_cast<std::uint8_t>(random.bits() | random.bits());
    tree_ = copied(bits, random);
  }
  if (shape.bsr_rows == 0) return;
  head_stride_ = shape.bsr_heads ? blocks + 1 + random.between(0, 3) : 0;
  std::vector<std::int32_t> indptr, indices(static_cast<std::size_t>(random.between(0, 3)), -77);
  const auto add_list = [&](std::int64_t kv_len) {
    const std::int64_t one_in = random.pick({1, 2, 4, 1000});
    for (std::int64_t j = 0; j * shape.bsr_keys < kv_len; ++j) {
      if (random.one_in(one_in)) indices.push_back(static_cast<std::int32_t>(j));
    }
    indptr.push_back(static_cast<std::int32_t>(indices.size()));
  };
  for (std::int64_t h = 0; h < (shape.bsr_heads ? q_heads : 1); ++h) {
    indptr.resize(static_cast<std::size_t>(h * head_stride_), -5);
    indptr.push_back(static_cast<std::int32_t>(indices.size()));
    for (std::size_t b = 0; b < q_lens.size(); ++b)
      for (std::int64_t i = 0; i < q_lens[b]; i += shape.bsr_rows) add_list(kv_lens[b]);
  }
  indptr_ = copied(indptr, random);
  indices_ = copied(indices, random);
}

void KeyListData::set(AttentionArgs* args) const {
  if (shape_.tree) {
    args->tree_mask = reinterpret_cast<const std::uint8_t*>(tree_.data());
    args->tree_mask_stride = tree_stride_;
  }
  if (shape_.bsr_rows == 0) return;
  args->bsr_indptr = indptr();
  args->bsr_indices = indices();
  args->bsr_rows = shape_.bsr_rows, args->bsr_keys = shape_.bsr_keys;
  args->bsr_head_stride = head_stride_;
}

void KeyListData::set_alone(std::size_t b, AttentionArgs* args) const {
  set(args);
  if (args->tree_mask) args->tree_mask += first_position_[b] * tree_stride_;
  if (args->bsr_indptr) args->bsr_indptr += first_block_[b];
}

}  // namespace kumiko::test
