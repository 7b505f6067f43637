// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <sstream>
#include <utility>

#include "tests/fuzz/packed_sequences.h"

namespace kumiko::fuzz {
namespace {

// [count + 1], from 0, never falling, up to `most`.
bool rises(const std::int32_t* list, std::int64_t count, std::int64_t most) {
  return list[0] == 0 && std::is_sorted(list, list + count + 1) && list[count] <= most;
}

bool has_sane_pages(const kumiko_attention_args& a) {
  const std::int64_t page = a.k.shape[2];
  if (a.cu_seqlens_k || !a.seqused_k || page < 1 || page > 512) return false;
  if (a.max_pages < 0 || static_cast<Wide>(a.max_pages) * page > kMaxSize) return false;
  if (a.kv_indptr) return a.block_table_stride == 0;
  if (a.block_table_stride != 0 && a.block_table_stride < a.max_pages) return false;
  const std::int64_t shape[2] = {sequences_of(a), a.max_pages}, stride[2] = {table_stride(a), 1};
  return extent_of(shape, stride, 2) * 4 <= kMaxBytes;
}

}  // namespace

std::int64_t sequences_of(const kumiko_attention_args& a) {
  return a.cu_seqlens_q ? a.num_sequences : a.q.shape[0];
}

std::int64_t capacity_of(const kumiko_attention_args& a, std::int64_t b) {
  Wide keys = a.k.shape[2];
  if (a.block_table) keys *= a.max_pages;
  if (!a.block_table && a.cu_seqlens_k) keys = static_cast<Wide>(a.cu_seqlens_k[b + 1]) - a.cu_seqlens_k[b];
  return keys < 0 || keys > kMaxSize ? 0 : static_cast<std::int64_t>(keys);
}

std::int64_t room_of(const kumiko_attention_args& a, std::int64_t b) {
  if (!a.block_table || !a.kv_indptr) return capacity_of(a, b);
  return (a.kv_indptr[b + 1] - a.kv_indptr[b]) * a.k.shape[2];
}

std::int64_t longest_capacity(const kumiko_attention_args& a) {
  if (a.block_table || !a.cu_seqlens_k) return capacity_of(a, 0);
  std::int64_t most = 0;
  for (std::int64_t b = 0; b < sequences_of(a); ++b) most = std::max(most, capacity_of(a, b));
  return most;
}

kumiko_const_tensor keys_in_memory(const kumiko_attention_args& a) {
  kumiko_const_tensor k = a.k;
  if (a.key_layout == KUMIKO_KEY_TILES_OF_16 && k.dtype != KUMIKO_F32) k.shape[3] += k.shape[3] & 1;
  return k;
}

bool has_sane_key_layout(const kumiko_attention_args& a) {
  if (a.key_layout == KUMIKO_KEY_ROWS) return true;
  const kumiko_const_tensor k = keys_in_memory(a);
  if (a.key_layout != KUMIKO_KEY_TILES_OF_16 || !a.block_table || k.shape[2] % 16 != 0 || !fits(k))
    return false;
  if (is_empty(k.shape, 4)) return true;
  for (int i = 0; i < 2; ++i) {
    if (k.shape[i] > 1 && k.stride[i] < k.shape[2] * k.shape[3]) return false;
  }
  return k.stride[2] == k.shape[3];
}

std::int64_t table_stride(const kumiko_attention_args& a) {
  return a.block_table_stride != 0 ? a.block_table_stride : a.max_pages;
}

std::int64_t positions_of(const kumiko_attention_args& a) {
  return a.cu_seqlens_q ? a.cu_seqlens_q[a.num_sequences] : a.q.shape[2];
}

bool has_sane_sequences(const kumiko_attention_args& a) {
  const std::int64_t count = sequences_of(a);
  if (a.cu_seqlens_q) {
    // Sequences and KV heads are numbered together in 32 bits.
    if (count < 1 || static_cast<Wide>(count) * std::max<std::int64_t>(a.k.shape[1], 1) > kMaxSize)
      return false;
    if (a.q.shape[0] != 1 || !rises(a.cu_seqlens_q, count, a.q.shape[2])) return false;
  } else if (a.num_sequences != 0 && a.num_sequences != a.q.shape[0]) {
    return false;
  }
  if (a.block_table) return has_sane_pages(a);
  if (a.max_pages != 0 || a.block_table_stride != 0 || a.kv_indptr) return false;
  if (!a.cu_seqlens_k) return a.k.shape[0] == count;
  if (a.k.shape[0] != 1 || !rises(a.cu_seqlens_k, count, a.k.shape[2])) return false;
  for (std::int64_t b = 0; a.seqused_k && b < count; ++b) {
    if (a.seqused_k[b] > capacity_of(a, b)) return false;
  }
  return true;
}

bool has_sane_page_lists(const kumiko_attention_args& a) {
  if (!a.block_table || !a.kv_indptr) return true;
  for (std::int64_t b = 0; b < sequences_of(a); ++b) {
    const Wide pages = static_cast<Wide>(a.kv_indptr[b + 1]) - a.kv_indptr[b];
    if (pages < 0 || pages > a.max_pages) return false;
  }
  return a.kv_indptr[0] >= 0;
}

bool has_rows_of_queries(const kumiko_attention_args& a) {
  return a.q.shape[1] > 0 && sequences_of(a) > 0 && positions_of(a) > 0;
}

std::int64_t size_of_page_lists(const kumiko_attention_args& a) {
  const std::int32_t end = a.kv_indptr[std::max<std::int64_t>(sequences_of(a), 0)];
  return has_sane_page_lists(a) && end > a.kv_indptr[0] ? end : 0;
}

std::vector<TableEntry> entries_read(const kumiko_attention_args& a) {
  std::vector<TableEntry> entries;
  for (std::int64_t b = 0; a.block_table && b < sequences_of(a); ++b) {
    const std::int64_t queries = a.cu_seqlens_q ? a.cu_seqlens_q[b + 1] - a.cu_seqlens_q[b] : a.q.shape[2];
    if (queries == 0) continue;
    // Each query sees an interval of keys, and the next query's begins and ends at most one further on.
    const Wide used = a.seqused_k[b], first_at = a.causal_alignment == KUMIKO_TOP_LEFT ? 0 : used - queries,
               first_tokens = std::min<Wide>(a.window_sink_tokens, used);
    const bool is_causal = a.causal_sequences ? a.causal_sequences[b] != 0 : a.is_causal != 0;
    const Wide right = is_causal ? 0 : a.window_right,
               prefix = std::max(a.prefix_lens ? std::min<Wide>(a.prefix_lens[b], used) : Wide{0},
                                 is_causal ? Wide{0} : first_tokens);
    const Wide begin = a.window_left < 0 ? Wide{0} : std::max<Wide>(first_at - a.window_left, 0),
               end = right < 0 ? used : std::max(prefix, std::min(used, first_at + queries + right));
    const Wide first_end = std::min(first_tokens, end), page_keys = a.k.shape[2];
    const auto add = [&](Wide page) {
      const auto i = static_cast<std::int64_t>(page);
      entries.push_back({i, (a.kv_indptr ? a.kv_indptr[b] : b * table_stride(a)) + i,
                         !a.kv_indptr || i < a.kv_indptr[b + 1] - a.kv_indptr[b]});
    };
    for (Wide page = 0; page * page_keys < first_end; ++page) add(page);
    for (Wide page = begin / page_keys; begin < end && page <= (end - 1) / page_keys; ++page) add(page);
  }
  return entries;
}

bool has_sane_table(const kumiko_attention_args& a) {
  if (!has_sane_page_lists(a)) return false;
  const std::vector<TableEntry> entries = entries_read(a);
  return std::all_of(entries.begin(), entries.end(), [&](const TableEntry& entry) {
    return entry.is_listed && a.block_table[entry.at] >= 0 && a.block_table[entry.at] < a.k.shape[0];
  });
}

std::string describe_sequences(const kumiko_attention_args& a) {
  std::ostringstream text;
  text << ", sequences " << a.num_sequences << ", pages " << a.max_pages << ", table stride "
       << a.block_table_stride << (a.block_table ? ", table" : "");
  const bool has_lists =
      static_cast<Wide>(sequences_of(a)) * std::max<std::int64_t>(a.k.shape[1], 1) <= kMaxSize;
  const char* name = ", queries";
  for (const std::int32_t* list : {a.cu_seqlens_q, a.cu_seqlens_k, a.kv_indptr}) {
    text << std::exchange(name, name[2] == 'q' ? ", keys" : ", lists") << (list ? " at" : " not packed");
    for (std::int64_t b = 0; list && has_lists && b <= sequences_of(a); ++b) text << ' ' << list[b];
  }
  return text.str();
}

}  // namespace kumiko::fuzz
