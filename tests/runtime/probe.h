// SPDX-License-Identifier: Apache-2.0
// Runs environment_probe as a process with exactly the given environment.
#pragma once

#include <string>
#include <vector>

namespace kumiko::test {

struct ProbeResult {
  int exit_status = -1;  ///< -1: did not exit by itself
  std::string out, err;
  bool says(const std::string& text) const { return out.find(text) != std::string::npos; }
};

/// `environment` as "NAME=value"; nothing else is passed on. `arguments` as environment_probe.cpp describes.
ProbeResult probe(const std::vector<std::string>& environment,
                  const std::vector<std::string>& arguments = {});

}  // namespace kumiko::test
