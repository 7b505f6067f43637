// SPDX-License-Identifier: Apache-2.0
// Packed sequences and pages: what the documentation allows, decided independently of the library. A list of
// the arguments must be as long as they say.
#pragma once

#include <kumiko/attention_c.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "tests/fuzz/memory.h"

namespace kumiko::fuzz {

/// Entries of a block table that name no page.
inline constexpr std::int32_t kNoPages[] = {-1, std::numeric_limits<std::int32_t>::min(),
                                            std::numeric_limits<std::int32_t>::max(), 100000};

std::int64_t sequences_of(const kumiko_attention_args& a);
/// Keys that sequence b can have; 0 if the arguments make no sense.
std::int64_t capacity_of(const kumiko_attention_args& a, std::int64_t b);
/// Keys that the pages of sequence b hold: fewer where kv_indptr lists fewer than max_pages.
std::int64_t room_of(const kumiko_attention_args& a, std::int64_t b);
/// The most of any sequence: the number of columns of bias and mask.
std::int64_t longest_capacity(const kumiko_attention_args& a);
/// k as it lies in memory: in tiles, 16-bit dims are an even number.
kumiko_const_tensor keys_in_memory(const kumiko_attention_args& a);
/// Whether k may lie as key_layout says.
bool has_sane_key_layout(const kumiko_attention_args& a);

/// Elements from one row of the block table to the next.
std::int64_t table_stride(const kumiko_attention_args& a);
/// Query positions that belong to a sequence, from the first on.
std::int64_t positions_of(const kumiko_attention_args& a);

/// Whether the lists and numbers of packed sequences and of pages fit together.
bool has_sane_sequences(const kumiko_attention_args& a);

/// Whether kv_indptr, if given, is as the documentation says.
bool has_sane_page_lists(const kumiko_attention_args& a);
/// Whether some sequence has query rows, which alone read pages.
bool has_rows_of_queries(const kumiko_attention_args& a);
/// Entries of the block table from its start to the last sequence's.
std::int64_t size_of_page_lists(const kumiko_attention_args& a);

struct TableEntry {
  std::int64_t page, at;  ///< Of its sequence; its place in the block table.
  bool is_listed;         ///< Its sequence has so many pages.
};
/// The entries that a run needs, of sane arguments.
std::vector<TableEntry> entries_read(const kumiko_attention_args& a);
/// All of them are listed, and are pages.
bool has_sane_table(const kumiko_attention_args& a);

std::string describe_sequences(const kumiko_attention_args& a);

}  // namespace kumiko::fuzz
