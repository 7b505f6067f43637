// SPDX-License-Identifier: Apache-2.0
// One call of kv_append as data: its tensors between guard pages, and every byte that it must leave.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <vector>

#include "runtime/kv_append.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/tensor.h"

namespace kumiko::test {

struct AppendShape {
  std::int64_t batch = 1, seq = 5, kv_heads = 2, q_heads = 4;  ///< q_heads 0: no query
  std::int64_t head_dim = 24, v_head_dim = 16, page_size = 16;
  DataType key_type = DataType::f32, key_cache_type = DataType::f32, value_type = DataType::f32,
           value_cache_type = DataType::f32, query_type = DataType::f32, query_out_type = DataType::f32;
  Layout input_layout = Layout::bhsd, cache_layout = Layout::bshd;
  bool key_tiles = false;  ///< key_cache has tiles of 16; page_size is a multiple of 16, not with is_joint
  bool in_order = false;   ///< Tokens follow each other in slots, from a row within a page on.
  bool is_joint = false;   ///< Keys and values in one tensor, [pages, 2, ...]; needs equal dims and types.
  bool in_place = false;   ///< query_out is query; needs equal types.
  bool skips = false;      ///< Some tokens have no slot.
  std::int64_t rotary_dim = 0;
  RopeStyle style = RopeStyle::neox;
  bool has_tables = false, key_norm = false, query_norm = false;
  std::int64_t furthest = 5000;  ///< positions are up to this
  std::uint64_t seed = 1;
};
std::ostream& operator<<(std::ostream& os, const AppendShape& s);

class AppendCase {
 public:
  explicit AppendCase(const AppendShape& shape);
  const KvAppendArgs& args() const { return args_; }
  /// Outputs as before the call: poisoned, or for in_place the query.
  void reset() const;
  /// All bytes of the outputs, those between elements too.
  std::vector<std::byte> outputs() const;
  /// What they must be after it, by a scalar model of the order of arithmetic in kernels/append/append.h.
  std::vector<std::byte> expected() const;
  /// Nothing was written outside the outputs' memory, and no input was changed.
  ::testing::AssertionResult inputs_intact() const;

 private:
  struct Memory {
    GuardedBuffer buffer;
    std::vector<std::byte> before;
  };
  template <class View>
  View tensor(const Shape& shape, Layout layout, DataType type, bool is_output);
  void place_caches(std::int64_t pages);
  void fill(const ConstTensor& view);
  std::pair<float, float> turn(std::int64_t token, std::int64_t pair) const;
  std::vector<float> row(const ConstTensor& in, std::int64_t b, std::int64_t h, std::int64_t i,
                         const float* norm, bool is_rotated) const;

  AppendShape shape_;
  Random random_;
  KvAppendArgs args_;
  std::vector<Memory> inputs_, outputs_;
  std::vector<std::int64_t> slots_, positions_;
  std::vector<float> key_norm_, query_norm_, tables_;
};

}  // namespace kumiko::test
