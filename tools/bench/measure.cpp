// SPDX-License-Identifier: Apache-2.0
#include "tools/bench/measure.h"

#include <algorithm>

#include "bench/rounds.h"

namespace kumiko::tools {
namespace {

// A round in the form that hold_round() takes.
struct Sample {
  Ceilings ceilings;
  double limit;  // Seconds of a call.
};

bool is_steady(const Sample& before, const Sample& after) {
  return bench::is_steady(before.limit, after.limit);
}

struct Rounds {
  std::vector<double> seconds;
  std::vector<Ceilings> ceilings;
};

}  // namespace

Spread spread_of(const std::vector<double>& values) {
  if (values.empty()) return {};
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  return {bench::median(values), *least, *most};
}

Result summary(const Work& work, std::span<const double> seconds, std::span<const Ceilings> ceilings) {
  Result result;
  result.rounds = static_cast<int>(seconds.size());
  std::vector<double> times, fractions, flops, bytes;
  for (std::size_t i = 0; i < seconds.size(); ++i) {
    const double fraction = ceilings[i].limit(work) / seconds[i];
    if (fraction > kAboveCeiling) {
      ++result.left_out;
      continue;
    }
    times.push_back(seconds[i]);
    fractions.push_back(fraction);
    flops.push_back(ceilings[i].flops);
    bytes.push_back(ceilings[i].bytes);
  }
  result.seconds = spread_of(times.empty() ? std::vector<double>(seconds.begin(), seconds.end()) : times);
  result.fraction = spread_of(fractions);
  result.ceilings = {bench::median(flops), bench::median(bytes)};
  return result;
}

std::vector<Result> measure(const Measurement& m, std::span<const Entry> entries, bench::ReadCeiling& read,
                            const std::function<void(const std::string&)>& progress) {
  const auto sample = [&](const bench::FmaRow& peak) -> Sample {
    const Ceilings now = {bench::fma_flops(peak, m.cpus, bench::kFmaWindow, m.clock),
                          read.bytes_per_second(bench::kReadWindow)};
    return {now, now.limit(m.work)};
  };
  std::vector<Rounds> rounds(entries.size());
  const bench::FmaRow* last_peak = nullptr;
  Sample last{};
  for (int pass = 0; pass < m.passes; ++pass) {
    for (std::size_t i = 0; i < entries.size(); ++i) {
      const Entry& entry = entries[i];
      progress("round " + std::to_string(pass + 1) + " of " + std::to_string(m.passes) + ": " + entry.name);
      if (entry.peak != last_peak) last = sample(*entry.peak);
      const bench::Round<Sample> round = bench::hold_round(
          last, [&] { return entry.workload->seconds_per_run(m.seconds, m.clock); },
          [&] { return sample(*entry.peak); });
      rounds[i].seconds.push_back(round.seconds);
      rounds[i].ceilings.push_back({0.5 * (round.before.ceilings.flops + round.after.ceilings.flops),
                                    0.5 * (round.before.ceilings.bytes + round.after.ceilings.bytes)});
      last = round.after;
      last_peak = entry.peak;
    }
  }
  std::vector<Result> results;
  for (const Rounds& r : rounds) results.push_back(summary(m.work, r.seconds, r.ceilings));
  return results;
}

}  // namespace kumiko::tools
