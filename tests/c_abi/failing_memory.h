// SPDX-License-Identifier: Apache-2.0
// Replaces operator new for the whole program, and mmap and munmap for the library's arenas. Link
// failing_memory.cpp with --wrap=mmap and --wrap=munmap.
#pragma once

#include <ostream>

namespace kumiko::test {

/// While alive, this thread's operator new grants `granted` requests and refuses all later ones; negative:
/// grants all.
class FailingHeap {
 public:
  explicit FailingHeap(long granted);
  ~FailingHeap();
  FailingHeap(const FailingHeap&) = delete;
};

/// The same for the mappings of arenas, on any thread.
class FailingArenas {
 public:
  explicit FailingArenas(long granted);
  ~FailingArenas();
  FailingArenas(const FailingArenas&) = delete;
};

/// Memory that this process holds from operator new and in arenas.
struct Footprint {
  long blocks, mapped_bytes;
  bool operator==(const Footprint&) const = default;
};
Footprint footprint();
std::ostream& operator<<(std::ostream& os, const Footprint& f);

}  // namespace kumiko::test
