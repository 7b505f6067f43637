// SPDX-License-Identifier: Apache-2.0
#include "curve.h"

#include <cstdio>
#include <nlohmann/json.hpp>

namespace scaling {

void relate(std::vector<Point>& points, const std::vector<double>& work) {
  for (std::size_t i = 0; i < points.size(); ++i) {
    std::size_t first = 0;
    while (points[first].executor != points[i].executor || points[first].bind != points[i].bind) ++first;
    const double rate = work[i] / points[i].seconds, first_rate = work[first] / points[first].seconds;
    points[i].speedup = rate / first_rate * points[first].threads;
    points[i].efficiency = points[i].speedup / points[i].threads;
  }
}

std::string table(const std::vector<Point>& points) {
  std::string text =
      "executor  bind    threads  domains  milliseconds  GFLOP/s   GB/s  speedup  efficiency  balance\n";
  for (const Point& p : points) {
    char line[160], balance[16] = "-";
    if (p.balance > 0) std::snprintf(balance, sizeof balance, "%.3f", p.balance);
    std::snprintf(line, sizeof line, "%-8s  %-6s  %7d  %7d  %12.3f  %7.1f  %5.1f  %7.2f  %10.3f  %7s\n",
                  p.executor.c_str(), p.bind.c_str(), p.threads, p.domains, p.seconds * 1e3, p.gflops, p.gbps,
                  p.speedup, p.efficiency, balance);
    text += line;
  }
  return text;
}

std::string json(const std::vector<Point>& points, const Options& options, Mode mode,
                 const std::string& machine) {
  nlohmann::json all = {{"mode", mode == Mode::strong ? "strong" : "weak"},
                        {"workload", options.workload},
                        {"tokens", options.tokens},
                        {"q_heads", options.q_heads},
                        {"kv_heads", options.kv_heads},
                        {"head_dim", options.head_dim},
                        {"batch", options.batch},
                        {"machine", machine},
                        {"simulated", !options.simulate.empty()},
                        {"points", nlohmann::json::array()}};
  if (!options.simulate.empty()) {
    all["rates"] = {{"core_gflops", options.core_gflops},
                    {"core_gbps", options.core_gbps},
                    {"domain_gbps", options.domain_gbps},
                    {"start_us", options.start_us}};
  }
  for (const Point& p : points) {
    nlohmann::json point = {{"executor", p.executor}, {"bind", p.bind},       {"threads", p.threads},
                            {"domains", p.domains},   {"seconds", p.seconds}, {"gflops", p.gflops},
                            {"gbps", p.gbps},         {"speedup", p.speedup}, {"efficiency", p.efficiency}};
    if (p.balance > 0) point["balance"] = p.balance;
    all["points"].push_back(std::move(point));
  }
  return all.dump(1) + "\n";
}

}  // namespace scaling
