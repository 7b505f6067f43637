// SPDX-License-Identifier: Apache-2.0
#include "nodes.h"

#include <kumiko/cost_model.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "results.h"
#include "workload.h"

namespace scaling {
namespace {

namespace model = kumiko::distributed;

struct NodePoint {
  int ranks = 1;
  std::int64_t tokens = 0;
  model::Choice choice;
  std::size_t taken = 0;  ///< of choice.forecasts
  double speedup = 0, efficiency = 0;
  const model::Forecast& forecast() const { return choice.forecasts[taken]; }
  /// One rank has nobody to work with.
  const char* algorithm() const { return ranks == 1 ? "none" : model::name(forecast().algorithm); }
};

int refuse(const std::string& what) {
  std::cerr << what << "\n";
  return 1;
}

std::vector<int> default_ranks(int most) {
  std::vector<int> counts;
  for (int n = 1; n < most; n *= 2) counts.push_back(n);
  counts.push_back(most);
  return counts;
}

model::Link link_of(const Options& options) {
  return {.latency_seconds = options.link_us * 1e-6,
          .bandwidth = options.link_gbps * 1e9,
          .message_seconds = options.message_us * 1e-6,
          .overlap = options.overlap};
}

// Weak scaling keeps the pairs of query and key of a rank: tokens x ranks for a query, tokens x sqrt(ranks)
// for a prompt, in whole splits of keys.
std::int64_t tokens_on(Mode mode, const Options& options, int ranks) {
  if (mode == Mode::strong || ranks == 1) return options.tokens;
  const double times = options.workload == "prefill" ? std::sqrt(ranks) : ranks;
  const std::int64_t splits =
      std::llround(static_cast<double>(options.tokens) * times / kumiko::kKeysPerSplit);
  return std::max<std::int64_t>(splits, 1) * kumiko::kKeysPerSplit;
}

model::Work work_of(const Options& options, std::int64_t tokens) {
  model::Work work;
  const bool is_prefill = options.workload == "prefill";
  work.sequences.assign(static_cast<std::size_t>(is_prefill ? 1 : options.batch),
                        {is_prefill ? tokens : 1, tokens});
  work.q_heads = options.q_heads;
  work.kv_heads = options.kv_heads;
  work.head_dim = work.v_head_dim = options.head_dim;
  work.is_causal = true;
  work.distribution = options.distribution == "contiguous" ? model::Distribution::contiguous
                      : options.distribution == "zigzag"   ? model::Distribution::zigzag
                                                           : model::Distribution::cyclic;
  if (options.block_keys > 0)
    work.block_keys = options.block_keys;
  else
    model::choose_blocks(&work);
  return work;
}

// The plan's own prediction for one rank, which has all domains and cores.
kumiko::Status predict_one(const Options& options, const NodeShape& shape, double* seconds) {
  kumiko::ContextOptions wanted;
  wanted.topology =
      "numa:" + std::to_string(shape.domains) + " core:" + std::to_string(shape.cores) + " pu:1";
  kumiko::Context context;
  if (kumiko::Status status = kumiko::Context::create(wanted, &context); !status.ok()) return status;
  const Workload workload(options, Mode::strong, 1, context, 0);
  if (!workload.error().empty()) return {kumiko::Code::invalid_argument, workload.error()};
  *seconds = workload
                 .predict({options.core_gflops * 1e9, options.core_gbps * 1e9, options.domain_gbps * 1e9,
                           options.start_us * 1e-6})
                 .seconds -
             options.start_us * 1e-6;
  return {};
}

std::string table(const std::vector<NodePoint>& points) {
  std::string text =
      "ranks    tokens  algorithm      milliseconds   speedup  efficiency  compute   link  latency  "
      "imbalance  "
      "bound\n";
  for (const NodePoint& p : points) {
    const model::Forecast& f = p.forecast();
    char line[200];
    std::snprintf(line, sizeof line,
                  "%5d  %8lld  %-13s  %12.3f  %8.2f  %10.3f  %7.3f  %5.3f  %7.3f  %9.3f  %s\n", p.ranks,
                  static_cast<long long>(p.tokens), p.algorithm(), f.seconds * 1e3, p.speedup, p.efficiency,
                  f.compute_seconds / f.seconds, f.link_seconds / f.seconds, f.latency_seconds / f.seconds,
                  f.imbalance_seconds / f.seconds, f.bound());
    text += line;
  }
  return text;
}

nlohmann::json json_of(const NodePoint& point) {
  const model::Forecast& f = point.forecast();
  nlohmann::json made = {{"ranks", point.ranks},
                         {"tokens", point.tokens},
                         {"algorithm", point.algorithm()},
                         {"seconds", f.seconds},
                         {"speedup", point.speedup},
                         {"efficiency", point.efficiency},
                         {"bound", f.bound()},
                         {"sent_bytes", f.sent_bytes},
                         {"blocks", f.blocks},
                         {"parts",
                          {{"compute", f.compute_seconds},
                           {"link", f.link_seconds},
                           {"latency", f.latency_seconds},
                           {"imbalance", f.imbalance_seconds}}},
                         {"algorithms", nlohmann::json::object()}};
  for (const model::Forecast& one : point.choice.forecasts) {
    if (one.is_possible) made["algorithms"][model::name(one.algorithm)] = one.seconds;
  }
  return made;
}

std::string json(const std::vector<NodePoint>& points, Mode mode, const Options& options,
                 const std::string& machine) {
  nlohmann::json all = {{"mode", mode == Mode::strong ? "strong" : "weak"},
                        {"workload", options.workload},
                        {"tokens", options.tokens},
                        {"q_heads", options.q_heads},
                        {"kv_heads", options.kv_heads},
                        {"head_dim", options.head_dim},
                        {"batch", options.batch},
                        {"distribution", options.distribution},
                        {"block_keys", options.block_keys},
                        {"machine", machine},
                        {"simulated", true},
                        {"rates",
                         {{"core_gflops", options.core_gflops},
                          {"core_gbps", options.core_gbps},
                          {"domain_gbps", options.domain_gbps},
                          {"start_us", options.start_us},
                          {"link", options.link},
                          {"link_gbps", options.link_gbps},
                          {"link_us", options.link_us},
                          {"message_us", options.message_us},
                          {"overlap", options.overlap}}},
                        {"points", nlohmann::json::array()}};
  for (const NodePoint& point : points) all["points"].push_back(json_of(point));
  return all.dump(1) + "\n";
}

/// Index of the algorithm that was asked for, or of the fastest.
std::size_t taken(const Options& options, const model::Choice& choice) {
  for (std::size_t i = 0; i < choice.forecasts.size(); ++i) {
    if (options.algorithm == model::name(choice.forecasts[i].algorithm)) return i;
  }
  return choice.best;
}

}  // namespace

int run_nodes(Mode mode, const Options& options) {
  const NodeShape shape = node_shape(options.simulate);
  double one = 0;
  if (const kumiko::Status s = predict_one(options, shape, &one); !s.ok()) return refuse(s.message());
  const double flops = model::whole_seconds(work_of(options, options.tokens), 1, 1e300);
  std::vector<NodePoint> points;
  for (const int ranks : options.ranks.empty() ? default_ranks(shape.ranks) : options.ranks) {
    if (ranks > shape.ranks)
      return refuse("--ranks: " + std::to_string(ranks) + " are more than --simulate " + options.simulate +
                    " has");
    NodePoint point;
    point.ranks = ranks;
    point.tokens = tokens_on(mode, options, ranks);
    const model::Work work = work_of(options, point.tokens);
    const model::Rank rank{one * model::whole_seconds(work, 1, 1e300) / flops, options.start_us * 1e-6};
    if (const kumiko::Status s = model::choose(work, ranks, rank, link_of(options), &point.choice); !s.ok())
      return refuse(s.message());
    point.taken = taken(options, point.choice);
    if (!point.forecast().is_possible)
      return refuse("--algorithm: " + options.algorithm + " needs a KV head for each rank, " +
                    std::to_string(options.kv_heads) + " are fewer than " + std::to_string(ranks) + " ranks");
    // Relative to one rank, which does the same work in the seconds of its cores alone.
    point.efficiency = (rank.whole_seconds + rank.start_seconds) / point.forecast().seconds / ranks;
    point.speedup = point.efficiency * ranks;
    points.push_back(std::move(point));
  }
  const std::string machine = options.simulate + " over " + options.link + ", simulated";
  std::ostringstream text;
  text << (mode == Mode::strong ? "strong" : "weak") << " scaling of " << options.workload << ", " << machine
       << "\na core: " << options.core_gflops << " GFLOP/s and " << options.core_gbps
       << " GB/s; a domain: " << options.domain_gbps << " GB/s; a call: " << options.start_us
       << " us; a link: " << options.link_gbps << " GB/s, " << options.link_us << " us, "
       << options.message_us << " us for a message, overlap " << options.overlap << "; rows "
       << options.distribution << "\n"
       << table(points);
  return write_results(options, text.str(), json(points, mode, options, machine));
}

}  // namespace scaling
