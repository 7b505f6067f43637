// SPDX-License-Identifier: Apache-2.0
// Checks of tree masks and of lists of key blocks.
#include <algorithm>
#include <limits>
#include <string>

#include "runtime/problem.h"
#include "runtime/validate.h"
#include "runtime/validate_parts.h"

namespace kumiko {
namespace {

std::int64_t longest_query(const AttentionArgs& a) {
  if (!a.cu_seqlens_q) return a.q.shape[2];
  std::int64_t most = 0;
  for (std::int64_t b = 0; b < a.num_sequences; ++b)
    most = std::max<std::int64_t>(most, a.cu_seqlens_q[b + 1] - a.cu_seqlens_q[b]);
  return most;
}

/// a * b for a, b >= 0, or, if that overflows, a number too large for any table.
std::int64_t saturating_product(std::int64_t a, std::int64_t b) {
  constexpr std::int64_t kBeyond = std::numeric_limits<std::int64_t>::max() - 1;
  std::int64_t result = 0;
  return __builtin_mul_overflow(a, b, &result) ? kBeyond : std::min(result, kBeyond);
}

/// A tensor of bytes or of int32, by its shape and strides.
struct Table {
  std::int64_t shape[2], stride[2];
};

Table tree_table(const AttentionArgs& a) {
  const std::int64_t bytes = (longest_query(a) + 7) / 8,
                     rows = a.cu_seqlens_q ? a.cu_seqlens_q[a.num_sequences]
                                           : saturating_product(a.q.shape[0], a.q.shape[2]);
  return {{rows, bytes}, {a.tree_mask_stride > 0 ? a.tree_mask_stride : bytes, 1}};
}

/// Blocks of queries of all sequences.
std::int64_t query_blocks(const AttentionArgs& a) {
  const auto blocks = [&](std::int64_t q_len) { return q_len / a.bsr_rows + (q_len % a.bsr_rows != 0); };
  if (!a.cu_seqlens_q) return saturating_product(a.q.shape[0], blocks(a.q.shape[2]));
  std::int64_t count = 0;
  for (std::int64_t b = 0; b < a.num_sequences; ++b)
    count += blocks(a.cu_seqlens_q[b + 1] - a.cu_seqlens_q[b]);
  return count;
}

Table indptr_table(const AttentionArgs& a) {
  return {{a.bsr_head_stride > 0 ? a.q.shape[1] : 1, query_blocks(a) + 1}, {a.bsr_head_stride, 1}};
}

Status check_table_extent(const char* name, std::int64_t stride, const Table& table) {
  std::int64_t extent = 0;
  if (extent_of(table.shape, table.stride, 2, &extent)) return {};
  return invalid(name, stride, "a table that fits in the address space");
}

Status check_tree_mask(const AttentionArgs& a) {
  if (!a.tree_mask) {
    if (a.tree_mask_stride == 0) return {};
    return invalid("tree_mask_stride", a.tree_mask_stride, "0, as tree_mask is null");
  }
  const std::int64_t bytes = (longest_query(a) + 7) / 8;
  if (a.tree_mask_stride != 0 && a.tree_mask_stride < bytes)
    return invalid(
        "tree_mask_stride", a.tree_mask_stride,
        "0, or at least " + std::to_string(bytes) + " bytes, with a bit for each query of a sequence");
  return check_table_extent("tree_mask_stride", a.tree_mask_stride, tree_table(a));
}

Status check_bsr(const AttentionArgs& a) {
  if ((a.bsr_indptr == nullptr) != (a.bsr_indices == nullptr))
    return invalid(
        "bsr_indices", a.bsr_indices ? "given" : "null",
        a.bsr_indptr ? "lists of key blocks, as bsr_indptr is given" : "null, as bsr_indptr is null");
  for (const auto& [name, value] : {std::pair{"bsr_rows", a.bsr_rows}, std::pair{"bsr_keys", a.bsr_keys}}) {
    if (!a.bsr_indptr && value != 0) return invalid(name, value, "0, as bsr_indptr is null");
    if (a.bsr_indptr && (value < 1 || value > kMost32))
      return invalid(name, value, "1.." + std::to_string(kMost32) + ", the size of a block");
  }
  if (!a.bsr_indptr) {
    if (a.bsr_head_stride == 0) return {};
    return invalid("bsr_head_stride", a.bsr_head_stride, "0, as bsr_indptr is null");
  }
  const std::int64_t blocks = query_blocks(a);
  if (a.bsr_head_stride != 0 && a.bsr_head_stride <= blocks)
    return invalid(
        "bsr_head_stride", a.bsr_head_stride,
        "0, or at least " + std::to_string(blocks + 1) + ", one more than the number of query blocks");
  return check_table_extent("bsr_head_stride", a.bsr_head_stride, indptr_table(a));
}

/// Checks one head's row of bsr_indptr, `list`. `*entries`: the largest number of entries so far.
Status check_indptr(const std::int32_t* list, std::int64_t head, std::int64_t blocks, std::int64_t* entries) {
  const auto at = [&](std::int64_t i) {
    return "bsr_indptr[" + std::to_string(head) + ", " + std::to_string(i) + "]";
  };
  if (list[0] < 0) return invalid(at(0), list[0], "0 or more");
  for (std::int64_t i = 0; i < blocks; ++i) {
    if (list[i + 1] < list[i])
      return invalid(at(i + 1), list[i + 1], "at least " + at(i) + ", which is " + std::to_string(list[i]));
  }
  *entries = std::max<std::int64_t>(*entries, list[blocks]);
  return {};
}

/// Checks entries [begin, end) of bsr_indices: blocks of keys in ascending order.
Status check_list(const AttentionArgs& a, std::int64_t begin, std::int64_t end, std::int64_t capacity) {
  const std::int64_t key_blocks = capacity / a.bsr_keys + (capacity % a.bsr_keys != 0);
  for (std::int64_t n = begin; n < end; ++n) {
    if (a.bsr_indices[n] < 0 || a.bsr_indices[n] >= key_blocks)
      return invalid(entry("bsr_indices", n), a.bsr_indices[n],
                     key_blocks > 0 ? "0.." + std::to_string(key_blocks - 1) + ", the blocks of kv_len"
                                    : "no entry, as kv_len is 0");
    if (n > begin && a.bsr_indices[n] <= a.bsr_indices[n - 1])
      return invalid(
          entry("bsr_indices", n), a.bsr_indices[n],
          "more than " + entry("bsr_indices", n - 1) + ", which is " + std::to_string(a.bsr_indices[n - 1]));
  }
  return {};
}

/// Checks all lists, and what they hold. `*span`: the memory of bsr_indices.
Status check_lists(const AttentionArgs& a, const Table& table, Span* span) {
  const std::int64_t blocks = table.shape[1] - 1, capacity = longest_capacity(a);
  std::int64_t entries = 0;
  for (std::int64_t h = 0; h < table.shape[0]; ++h) {
    if (Status s = check_indptr(a.bsr_indptr + h * a.bsr_head_stride, h, blocks, &entries); !s.ok()) return s;
  }
  const std::int64_t one = 1;
  *span = span_of(a.bsr_indices, &entries, &one, 1, DataType::i32);
  if (Status s = check_pointer("bsr_indices", a.bsr_indices, *span, DataType::i32); !s.ok()) return s;
  for (std::int64_t h = 0; h < table.shape[0]; ++h) {
    const std::int32_t* list = a.bsr_indptr + h * a.bsr_head_stride;
    for (std::int64_t i = 0; i < blocks; ++i) {
      if (Status s = check_list(a, list[i], list[i + 1], capacity); !s.ok()) return s;
    }
  }
  return {};
}

}  // namespace

Status check_key_lists(const AttentionArgs& a) {
  if (Status s = check_tree_mask(a); !s.ok()) return s;
  return check_bsr(a);
}

Status check_key_list_pointers(const AttentionArgs& a, KeyListSpans* spans) {
  if (a.tree_mask) {
    const Table table = tree_table(a);
    spans->tree_mask = span_of(a.tree_mask, table.shape, table.stride, 2, DataType::boolean);
    if (Status s = check_pointer("tree_mask", a.tree_mask, spans->tree_mask, DataType::boolean); !s.ok())
      return s;
  }
  if (!a.bsr_indptr) return {};
  const Table table = indptr_table(a);
  spans->bsr_indptr = span_of(a.bsr_indptr, table.shape, table.stride, 2, DataType::i32);
  if (Status s = check_pointer("bsr_indptr", a.bsr_indptr, spans->bsr_indptr, DataType::i32); !s.ok())
    return s;
  return check_lists(a, table, &spans->bsr_indices);
}

}  // namespace kumiko
