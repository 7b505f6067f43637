// SPDX-License-Identifier: Apache-2.0
// A step of a server over a cache whose keys are spread over the ranks, beside the same step over a whole
// one.
#pragma once

#include <cstdint>
#include <ostream>
#include <vector>

#include "tests/distributed/memory.h"
#include "tests/distributed/ranks.h"

namespace kumiko::test {

struct StepShape {
  std::vector<distributed::SequenceLengths> sequences;
  std::int64_t q_heads = 4, kv_heads = 2, head_dim = 16, v_head_dim = 24, page_keys = 128;
  DataType type = DataType::f32, out_type = DataType::f32;
  bool is_int8 = false, rows_first = false, bias = false, mask = false;
  bool is_causal = true;
  std::int64_t window_left = -1;
  float softcap = 0.0f;
  bool sinks = false, alibi = false, page_lists = false;
  bool lse = true, row_max = false;
  std::uint64_t seed = 1;
};
std::ostream& operator<<(std::ostream& os, const StepShape& s);

/// The same on every rank, but for its pages: the whole pool, and this rank's keys alone.
class ShardedStep {
 public:
  explicit ShardedStep(const StepShape& shape);

  AttentionArgs whole() { return args(all_, table_, &whole_); }
  AttentionArgs own() { return args(own_, own_table_, &mine_); }
  /// Whether this rank's outputs have the bits of the whole ones.
  ::testing::AssertionResult is_right() const;
  bool outputs_untouched() const { return mine_.is_poisoned(); }

 private:
  struct Output {
    Memory out, lse, row_max;
    void poison() {
      for (Memory* memory : {&out, &lse, &row_max}) memory->poison();
    }
    bool is_poisoned() const { return out.is_poisoned() && lse.is_poisoned() && row_max.is_poisoned(); }
    bool operator==(const Output& other) const {
      return out.same_bytes(other.out) && lse.same_bytes(other.lse) && row_max.same_bytes(other.row_max);
    }
  };
  struct Pool {
    Memory k, v, k_scale;
  };
  AttentionArgs args(Pool& pool, const std::vector<std::int32_t>& table, Output* output);
  void spoil_others(Random& random);

  const StepShape s_;
  Memory q_, q_scale_, bias_, mask_;
  Pool all_, own_;
  std::vector<std::int32_t> q_ends_{0}, lengths_, first_page_, table_, own_table_;
  std::vector<float> sinks_;
  std::int64_t max_pages_ = 0;
  Output mine_, whole_;
};

}  // namespace kumiko::test
