// SPDX-License-Identifier: Apache-2.0
// Problems of many shapes planned for several machines, and how well the plans balance: no clock, no tensor.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/attention.h"

namespace kumiko::test {

struct SweepMachine {
  const char* name;  ///< domains x cores
  std::string topology;
  int cores;
};
std::vector<SweepMachine> sweep_machines();

/// A context for planning with the widest kernels of this build, whether or not the host can run them:
/// planning runs none of them.
Context planning_context(const SweepMachine& machine);

enum class Phase { decode, speculation, chunk, prefill };
inline constexpr Phase kPhases[] = {Phase::decode, Phase::speculation, Phase::chunk, Phase::prefill};
enum class Visibility { full, causal, window, varlen };

struct SweepProblem {
  std::int64_t batch, heads, kv_heads, kv_len;
  Phase phase;
  Visibility visibility;

  std::int64_t q_len() const;
  std::string name() const;
};
const char* name(Phase phase);
/// Batch 1..64, 1..128 heads, groups of 1..16, 1..131072 keys, in a fixed order.
std::vector<SweepProblem> sweep_problems();

struct SweepResult {
  std::int64_t tasks = 0;
  std::int64_t makespan = 0;
  std::int64_t bound = 0;  ///< max(total / cores, costliest task)
  std::int64_t costliest = 0;
  bool may_be_cut = false;  ///< Some task spans several splits of keys or several tiles of rows.
  /// No plan ends sooner: of h x cores + 1 pieces that cannot be cut, some core has h + 1.
  std::int64_t whole_bound = 0;
  std::int64_t cut_heads = 0;  ///< KV heads read by several domains

  double ratio() const { return over(bound); }
  /// The part of the imbalance that better cutting or dealing could remove.
  double avoidable_ratio() const { return over(bound > whole_bound ? bound : whole_bound); }

 private:
  double over(std::int64_t x) const {
    return x > 0 ? static_cast<double>(makespan) / static_cast<double>(x) : 1.0;
  }
};
SweepResult plan_problem(const Context& context, const SweepProblem& problem);
SweepResult result_of(const Plan& plan);

}  // namespace kumiko::test
