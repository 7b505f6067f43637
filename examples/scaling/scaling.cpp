// SPDX-License-Identifier: Apache-2.0
#include "scaling.h"

#include <kumiko/attention.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <new>
#include <set>
#include <sstream>
#include <utility>

#include "curve.h"
#include "mpi_ranks.h"
#include "nodes.h"
#include "results.h"
#include "workload.h"

namespace scaling {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

kumiko::ContextOptions context_options(const Options& options) {
  kumiko::ContextOptions made;
  if (options.simulate.empty()) return made;
  const auto x = options.simulate.find('x');
  made.topology =
      "numa:" + options.simulate.substr(0, x) + " core:" + options.simulate.substr(x + 1) + " pu:1";
  return made;
}

/// Powers of two, whole numbers of domains, and all.
std::vector<int> default_threads(int cores, int domains) {
  std::set<int> counts = {cores};
  for (int n = 1; n < cores; n *= 2) counts.insert(n);
  for (int d = 1; d <= domains; ++d) counts.insert(std::max(cores * d / domains, 1));
  return {counts.begin(), counts.end()};
}

/// The executor serial computes on its caller alone, however many seats it has.
std::vector<int> counts_of(const std::string& executor, const Options& options) {
  return executor == "serial" && options.simulate.empty() ? std::vector<int>{1} : options.threads;
}

// The fastest of many runs: the machine's speed while nothing else uses it.
double measure(Workload& workload, double seconds) {
  workload.run();
  double best = 1e300;
  int runs = 0;
  for (const auto start = Clock::now();
       workload.error().empty() && (runs < 3 || seconds_since(start) < seconds); ++runs) {
    const auto begin = Clock::now();
    workload.run();
    best = std::min(best, seconds_since(begin));
  }
  return best;
}

class Progress {
 public:
  explicit Progress(std::size_t total) : total_(total) {}
  void step(const std::string& what) {
    ++done_;
    if (is_terminal_) {
      std::fprintf(stderr, "\r\033[K[%zu/%zu] %s", done_, total_, what.c_str());
    } else {
      std::fprintf(stderr, "[%zu/%zu] %s\n", done_, total_, what.c_str());
    }
  }
  ~Progress() {
    if (is_terminal_) std::fprintf(stderr, "\r\033[K");
  }

 private:
  const bool is_terminal_ = isatty(STDERR_FILENO) == 1;
  std::size_t total_, done_ = 0;
};

int fail(const std::string& what) {
  std::cerr << what << "\n";
  return 1;
}

/// Domains with at least one worker, which are the first ones: describe() has a line for each, "domain 0:
/// ..., 12 workers on CPUs ...".
int occupied_domains(const kumiko::Context& context) {
  std::istringstream lines(context.describe());
  int count = 0;
  for (std::string line; std::getline(lines, line);)
    count += line.starts_with("domain ") && line.find(" 0 workers") == std::string::npos;
  return count;
}

struct Curve {
  std::vector<Point> points;
  std::vector<double> work;  ///< of each point
};

/// The message of what failed, or nothing. Progress is gone from the terminal when this returns.
std::string measure_all(Mode mode, const Options& options, Curve* curve) {
  const bool is_simulated = !options.simulate.empty();
  const kumiko::MachineRates rates{options.core_gflops * 1e9, options.core_gbps * 1e9,
                                   options.domain_gbps * 1e9, options.start_us * 1e-6};
  std::size_t total = 0;
  for (const std::string& executor : options.executors)
    total += options.binds.size() * counts_of(executor, options).size();
  Progress progress(total);
  for (const std::string& executor : options.executors) {
    for (const std::string& bind : options.binds) {
      for (const int threads : counts_of(executor, options)) {
        kumiko::ContextOptions wanted = context_options(options);
        wanted.num_threads = threads;
        wanted.executor = executor;
        wanted.bind = bind;
        progress.step(executor + ", " + bind + ", " + std::to_string(threads) + " threads");
        kumiko::Context context;
        if (const kumiko::Status s = kumiko::Context::create(wanted, &context); !s.ok()) return s.message();
        Point point;
        point.executor = is_simulated ? "model" : executor;
        point.bind = bind;
        point.threads = threads;
        point.domains = occupied_domains(context);
        Workload workload(options, mode, threads, context, is_simulated ? 0 : point.domains);
        if (!workload.error().empty()) return workload.error();
        if (is_simulated) {
          const kumiko::Prediction prediction = workload.predict(rates);
          point.seconds = prediction.seconds;
          point.balance = prediction.attainable_seconds / prediction.seconds;
        } else {
          point.seconds = measure(workload, options.seconds);
          if (!workload.error().empty()) return workload.error();
        }
        point.gflops = workload.flops() / point.seconds * 1e-9;
        point.gbps = workload.kv_bytes() / point.seconds * 1e-9;
        curve->points.push_back(point);
        curve->work.push_back(mode == Mode::strong ? 1.0 : threads);
      }
    }
  }
  return {};
}

int run_threads(Mode mode, Options options) {
  const bool is_simulated = !options.simulate.empty();
  kumiko::Context all;
  if (const kumiko::Status s = kumiko::Context::create(context_options(options), &all); !s.ok())
    return fail(s.message());
  if (options.threads.empty()) options.threads = default_threads(all.num_threads(), all.num_domains());
  if (all.num_domains() == 1)
    options.binds.resize(std::min<std::size_t>(options.binds.size(), 1));  // the same seats
  if (is_simulated) options.executors.resize(1);  // the model does not depend on the executor

  Curve curve;
  if (const std::string error = measure_all(mode, options, &curve); !error.empty()) return fail(error);
  relate(curve.points, curve.work);
  const std::string machine = is_simulated ? options.simulate + ", simulated" : all.isa() + " host";
  std::ostringstream text;
  text << (mode == Mode::strong ? "strong" : "weak") << " scaling of " << options.workload << ", " << machine
       << "\n";
  if (is_simulated) {
    text << "a core: " << options.core_gflops << " GFLOP/s and " << options.core_gbps
         << " GB/s; a domain: " << options.domain_gbps << " GB/s; a call: " << options.start_us << " us\n";
  }
  text << table(curve.points);
  return write_results(options, text.str(), json(curve.points, options, mode, machine));
}

}  // namespace

int run(Mode mode, int argc, char** argv) {
  Options options;
  if (const int status = parse(mode, argc, argv, &options); status >= 0) return status;
  if (options.mpi) return run_mpi_ranks(mode, options);
  if (const int status = check_results(options); status != 0) return status;
  try {
    if (node_shape(options.simulate).ranks > 0) return run_nodes(mode, options);
    return run_threads(mode, std::move(options));
  } catch (const std::bad_alloc&) {
    return fail(kNoMemory);
  }
}

}  // namespace scaling
