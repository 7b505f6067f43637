// SPDX-License-Identifier: Apache-2.0
#include "scaling.h"

#include <kumiko/attention.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <new>
#include <set>
#include <sstream>
#include <utility>

#include "curve.h"
#include "mpi_ranks.h"
#include "nodes.h"
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

/// Domains with at least one worker: describe() has a line for each, "domain 0: ..., 12 workers on CPUs ...".
int occupied_domains(const kumiko::Context& context) {
  std::istringstream lines(context.describe());
  int count = 0;
  for (std::string line; std::getline(lines, line);)
    count += line.starts_with("domain ") && line.find(" 0 workers") == std::string::npos;
  return count;
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

  const kumiko::MachineRates rates{options.core_gflops * 1e9, options.core_gbps * 1e9,
                                   options.domain_gbps * 1e9, options.start_us * 1e-6};
  std::vector<Point> points;
  std::vector<double> work;
  {
    Progress progress(options.executors.size() * options.binds.size() * options.threads.size());
    for (const std::string& executor : options.executors) {
      for (const std::string& bind : options.binds) {
        for (const int threads : options.threads) {
          kumiko::ContextOptions wanted = context_options(options);
          wanted.num_threads = threads;
          wanted.executor = executor;
          wanted.bind = bind;
          progress.step(executor + ", " + bind + ", " + std::to_string(threads) + " threads");
          kumiko::Context context;
          if (const kumiko::Status s = kumiko::Context::create(wanted, &context); !s.ok())
            return fail(s.message());
          Workload workload(options, mode, threads, context, !is_simulated);
          Point point;
          point.executor = is_simulated ? "model" : executor;
          point.bind = bind;
          point.threads = threads;
          point.domains = occupied_domains(context);
          if (!workload.error().empty()) return fail(workload.error());
          if (is_simulated) {
            const kumiko::Prediction prediction = workload.predict(rates);
            point.seconds = prediction.seconds;
            point.balance = prediction.attainable_seconds / prediction.seconds;
          } else {
            point.seconds = measure(workload, options.seconds);
            if (!workload.error().empty()) return fail(workload.error());
          }
          point.gflops = workload.flops() / point.seconds * 1e-9;
          point.gbps = workload.kv_bytes() / point.seconds * 1e-9;
          points.push_back(point);
          work.push_back(mode == Mode::strong ? 1.0 : threads);
        }
      }
    }
  }
  relate(points, work);
  const std::string machine = is_simulated ? options.simulate + ", simulated" : all.isa() + " host";
  std::cout << (mode == Mode::strong ? "strong" : "weak") << " scaling of " << options.workload << ", "
            << machine << "\n";
  if (is_simulated) {
    std::cout << "a core: " << options.core_gflops << " GFLOP/s and " << options.core_gbps
              << " GB/s; a domain: " << options.domain_gbps << " GB/s; a call: " << options.start_us
              << " us\n";
  }
  std::cout << table(points);
  if (!options.json.empty()) {
    std::ofstream file(options.json);
    file << json(points, options, mode, machine);
    if (!file.flush()) return fail("--json: cannot write " + options.json);
  }
  return 0;
}

}  // namespace

int run(Mode mode, int argc, char** argv) {
  Options options;
  if (const int status = parse(mode, argc, argv, &options); status >= 0) return status;
  if (options.mpi) return run_mpi_ranks(mode, options);
  try {
    if (node_shape(options.simulate).ranks > 0) return run_nodes(mode, options);
    return run_threads(mode, std::move(options));
  } catch (const std::bad_alloc&) {
    return fail("--tokens, --batch, heads and --head-dim make a call that does not fit in memory");
  }
}

}  // namespace scaling
