// SPDX-License-Identifier: Apache-2.0
// Multi-head self-attention of one batch with Kumiko: planned once, run in every layer.
#pragma once

#include <kumiko/attention.h>

#include <cstdint>
#include <vector>

#include "batch_layout.h"
#include "model_config.h"

namespace inference {

class AttentionLayer {
 public:
  /// Plans one call per group of `layout`. Throws std::runtime_error with Kumiko's message if planning fails.
  AttentionLayer(const kumiko::Context& context, const ModelConfig& config, const BatchLayout& layout);

  /// qkv: [padded_rows, 3 * hidden], each row with q, k and v of a token, each [heads, head_dim]. out:
  /// [padded_rows, hidden]. Rows of `out` past a text's end are undefined. Throws std::runtime_error with
  /// Kumiko's message.
  void run(const float* qkv, float* out);

 private:
  struct Call {
    kumiko::Plan plan;
    kumiko::AttentionArgs args;
    std::int64_t padded_row = 0;
  };
  std::int64_t hidden_ = 0;
  std::vector<Call> calls_;
};

}  // namespace inference
