// SPDX-License-Identifier: Apache-2.0
// What a server's step writes: new tokens' keys and values into pages, and their queries, all rotated; and a
// copy of the same bytes.
#pragma once

#include <kumiko/kv_append.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "bench/data_pool.h"
#include "bench/machine_peak.h"

namespace kumiko::bench {

/// Steps of `tokens` tokens one after the other, in memory beyond the caches. 32 query heads, 8 KV heads,
/// D = 128, pages of 16 keys, [pages, page_size, heads, dim], in any order. Up to 64 tokens are decodes, one
/// of each sequence; more are a chunk of one prompt.
class AppendStep {
 public:
  AppendStep(DataType type, std::int64_t tokens);

  /// The next step's call; after the last step, the first one's.
  KvAppendArgs next();
  /// Bytes that a step reads and writes.
  double bytes() const;
  /// Bytes/s, read and written, of a copy of the same rows to the same places, with one thread on each of
  /// `cpus`: the fastest of token by token and tensor by tensor, each with and without prefetching, and with
  /// non-temporal stores. The last not for a chunk: attention reads all its keys next, and would miss them.
  double copy_ceiling(std::span<const int> cpus, Clock clock);
  /// Makes every output NaN.
  void poison();
  /// Compares the first and the last step with the definition in double. "" or a sentence.
  std::string check() const;
  std::int64_t steps() const { return steps_; }

 private:
  static constexpr std::int64_t kQueryHeads = 32, kHeads = 8, kDim = 128, kPage = 16, kPositions = 4096;
  static constexpr double kTheta = 10000.0;

  std::int64_t position(std::int64_t step, std::int64_t token) const;
  struct WayToCopy {
    bool by_token;
    std::int64_t tokens_ahead;  ///< How many tokens ahead rows are prefetched; 0: they are not.
    bool past_caches = false;   ///< Non-temporal stores to pages, on x86.
  };
  /// The rows of tokens [first, last) of a step.
  void copy(std::int64_t step, std::int64_t first, std::int64_t last, const WayToCopy& way);
  double copy_rate(std::span<const int> cpus, Clock clock, const WayToCopy& way);
  std::string check_rows(const char* what, std::int64_t step, std::int64_t token, std::int64_t heads,
                         const std::byte* in, const std::byte* out, bool is_rotated) const;

  DataType type_;
  std::int64_t tokens_, steps_, now_ = 0;
  std::vector<std::int64_t> slots_, positions_;
  std::vector<float> cos_, sin_;
  Pages query_, key_, value_, query_out_, key_cache_, value_cache_;
};

}  // namespace kumiko::bench
