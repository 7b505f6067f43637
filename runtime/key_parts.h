// SPDX-License-Identifier: Apache-2.0
// Attention for callers whose keys are not all in one place, or not all there yet: spread over machines,
// arriving block by block, computed before. The result has the bits of attention_forward() on all keys.
//
// A row's sum has one order, whoever computes it: keys are cut at absolute positions into splits of 512, each
// split has a state of its own, and states are merged in ascending order (docs/architecture.md). So there are
// two ways. Either the keys come to the rows, in ascending order, and each row's running state goes from call
// to call (attention_continue()). Or the states of all splits come to one place and are merged there
// (attention_split_states(), merge_split_states()), which for few rows is a thousandth of the keys.
#pragma once

#include <cstdint>
#include <span>

#include "attention.h"

namespace kumiko {

/// Keys of a split.
inline constexpr std::int64_t kKeysPerSplit = 512;

/// Which keys and which queries of a problem a call has. The AttentionArgs beside it describe the problem
/// with all its keys: kv_len, seqused_k, max_pages, bias and mask count all keys of a sequence. Keys outside
/// the part are not read, and their pages need not exist: entries of block_table are read only for pages with
/// a key of the part.
struct KeyPart {
  /// Keys [key_begin, key_end) of every sequence, multiples of 512. key_end -1: up to the last.
  std::int64_t key_begin = 0, key_end = -1;
  /// Of these, every parts-th split: those with split % parts == part.
  std::int64_t parts = 1, part = 0;
  /// Both empty, or an entry for each sequence: its queries are positions [query_begin, query_begin + q_len)
  /// of query_total, for causality, windows and ALiBi: the query at position i stands at key position i +
  /// kv_len - query_total, or i with top_left. Empty: 0 and q_len. With cu_seqlens_q several sequences may be
  /// pieces of one.
  std::span<const std::int64_t> query_begin{}, query_total{};
  /// Columns of bias and mask where the pages have room for more keys than the longest sequence uses: its
  /// seqused_k or more. 0: kv_len.
  std::int64_t score_columns = 0;
  /// KV heads whose rows are computed, [kv_head_begin, kv_head_end): states and outputs of others stay as
  /// they are. kv_head_end -1: up to the last. Not for the states of splits.
  std::int64_t kv_head_begin = 0, kv_head_end = -1;
};

/// Checks what attention_continue() checks, except its states, and takes the scratch that it needs, so that
/// callers in several places can agree before anything moves. `*floats` becomes the number of floats of the
/// running states, [sequence][kv_head][query position, query head of the group][v_head_dim + 2]: the
/// unnormalised output, the maximum and the sum. Errors: as attention_continue(); `*floats` is untouched
/// then.
KUMIKO_API Status prepare_running_states(const Context& context, const AttentionArgs& args,
                                         const KeyPart& part, std::int64_t* floats);

/// Adds the keys of a part to the running states of all rows. `is_first`: states are empty and are not read.
/// `is_last`: out, lse and row_max are written, and states are not; otherwise the reverse. The calls for one
/// problem must have its keys in ascending order, each key once: in another order the bits are others.
/// `states` must not overlap a tensor. It may be null if is_first and is_last. Errors: those of
/// attention_forward(), invalid_argument (a field of `part` outside its range), and unsupported (query_begin
/// with tree_mask or bsr_indptr); nothing is written then.
KUMIKO_API Status attention_continue(const Context& context, const AttentionArgs& args, const KeyPart& part,
                                     float* states, bool is_first, bool is_last);

/// Adds states that were computed ahead of keys before theirs: `next`, each what attention_continue() left of
/// one split alone (is_first and not is_last), in ascending order of splits, which follow those in `states`.
/// `is_first`, `is_last` and the queries of `part`: as in attention_continue(); `states` is never null.
/// Errors: those of attention_continue(), and invalid_argument (an entry of `next` is null or overlaps
/// `states`); nothing is written then.
KUMIKO_API Status merge_running_states(const Context& context, const AttentionArgs& args, const KeyPart& part,
                                       float* states, std::span<const float* const> next, bool is_first,
                                       bool is_last);

/// prepare_running_states() for attention_split_states(), whose states are [sequence][kv_head][split][query
/// position, query head of the group][v_head_dim + 2], of the splits of the part that have a key of the
/// sequence, in ascending order.
KUMIKO_API Status prepare_split_states(const Context& context, const AttentionArgs& args, const KeyPart& part,
                                       std::int64_t* floats);

/// Computes the state of each split of a part. Writes `states` only. Errors: those of attention_continue(),
/// and unsupported (window_sink_tokens with a window; kv_head_begin or kv_head_end).
KUMIKO_API Status attention_split_states(const Context& context, const AttentionArgs& args,
                                         const KeyPart& part, float* states);

/// Merges the states of all splits and writes out, lse and row_max, for `unit_begin` <= unit < `unit_end` of
/// the units sequence * kv_heads + kv_head; unit_end -1: all. states[p]: those of part p of states.size()
/// parts over all keys, from the first split of `unit_begin` on. k and v are not read. Errors: those of
/// attention_forward(), and invalid_argument (no states, one that is needed is null, units out of range).
KUMIKO_API Status merge_split_states(const Context& context, const AttentionArgs& args,
                                     std::span<const float* const> states, std::int64_t unit_begin = 0,
                                     std::int64_t unit_end = -1);

}  // namespace kumiko
