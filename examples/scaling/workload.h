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
  /// `share`: how many threads' worth of work, 1 in strong scaling. `domains`: how many of the context's, the
  /// first ones, have workers; keys and values lie there in equal parts. 0: no memory is taken, for predict()
  /// alone. error() returns the fault, if any.
  Workload(const Options& options, Mode mode, int share, const kumiko::Context& context, int domains);

  const std::string& error() const { return error_; }
  void run();
  kumiko::Prediction predict(const kumiko::MachineRates& rates) const;
  double flops() const { return flops_; }        ///< of the two products, masked pairs left out
  double kv_bytes() const { return kv_bytes_; }  ///< K and V, each element once

 private:
  struct Call {
    std::vector<float> q, k, v, out;
    kumiko::DomainMemory k_placed, v_placed;  ///< in place of k and v where there are several domains
    std::vector<std::int32_t> lengths, kv_domains;
    kumiko::AttentionArgs args;
    kumiko::Plan plan;
  };
  void add(const kumiko::Context& context, const Options& options, std::int64_t batch, std::int64_t q_heads,
           std::int64_t kv_heads, std::int64_t q_len, std::int64_t kv_len, bool ragged, int domains);
  float* keys_or_values(const kumiko::Context& context, int domains, std::int64_t heads,
                        std::int64_t floats_of_head, std::uint32_t seed, std::vector<float>* plain,
                        kumiko::DomainMemory* placed, std::vector<std::int32_t>* kv_domains);

  std::vector<std::unique_ptr<Call>> calls_;
  double flops_ = 0, kv_bytes_ = 0;
  std::string error_;
};

}  // namespace scaling
