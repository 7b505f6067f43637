// SPDX-License-Identifier: Apache-2.0
// Checks of packed sequences and of block tables.
#include <string>

#include "runtime/problem.h"
#include "runtime/validate.h"
#include "runtime/validate_parts.h"

namespace kumiko {
namespace {

constexpr std::int64_t kMostPageKeys = 512;

/// Checks a list [sequences + 1], non-decreasing from 0 to at most `most`.
Status check_cu_seqlens(const char* name, const std::int32_t* cu_seqlens, std::int64_t sequences,
                        const char* limit, std::int64_t most) {
  if (cu_seqlens[0] != 0) return invalid(entry(name, 0), cu_seqlens[0], "0");
  for (std::int64_t b = 0; b < sequences; ++b) {
    if (cu_seqlens[b + 1] < cu_seqlens[b])
      return invalid(entry(name, b + 1), cu_seqlens[b + 1],
                     "at least " + entry(name, b) + ", which is " + std::to_string(cu_seqlens[b]));
  }
  if (cu_seqlens[sequences] > most)
    return invalid(entry(name, sequences), cu_seqlens[sequences],
                   "at most " + std::string(limit) + ", which is " + std::to_string(most));
  return {};
}

Status check_batch_of_one(const char* name, const ConstTensor& view, const char* why) {
  if (view.shape[0] == 1) return {};
  return invalid(element(name, "shape", 0), view.shape[0], std::string("1, as ") + why + " is given");
}

Status check_queries(const AttentionArgs& a) {
  if (!a.cu_seqlens_q) {
    if (a.num_sequences == 0 || a.num_sequences == a.q.shape[0]) return {};
    return invalid("num_sequences", a.num_sequences,
                   "0 or q.shape[0], which is " + std::to_string(a.q.shape[0]) + ", without cu_seqlens_q");
  }
  const std::int64_t most = kMost32 / (a.k.shape[1] > 0 ? a.k.shape[1] : 1);
  if (a.num_sequences < 1 || a.num_sequences > most)
    return invalid("num_sequences", a.num_sequences,
                   "1.." + std::to_string(most) + ", as cu_seqlens_q is given");
  if (Status s = check_batch_of_one("q", a.q, "cu_seqlens_q"); !s.ok()) return s;
  return check_cu_seqlens("cu_seqlens_q", a.cu_seqlens_q, a.num_sequences, "q.shape[2]", a.q.shape[2]);
}

Status check_packed_keys(const AttentionArgs& a) {
  if (Status s = check_batch_of_one("k", a.k, "cu_seqlens_k"); !s.ok()) return s;
  const std::int64_t sequences = number_of_sequences(a);
  if (Status s = check_cu_seqlens("cu_seqlens_k", a.cu_seqlens_k, sequences, "k.shape[2]", a.k.shape[2]);
      !s.ok())
    return s;
  for (std::int64_t b = 0; a.seqused_k && b < sequences; ++b) {
    if (Status s = check_length(b, a.seqused_k[b], a.cu_seqlens_k[b + 1] - a.cu_seqlens_k[b]); !s.ok())
      return s;
  }
  return {};
}

Status check_pages(const AttentionArgs& a) {
  if (a.cu_seqlens_k) return invalid("cu_seqlens_k", "given", "null, as block_table is given");
  if (!a.seqused_k) return invalid("seqused_k", "null", "the keys of each sequence, as block_table is given");
  const std::int64_t page_keys = a.k.shape[2];
  if (page_keys < 1 || page_keys > kMostPageKeys)
    return invalid("k.shape[2]", page_keys,
                   "a page size in 1.." + std::to_string(kMostPageKeys) + ", as block_table is given");
  if (a.max_pages < 0 || a.max_pages > kMost32 / page_keys)
    return invalid("max_pages", a.max_pages, "0.." + std::to_string(kMost32 / page_keys));
  if (a.kv_indptr && a.block_table_stride != 0)
    return invalid("block_table_stride", a.block_table_stride, "0, as kv_indptr is given");
  if (a.kv_indptr) return {};
  if (a.block_table_stride != 0 && a.block_table_stride < a.max_pages)
    return invalid("block_table_stride", a.block_table_stride,
                   "0, or at least max_pages, which is " + std::to_string(a.max_pages));
  const std::int64_t shape[2] = {number_of_sequences(a), a.max_pages},
                     stride[2] = {a.block_table_stride > 0 ? a.block_table_stride : a.max_pages, 1};
  std::int64_t extent = 0;
  if (!extent_of(shape, stride, 2, &extent))
    return invalid("block_table_stride", a.block_table_stride, "a table that fits in the address space");
  return {};
}

/// Checks a sequence's pages for keys [first, last), which queries see.
Status check_pages_of(const Problem& problem, const PageTable& table, std::int64_t b, std::int64_t first,
                      std::int64_t last) {
  if (first >= last) return {};
  const auto seen = [&] {
    return ", as queries see keys " + std::to_string(first) + ".." + std::to_string(last - 1) +
           " of sequence " + std::to_string(b);
  };
  const std::int64_t end = (last - 1) / problem.page_keys + 1, given = problem.number_of_pages(table, b);
  if (given < end)
    return invalid(entry("kv_indptr", b + 1) + " - " + entry("kv_indptr", b), given,
                   "at least " + std::to_string(end) + " pages of " + std::to_string(problem.page_keys) +
                       " keys" + seen());
  if (problem.pages == 0) return invalid("k.shape[0]", 0, "at least one page" + seen());
  const std::int32_t* const row = problem.pages_of(table, b);
  for (std::int64_t i = first / problem.page_keys; i < end; ++i) {
    if (row[i] >= 0 && row[i] < problem.pages) continue;
    return invalid(name_of_page(problem.has_kv_indptr, b, i), row[i],
                   "0.." + std::to_string(problem.pages - 1) + " (k.shape[0] - 1)" + seen());
  }
  return {};
}

/// The same, of keys in the call's own splits.
Status check_own_pages_of(const Problem& problem, const PageTable& table, const kernels::OwnSplits& own,
                          std::int64_t b, std::int64_t first, std::int64_t last) {
  if (own.parts == 1 && own.begin == 0 && own.end >= (last + kKeysPerSplit - 1) / kKeysPerSplit)
    return check_pages_of(problem, table, b, first, last);
  for (std::int64_t key = first; key < last;) {
    const std::int64_t split = key / kKeysPerSplit, end = kernels::min_of((split + 1) * kKeysPerSplit, last);
    if (own.has(split)) {
      if (Status s = check_pages_of(problem, table, b, key, end); !s.ok()) return s;
    }
    key = end;
  }
  return {};
}

}  // namespace

Status check_sequence_visibility(const AttentionArgs& a) {
  if (a.window_sink_tokens < 0) return invalid("window_sink_tokens", a.window_sink_tokens, "0 or more");
  for (std::int64_t b = 0; a.causal_sequences && b < number_of_sequences(a); ++b) {
    if (a.causal_sequences[b] > 1)
      return invalid(entry("causal_sequences", b), a.causal_sequences[b], "0 or 1");
  }
  for (std::int64_t b = 0; a.prefix_lens && b < number_of_sequences(a); ++b) {
    if (a.prefix_lens[b] < 0) return invalid(entry("prefix_lens", b), a.prefix_lens[b], "0 or more");
  }
  return {};
}

std::int64_t number_of_sequences(const AttentionArgs& a) {
  return a.cu_seqlens_q ? a.num_sequences : a.q.shape[0];
}

std::int64_t longest_capacity(const AttentionArgs& a) {
  if (a.block_table) return a.max_pages * a.k.shape[2];
  if (!a.cu_seqlens_k) return a.k.shape[2];
  std::int64_t most = 0;
  for (std::int64_t b = 0; b < number_of_sequences(a); ++b)
    most = std::max<std::int64_t>(most, a.cu_seqlens_k[b + 1] - a.cu_seqlens_k[b]);
  return most;
}

Status check_sequences(const AttentionArgs& a) {
  if (Status s = check_queries(a); !s.ok()) return s;
  if (a.block_table) return check_pages(a);
  if (a.max_pages != 0) return invalid("max_pages", a.max_pages, "0, as block_table is null");
  if (a.block_table_stride != 0)
    return invalid("block_table_stride", a.block_table_stride, "0, as block_table is null");
  if (a.kv_indptr) return invalid("kv_indptr", "given", "null, as block_table is null");
  if (a.cu_seqlens_k) return check_packed_keys(a);
  return check_equal("k", 0, a.k.shape[0], a.cu_seqlens_q ? "num_sequences" : "q.shape[0]",
                     number_of_sequences(a));
}

Status check_kv_indptr(std::int64_t sequences, std::int64_t max_pages, const std::int32_t* kv_indptr) {
  if (kv_indptr[0] < 0) return invalid(entry("kv_indptr", 0), kv_indptr[0], "0 or more");
  for (std::int64_t b = 0; b < sequences; ++b) {
    const std::int64_t first = kv_indptr[b], last = kv_indptr[b + 1];
    if (last < first)
      return invalid(entry("kv_indptr", b + 1), last,
                     "at least " + entry("kv_indptr", b) + ", which is " + std::to_string(first));
    if (last - first > max_pages)
      return invalid(entry("kv_indptr", b + 1) + " - " + entry("kv_indptr", b), last - first,
                     "at most max_pages, which is " + std::to_string(max_pages));
  }
  return {};
}

Status validate_block_table(const Problem& problem, const PageTable& table) {
  if (!problem.has_block_table || problem.is_empty()) return {};
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    const kernels::HeadProblem head = problem.keys_seen(b);
    if (head.q_len == 0) continue;
    const std::int64_t first = head.begin_of(0), last = head.end_of(problem.rows_of(b) - 1);
    for (const auto& [from, to] :
         {std::pair{std::int64_t{0}, kernels::min_of(head.first_tokens, last)}, std::pair{first, last}}) {
      if (Status s = check_own_pages_of(problem, table, head.own, b, from, to); !s.ok()) return s;
    }
  }
  return {};
}

}  // namespace kumiko
