// SPDX-License-Identifier: Apache-2.0
// Lists of cases: corner cases by hand, the rest by seed.
#pragma once

#include <vector>

#include "tests/runtime/case.h"

namespace kumiko::test {

/// Every pair of a q_len and a kv_len from lists of corner cases, small head dims, masks in rotation.
std::vector<Case> length_pairs();
/// Every pair of a head_dim and a v_head_dim from a list of corner cases.
std::vector<Case> head_dim_pairs();
/// q heads per KV head 1..16, 1 to 3 KV heads, batch 1..4.
std::vector<Case> head_groups();
/// Every input layout with every output and LSE layout.
std::vector<Case> layouts();
/// Sequences of 200 to 500 queries over up to 1537 keys at the head dims models use.
std::vector<Case> long_sequences();
/// Windows and lengths at the ends of their ranges.
std::vector<Case> extreme_masks();
/// Softcap, bias, ALiBi and mask in every combination, the tensors in every layout.
std::vector<Case> score_terms();
/// One case of score_terms() for each combination of terms, in varying layouts and shapes. If few (kThinning
/// 2): each term alone, bias with mask, and all four, of at most 1.2 million multiply-adds.
std::vector<Case> combinations_of_terms();
/// Every `step`-th case; if few are taken (kThinning), only of those with at most `most_work`.
std::vector<Case> thin(std::vector<Case> cases, std::size_t step, std::int64_t most_work);
/// `count` cases drawn from `seed`.
std::vector<Case> random_cases(std::uint64_t seed, int count);

}  // namespace kumiko::test
