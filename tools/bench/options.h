// SPDX-License-Identifier: Apache-2.0
// The command line of kumiko-bench.
#pragma once

#include <kumiko/attention.h>

#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>

#include "bench/problem.h"
#include "bench/rounds.h"

namespace kumiko::tools {

/// Where keys and values are when a call begins.
enum class Data {
  automatic,  ///< cold up to kColdQueries queries per sequence, else warm
  cold,       ///< in memory: calls cycle through copies that exceed every cache
  warm,       ///< where the previous call left them: one copy
};
/// A decode step, with a few speculative tokens.
inline constexpr std::int64_t kColdQueries = 8;

struct Options {
  ContextOptions context;
  bench::Shape shape{
      .name = "kumiko-bench", .q_heads = 8, .q_len = 1024, .head_dim = 128};  ///< Complete once parsed.
  Pipeline pipeline = Pipeline::automatic;
  Data data = Data::automatic;
  bool compares = false, explains = false;
  bool has_base_pages = false;  ///< Tensors are not in huge pages.
  int passes = bench::kRounds;
  double seconds = bench::kWorkWindow;  ///< Of calls in a pass.
  std::string json;                     ///< File; empty: none.

  bool is_cold() const {
    return data == Data::cold || (data == Data::automatic && shape.q_len <= kColdQueries);
  }
  /// Bytes that copies of keys and values fill.
  std::size_t cache_bytes() const { return is_cold() ? bench::bytes_beyond_caches() : 0; }
};

/// "f32", "bf16", "f16".
const char* type_name(DataType type);

/// The exit status to end with, or nothing to go on with `*options`.
std::optional<int> parse(int argc, const char* const* argv, Options* options, std::ostream& out,
                         std::ostream& err);

}  // namespace kumiko::tools
