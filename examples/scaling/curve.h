// SPDX-License-Identifier: Apache-2.0
// Points of a scaling curve, as a table and as JSON.
#pragma once

#include <string>
#include <vector>

#include "options.h"

namespace scaling {

struct Point {
  std::string executor, bind;
  int threads = 1, domains = 1;
  double seconds = 0;
  double gflops = 0, gbps = 0;
  double speedup = 0;     ///< work per second over that of the series' first point, per its threads
  double efficiency = 0;  ///< speedup / threads
  double balance = 0;     ///< simulated: the time of equal parts over the predicted one; 0: measured, unknown
};

/// Speedup and efficiency relative to the first point of the same executor and binding. `work`: the work of
/// each point, in any unit.
void relate(std::vector<Point>& points, const std::vector<double>& work);

std::string table(const std::vector<Point>& points);
std::string json(const std::vector<Point>& points, const Options& options, Mode mode,
                 const std::string& machine);

}  // namespace scaling
