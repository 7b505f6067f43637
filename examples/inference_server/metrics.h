// SPDX-License-Identifier: Apache-2.0
// Counters, gauges and histograms in the Prometheus text format (version 0.0.4).
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "model.h"

namespace inference {

/// Cumulative histogram with fixed upper bounds. Not synchronised: Metrics holds the lock.
class Histogram {
 public:
  explicit Histogram(std::span<const double> bounds)
      : bounds_(bounds.begin(), bounds.end()), counts_(bounds.size() + 1) {}
  void observe(double value);
  /// Appends name_bucket{labels,le=...}, name_sum and name_count. `labels` is empty or `key="value"`.
  void write(const std::string& name, const std::string& labels, std::string& out) const;

 private:
  std::vector<double> bounds_;
  std::vector<std::uint64_t> counts_;  // per bucket, not cumulative; the last is +Inf
  double sum_ = 0;
};

/// Values read at the moment of the scrape.
struct Gauges {
  std::int64_t queue_depth = 0;
  std::int64_t queue_capacity = 0;
  std::int64_t index_size = 0;
  std::int64_t connections = 0;
  std::string isa;             ///< of the attention runtime
  std::string linear_kernels;  ///< of oneDNN
};

class Metrics {
 public:
  /// One finished HTTP request. `path` must come from a fixed set.
  void count_request(const std::string& path, int status);
  /// Seconds from the last byte of a request to its answer.
  void observe_latency(const std::string& path, double seconds);
  /// One batch of `texts` texts, and the wait of each of them in the queue, seconds.
  void observe_batch(const ForwardStats& stats, std::span<const double> waits);

  std::string prometheus(const Gauges& gauges) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, std::uint64_t> requests_;
  std::map<std::string, Histogram> latency_;
  Histogram batch_size_{kBatchBounds};
  Histogram queue_wait_{kSecondBounds};
  std::uint64_t texts_ = 0;
  ForwardStats forward_;  // sums

  static constexpr double kSecondBounds[] = {0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01,
                                             0.015,  0.02,  0.03,  0.05,  0.075, 0.1,    0.15,
                                             0.2,    0.3,   0.5,   1.0,   2.0,   5.0};
  static constexpr double kBatchBounds[] = {1, 2, 4, 8, 16, 32, 64, 128};
};

}  // namespace inference
