// SPDX-License-Identifier: Apache-2.0
// kumiko-bench without its main(): a problem, the ways to compute it, their times.
#pragma once

#include <kumiko/attention.h>

#include <functional>
#include <iosfwd>

#include "tools/bench/options.h"

namespace kumiko::tools {

/// Exit statuses.
inline constexpr int kOk = 0, kWrong = 1, kCannot = 2;

/// The timed call: plan.run(args), unless a test gives another one.
using Call = std::function<Status(const Plan& plan, const AttentionArgs& args)>;

/// Measures what `options` ask for and prints it. `err` gets one sentence if the status is not kOk, and
/// before that, with `shows_progress`, a line that is overwritten repeatedly.
int run_bench(const Options& options, const Call& call, std::ostream& out, std::ostream& err,
              bool shows_progress);

}  // namespace kumiko::tools
