// SPDX-License-Identifier: Apache-2.0
// Lists of cases: the corners by hand, the rest by seed.
#pragma once

#include <vector>

#include "tests/runtime/case.h"

namespace kumiko::test {

/// Every q_len of a list of corners against every kv_len of one, small head dims, masks in rotation.
std::vector<Case> length_pairs();
/// Every head_dim of a list of corners against every v_head_dim of it.
std::vector<Case> head_dim_pairs();
/// q heads per KV head 1..16, 1 to 3 KV heads, batch 1..4.
std::vector<Case> head_groups();
/// Every input layout against every output and LSE layout.
std::vector<Case> layouts();
/// Sequences of 200 to 500 queries over up to 1537 keys at the head dims models use.
std::vector<Case> long_sequences();
/// Windows and lengths at the ends of their ranges.
std::vector<Case> extreme_masks();
/// Softcap, bias, ALiBi and mask in every combination, the tensors in every layout.
std::vector<Case> score_terms();
/// Of score_terms() one case of each combination, in layouts and shapes by turns. Few (kThinning 2): of at
/// most 1.2 million multiply-adds, each term alone, bias with mask, and all four.
std::vector<Case> combinations_of_terms();
/// Every `step`-th case; where few are taken (kThinning), of those with at most `most_work`.
std::vector<Case> thin(std::vector<Case> cases, std::size_t step, std::int64_t most_work);
/// `count` cases drawn from `seed`.
std::vector<Case> random_cases(std::uint64_t seed, int count);

}  // namespace kumiko::test
