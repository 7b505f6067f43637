// SPDX-License-Identifier: Apache-2.0
// The parts of a packed step: calls over some of its sequences, in the step's own memory.
#pragma once

#include <kumiko/attention.h>

#include <cstdint>
#include <vector>

namespace kumiko::bench {

/// Sequences [first, last) of a packed call over pages, as a call of its own. This object and what `step`
/// points to must outlive the use of args().
class PartOfStep {
 public:
  PartOfStep(const AttentionArgs& step, std::int64_t first, std::int64_t last);
  PartOfStep(const PartOfStep&) = delete;
  PartOfStep& operator=(const PartOfStep&) = delete;

  const AttentionArgs& args() const { return args_; }

 private:
  AttentionArgs args_;
  std::vector<std::int32_t> cu_seqlens_q_;
};

}  // namespace kumiko::bench
