// SPDX-License-Identifier: Apache-2.0
// What all ranks must have alike, and one status for all, before anything moves and at the end.
#pragma once

#include <kumiko/attention.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "distributed/transport.h"

namespace kumiko::distributed {

/// Names and hashes of what must be the same on all ranks.
class Digest {
 public:
  /// The fields of a call. `has_all_rows`: shapes and arrays of q and out are the same, too.
  void add(const AttentionArgs& args, bool has_all_rows);
  void add(const char* name, const void* data, std::size_t bytes);
  template <class T>
  void add_value(const char* name, const T& value) {
    add(name, &value, sizeof value);
  }

 private:
  friend Status agree(Transport&, const Digest&, const Status&);
  std::vector<const char*> names_;
  std::vector<std::uint64_t> hashes_;
};

/// `mine` if it is the same everywhere, else the error of the lowest rank that has one, or one that names the
/// first entry of the digests that differs. The same on all ranks. One reduction; where there is an error one
/// broadcast more.
Status agree(Transport& transport, const Digest& digest, const Status& mine);

}  // namespace kumiko::distributed
