// SPDX-License-Identifier: Apache-2.0
#include "metrics.h"

#include <algorithm>
#include <charconv>

namespace inference {
namespace {

std::string number(double value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  return {text, end};
}

void head(const std::string& name, const char* type, const char* help, std::string& out) {
  out += "# HELP " + name + " " + help + "\n# TYPE " + name + " " + type + "\n";
}

void single(const std::string& name, const char* type, const char* help, double value, std::string& out) {
  head(name, type, help, out);
  out += name + " " + number(value) + "\n";
}

}  // namespace

void Histogram::observe(double value) {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  ++counts_[static_cast<std::size_t>(bucket)];
  sum_ += value;
}

void Histogram::write(const std::string& name, const std::string& labels, std::string& out) const {
  const std::string prefix = name + "_bucket{" + labels + (labels.empty() ? "" : ",") + "le=\"";
  const std::string suffix = labels.empty() ? " " : "{" + labels + "} ";
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    total += counts_[i];
    out +=
        prefix + (i < bounds_.size() ? number(bounds_[i]) : "+Inf") + "\"} " + std::to_string(total) + "\n";
  }
  out += name + "_sum" + suffix + number(sum_) + "\n";
  out += name + "_count" + suffix + std::to_string(total) + "\n";
}

void Metrics::count_request(const std::string& path, int status) {
  const std::lock_guard lock(mutex_);
  ++requests_[{path, status}];
}

void Metrics::observe_latency(const std::string& path, double seconds) {
  const std::lock_guard lock(mutex_);
  latency_.try_emplace(path, kSecondBounds).first->second.observe(seconds);
}

void Metrics::observe_batch(const ForwardStats& stats, std::span<const double> waits) {
  const std::lock_guard lock(mutex_);
  batch_size_.observe(static_cast<double>(waits.size()));
  for (double wait : waits) queue_wait_.observe(wait);
  texts_ += waits.size();
  forward_.total_seconds += stats.total_seconds;
  forward_.attention_seconds += stats.attention_seconds;
  forward_.linear_seconds += stats.linear_seconds;
  forward_.tokens += stats.tokens;
  forward_.query_rows += stats.query_rows;
}

std::string Metrics::prometheus(const Gauges& gauges) const {
  const std::lock_guard lock(mutex_);
  std::string out;
  head("kumiko_http_requests_total", "counter", "Answered HTTP requests.", out);
  for (const auto& [key, count] : requests_) {
    out += "kumiko_http_requests_total{path=\"" + key.first + "\",code=\"" + std::to_string(key.second) +
           "\"} " + std::to_string(count) + "\n";
  }
  head("kumiko_http_request_seconds", "histogram", "Time from the last byte of a request to its answer.",
       out);
  for (const auto& [path, histogram] : latency_) {
    histogram.write("kumiko_http_request_seconds", "path=\"" + path + "\"", out);
  }
  head("kumiko_batch_texts", "histogram", "Texts per batch.", out);
  batch_size_.write("kumiko_batch_texts", "", out);
  head("kumiko_queue_wait_seconds", "histogram", "Time of a text in the queue.", out);
  queue_wait_.write("kumiko_queue_wait_seconds", "", out);
  single("kumiko_queue_texts", "gauge", "Texts waiting in the queue.",
         static_cast<double>(gauges.queue_depth), out);
  single("kumiko_queue_capacity_texts", "gauge", "Texts the queue holds before requests are refused.",
         static_cast<double>(gauges.queue_capacity), out);
  single("kumiko_http_connections", "gauge", "Open connections.", static_cast<double>(gauges.connections),
         out);
  single("kumiko_index_texts", "gauge", "Indexed texts.", static_cast<double>(gauges.index_size), out);
  single("kumiko_texts_total", "counter", "Embedded texts.", static_cast<double>(texts_), out);
  single("kumiko_tokens_total", "counter", "Embedded word pieces.", static_cast<double>(forward_.tokens),
         out);
  single("kumiko_attention_query_rows_total", "counter",
         "Query rows given to attention: tokens, and vector lanes filled up.",
         static_cast<double>(forward_.query_rows), out);
  single("kumiko_forward_seconds_total", "counter", "Wall time of forward passes, summed over workers.",
         forward_.total_seconds, out);
  single("kumiko_attention_seconds_total", "counter", "Part of it in attention.", forward_.attention_seconds,
         out);
  single("kumiko_linear_seconds_total", "counter", "Part of it in linear layers.", forward_.linear_seconds,
         out);
  head("kumiko_build_info", "gauge", "Kernel sets in use.", out);
  out += "kumiko_build_info{attention_isa=\"" + gauges.isa + "\",linear_kernels=\"" + gauges.linear_kernels +
         "\"} 1\n";
  return out;
}

}  // namespace inference
