// SPDX-License-Identifier: Apache-2.0
#include "distributed/check_model.h"

#include <cmath>
#include <string>

namespace kumiko::distributed {
namespace {

constexpr int kMostRanks = 1 << 20;
// Sums of pairs of one sequence stay below 2^62.
constexpr std::int64_t kLongest = std::int64_t{1} << 31;

Status bad(const std::string& what, double value, const std::string& expected) {
  std::string text = std::to_string(value);
  if (value == std::floor(value) && std::abs(value) < 1e15) text = std::to_string(std::llround(value));
  return {Code::invalid_argument, what + " is " + text + "; expected " + expected};
}

Status check_sequences(const Work& work) {
  for (std::size_t i = 0; i < work.sequences.size(); ++i) {
    const std::string which = "sequences[" + std::to_string(i) + "].";
    for (const auto& [field, value] :
         {std::pair{"q_len", work.sequences[i].q_len}, std::pair{"kv_len", work.sequences[i].kv_len}}) {
      if (value < 0 || value > kLongest) return bad(which + field, static_cast<double>(value), "0 to 2^31");
    }
  }
  return {};
}

Status check_work(const Work& work) {
  for (const auto& [field, value] :
       {std::pair{"q_heads", work.q_heads}, std::pair{"kv_heads", work.kv_heads},
        std::pair{"head_dim", work.head_dim}, std::pair{"v_head_dim", work.v_head_dim},
        std::pair{"element_bytes", work.element_bytes},
        std::pair{"blocks_in_flight", work.blocks_in_flight}}) {
    if (value < 1 || value > 65536) return bad(field, static_cast<double>(value), "1 to 65536");
  }
  if (work.q_heads % work.kv_heads != 0)
    return bad("q_heads", static_cast<double>(work.q_heads),
               "a multiple of kv_heads = " + std::to_string(work.kv_heads));
  for (const auto& [field, value] :
       {std::pair{"window_left", work.window_left}, std::pair{"window_right", work.window_right}}) {
    if (value < -1 || value > kLongest) return bad(field, static_cast<double>(value), "-1 (all) to 2^31");
  }
  for (const auto& [field, value] :
       {std::pair{"cyclic_rows", work.cyclic_rows}, std::pair{"block_keys", work.block_keys}}) {
    if (value < kKeysPerSplit || value > kLongest || value % kKeysPerSplit != 0)
      return bad(field, static_cast<double>(value), "a multiple of 512 up to 2^31");
  }
  if (work.distribution < Distribution::contiguous || work.distribution > Distribution::cyclic)
    return bad("distribution", static_cast<int>(work.distribution), "contiguous, zigzag or cyclic");
  return check_sequences(work);
}

}  // namespace

Status check_model(const Work& work, int ranks, const Rank& rank, const Link& link, Algorithm algorithm) {
  if (ranks < 1 || ranks > kMostRanks) return bad("ranks", ranks, "1 to 2^20");
  for (const auto& [field, value] :
       {std::pair{"whole_seconds", rank.whole_seconds}, std::pair{"start_seconds", rank.start_seconds},
        std::pair{"latency_seconds", link.latency_seconds},
        std::pair{"message_seconds", link.message_seconds}}) {
    if (!std::isfinite(value) || value < 0) return bad(field, value, "seconds, 0 or more");
  }
  if (!(link.bandwidth > 0)) return bad("bandwidth", link.bandwidth, "bytes per second, more than 0");
  if (!(link.overlap >= 0 && link.overlap <= 1)) return bad("overlap", link.overlap, "0 to 1");
  if (algorithm < Algorithm::ring || algorithm > Algorithm::head_parallel)
    return bad("algorithm", static_cast<int>(algorithm), "one of kAlgorithms");
  return check_work(work);
}

}  // namespace kumiko::distributed
