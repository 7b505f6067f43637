// SPDX-License-Identifier: Apache-2.0
// The attention calls of one step of a server, planned on a context, with or without the memory to run them.
#pragma once

#include <kumiko/attention.h>

#include <memory>
#include <string>
#include <vector>

#include "options.h"

namespace scaling {

/// Numbers in [-1, 1), always the same.
std::vector<float> noise(std::int64_t size, std::uint32_t seed);

class Workload {
 public:
  /// `share`: how many threads' worth of work, 1 in strong scaling. error() returns the fault, if any.
  Workload(const Options& options, Mode mode, int share, const kumiko::Context& context, bool with_memory);

  const std::string& error() const { return error_; }
  void run();
  kumiko::Prediction predict(const kumiko::MachineRates& rates) const;
  double flops() const { return flops_; }        ///< of the two products, masked pairs left out
  double kv_bytes() const { return kv_bytes_; }  ///< K and V, each element once

 private:
  struct Call {
    std::vector<float> q, k, v, out;
    std::vector<std::int32_t> lengths;
    kumiko::AttentionArgs args;
    kumiko::Plan plan;
  };
  void add(const kumiko::Context& context, const Options& options, std::int64_t batch, std::int64_t q_heads,
           std::int64_t kv_heads, std::int64_t q_len, std::int64_t kv_len, bool ragged, bool with_memory);

  std::vector<std::unique_ptr<Call>> calls_;
  double flops_ = 0, kv_bytes_ = 0;
  std::string error_;
};

}  // namespace scaling
