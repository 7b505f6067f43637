// SPDX-License-Identifier: Apache-2.0
// Page-aligned memory placed on a NUMA node. memory.cpp alone includes libnuma's headers.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace kumiko::scheduler {

/// One anonymous mapping. Bound to `numa_node` where the kernel allows it; where mbind is refused
/// (containers, seccomp) the pages come from the node of the thread that touches them first, and `placed()`
/// is false. Move-only.
class Arena {
 public:
  Arena() = default;
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  ~Arena();

  /// Zeroed pages for size_for(bytes) bytes. No page is touched, and no page, not even a huge one, is shared
  /// with another arena. numa_node < 0: no placement. An empty arena (data() == nullptr) when memory is
  /// short.
  static Arena allocate(std::size_t bytes, int numa_node) noexcept;
  /// One mapping in as many equal parts as there are nodes, one part on each node. There is at least one
  /// node; of several, each part must be whole pages. placed(): whether all parts are.
  static Arena allocate_on_each(std::size_t bytes, std::span<const int> numa_nodes) noexcept;
  /// `bytes` (0 counts as 1) rounded up to whole pages, and if it fills a huge page, to whole huge pages. 0:
  /// more than any address space holds.
  static std::size_t size_for(std::size_t bytes) noexcept;

  /// Releases ownership: the caller passes it to free(), with the bytes that were allocated.
  std::byte* release() noexcept;
  static void free(std::byte* data, std::size_t bytes) noexcept;

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  bool placed() const { return placed_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  bool placed_ = false;
};

/// `bytes` (0 counts as 1) rounded up to whole base pages; 0: more than any address space holds.
std::size_t round_to_pages(std::size_t bytes) noexcept;

/// "" where per-node placement works, else one sentence on why pages are placed by first touch.
std::string placement_note();

}  // namespace kumiko::scheduler
