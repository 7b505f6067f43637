// SPDX-License-Identifier: Apache-2.0
// Anonymous mappings bound to NUMA nodes. The only file that includes libnuma's headers, and it uses only the
// system calls: libnuma's allocators print to stderr when the kernel refuses them.
#include "scheduler/memory.h"

#include <fcntl.h>
#include <numaif.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstring>
#include <utility>

namespace kumiko::scheduler {
namespace {

constexpr int kMaxNodes = 1024;  // CONFIG_NODES_SHIFT is at most 10.
constexpr int kWordBits = static_cast<int>(sizeof(unsigned long) * CHAR_BIT);
using NodeMask = std::array<unsigned long, kMaxNodes / kWordBits>;
// The transparent huge page for base pages of 4 KiB. Its size grows with the square of theirs: with A64FX's
// 64 KiB it is 512 MiB, and rounding up to that would waste half a node, so there arenas keep to base pages.
constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t page_bytes() {
  return static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

bool fills_huge_page(std::size_t bytes) {
  return bytes >= kHugePage && page_bytes() == 4096;
}

std::size_t round_up(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

// Whether all memory is on one node. A failed read counts as several nodes. Allocates nothing.
bool has_one_node() {
  const auto read_it = [] {
    const int file = open("/sys/devices/system/node/has_memory", O_RDONLY | O_CLOEXEC);
    if (file < 0) return false;
    char nodes[64];
    const ssize_t length = read(file, nodes, sizeof nodes);
    close(file);
    return length > 0 && std::none_of(nodes, nodes + length, [](char c) { return c == ',' || c == '-'; });
  };
  // Not a static of its own, whose first use a fork by another thread could leave unfinished in the child.
  static std::atomic<int> known{-1};
  if (known.load(std::memory_order_relaxed) < 0) known.store(read_it(), std::memory_order_relaxed);
  return known.load(std::memory_order_relaxed) == 1;
}

// Preferred, not strict: a full node falls back to the next one, where a strict binding would get the process
// killed.
bool prefer_node(void* data, std::size_t bytes, int node) {
  if (node < 0 || node >= kMaxNodes) return false;
  NodeMask mask{};
  mask[node / kWordBits] = 1UL << (node % kWordBits);
  return mbind(data, bytes, MPOL_PREFERRED, mask.data(), kMaxNodes + 1, 0) == 0;
}

// If `align` is more than a page, maps that much more and unmaps both ends.
std::byte* map_aligned(std::size_t bytes, std::size_t align) {
  const std::size_t extra = align > page_bytes() ? align : 0;
  void* raw = mmap(nullptr, bytes + extra, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  auto* const begin = static_cast<std::byte*>(raw);
  if (extra == 0) return begin;
  const std::size_t head =
      round_up(reinterpret_cast<std::uintptr_t>(begin), align) - reinterpret_cast<std::uintptr_t>(begin);
  if (head > 0) munmap(begin, head);
  if (head < extra) munmap(begin + head + bytes, extra - head);
  return begin + head;
}

}  // namespace

Arena::Arena(Arena&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      placed_(std::exchange(other.placed_, false)) {}

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(placed_, other.placed_);
  return *this;
}

Arena::~Arena() {
  if (data_ != nullptr) munmap(data_, size_);
}

std::size_t Arena::size_for(std::size_t bytes) noexcept {
  if (bytes > PTRDIFF_MAX - 2 * kHugePage) return 0;
  return round_up(std::max<std::size_t>(bytes, 1), fills_huge_page(bytes) ? kHugePage : page_bytes());
}

Arena Arena::allocate(std::size_t bytes, int numa_node) noexcept {
  return allocate_on_each(bytes, {&numa_node, 1});
}

Arena Arena::allocate_on_each(std::size_t bytes, std::span<const int> numa_nodes) noexcept {
  Arena arena;
  const std::size_t size = size_for(bytes), parts = numa_nodes.size(), part = bytes / parts;
  if (size == 0) return arena;
  // A huge page that two parts share would be on one node.
  const bool is_huge = fills_huge_page(bytes) && (parts == 1 || part % kHugePage == 0);
  arena.data_ = map_aligned(size, is_huge ? kHugePage : page_bytes());
  if (arena.data_ == nullptr) return arena;
  arena.size_ = size;
  arena.placed_ = true;
  for (std::size_t i = 0; i < parts; ++i) {
    const bool is_last = i + 1 == parts;
    if (!prefer_node(arena.data_ + i * part, is_last ? size - i * part : part, numa_nodes[i]))
      arena.placed_ = false;
  }
  // Where mbind is refused, a page is on the node of the thread that touches it first. A huge page holds the
  // scratch of several workers, or of several arenas (the kernel merges neighbouring mappings), so one caller
  // from another node would place all of it there.
  const bool stays_near = arena.placed_ || has_one_node();
  madvise(arena.data_, size, is_huge && stays_near ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  return arena;
}

void Arena::free(std::byte* data, std::size_t bytes) noexcept {
  if (data != nullptr) munmap(data, size_for(bytes));
}

std::byte* Arena::release() noexcept {
  size_ = 0;
  placed_ = false;
  return std::exchange(data_, nullptr);
}

std::size_t round_to_pages(std::size_t bytes) noexcept {
  return bytes > PTRDIFF_MAX - page_bytes() ? 0 : round_up(std::max<std::size_t>(bytes, 1), page_bytes());
}

std::string placement_note() {
  NodeMask allowed{};
  if (get_mempolicy(nullptr, allowed.data(), kMaxNodes + 1, nullptr, MPOL_F_MEMS_ALLOWED) != 0) {
    return std::string("memory is placed by first touch: the kernel refuses get_mempolicy (") +
           std::strerror(errno) + ")";
  }
  int node = 0;
  while (node < kMaxNodes && (allowed[node / kWordBits] >> (node % kWordBits) & 1) == 0) ++node;
  if (node == kMaxNodes) return "memory is placed by first touch: no NUMA node is allowed here";
  const std::size_t bytes = page_bytes();
  std::byte* probe = map_aligned(bytes, bytes);
  if (probe == nullptr) return "memory is placed by first touch: memory is short";
  errno = 0;
  const bool ok = prefer_node(probe, bytes, node);
  const int reason = errno;
  munmap(probe, bytes);
  if (ok) return "";
  return "memory is placed by first touch: the kernel refuses mbind to node " + std::to_string(node) + " (" +
         std::strerror(reason) + ")";
}

}  // namespace kumiko::scheduler
