// Page-aligned memory placed on a NUMA node. memory.cpp alone includes libnuma's headers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace kumiko::scheduler {

/// One anonymous mapping. Bound to `numa_node` where the kernel lets us; where mbind is refused (containers,
/// seccomp) the pages come from the node of the thread that touches them first, and `placed()` says so.
/// Move-only.
class Arena {
 public:
  Arena() = default;
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  ~Arena();

  /// Zeroed pages for at least `bytes` (0 counts as 1), rounded up to whole pages, from 2 MiB on to whole
  /// huge pages. No page is touched. numa_node < 0: no placement wanted. An empty arena (data() == nullptr)
  /// when memory is short.
  static Arena allocate(std::size_t bytes, int numa_node) noexcept;

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  bool placed() const { return placed_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  bool placed_ = false;
};

/// "" where per-node placement works, else one sentence saying why first touch is used in its place.
std::string placement_note();

}  // namespace kumiko::scheduler
