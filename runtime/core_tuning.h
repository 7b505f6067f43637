// SPDX-License-Identifier: Apache-2.0
// The numbers by which plans choose on one kind of core: a row of core_tuning.inc, or a file that kumiko-tune
// measured. None of them changes a bit of a result.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/core.h"
#include "kernels/cpu.h"
#include "kernels/decode/decode.h"

namespace kumiko {

struct CoreTuning {
  std::int64_t decode_rows;  ///< Up to this many rows of a KV head, K and V are read in place.
  std::int64_t
      tile_vectors;  ///< Vectors of queries in the widest tile; no more than the ISA has kernels for.
  std::int64_t narrow_tile_vectors;  ///< The same for windows of at most 1024 rows.
  std::int64_t task_tiles;           ///< Per task; twice as many if rows see only part of the packed keys.
  std::int64_t pipe_ahead;           ///< interleaved: tiles that the producer is ahead of the consumer.
  std::int64_t keys_ahead;    ///< Bytes of keys and of values that decode prefetches into L1, and bytes
  std::int64_t values_ahead;  ///< beyond that into L2 (kernels::FetchDistances).
  std::int64_t l2_ahead;
  std::int64_t l2_ahead_apart;   ///< The same for rows that lie apart, if it is more.
  std::int64_t values_together;  ///< Bytes of values that all passes of decode go over before the next.
  /// Up to this many rows of a KV head, decode takes AVX2's kernels for scores, and for f32 values, instead
  /// of AVX-512's.
  std::int64_t narrow_decode_rows;
  std::int64_t append_ahead;  ///< Bytes ahead that kv_append fetches, of rows it reads and writes, into L1.
  /// From this many bytes of new keys and values on, kv_append writes them with non-temporal stores, past the
  /// caches; 0: never.
  std::int64_t append_streams;
  std::string source;  ///< "zen5 (measured)", or the file.

  kernels::FetchDistances fetch() const {
    return {keys_ahead, values_ahead, l2_ahead, l2_ahead_apart, values_together};
  }
};

/// The table's row for this core and ISA, or the ISA's generic row if the core has none.
CoreTuning core_tuning(kernels::Core core, kernels::Isa isa);

/// One number of a tuning: its name in files, its member, its range.
struct TuningField {
  const char* name;
  std::int64_t CoreTuning::*value;
  std::int64_t least, most;
};
inline constexpr TuningField kTuningFields[] = {
    {"decode_rows", &CoreTuning::decode_rows, 0, 64},
    {"tile_vectors", &CoreTuning::tile_vectors, 1, 3},
    {"narrow_tile_vectors", &CoreTuning::narrow_tile_vectors, 1, 3},
    {"task_tiles", &CoreTuning::task_tiles, 4, 256},
    {"pipe_ahead", &CoreTuning::pipe_ahead, 1, 16},
    {"keys_ahead", &CoreTuning::keys_ahead, 0, 1 << 20},
    {"values_ahead", &CoreTuning::values_ahead, 0, 1 << 20},
    {"l2_ahead", &CoreTuning::l2_ahead, 0, 1 << 20},
    {"l2_ahead_apart", &CoreTuning::l2_ahead_apart, 0, 1 << 20},
    {"values_together", &CoreTuning::values_together, 0, 1 << 20},
    {"narrow_decode_rows", &CoreTuning::narrow_decode_rows, 0, 64},
    {"append_ahead", &CoreTuning::append_ahead, 0, 1 << 20},
    {"append_streams", &CoreTuning::append_streams, 0, 1 << 30},
};

/// Reads a file of sections "[avx2]" with lines "name = number"; "#" begins a comment. An ISA that extends
/// another has that one's section. Fields and ISAs that it does not name keep the table's values. On failure
/// `why` names the line and its error, and `tuning` is unchanged.
bool read_tuning(const std::string& file, kernels::Isa isa, CoreTuning* tuning, std::string* why);

}  // namespace kumiko
