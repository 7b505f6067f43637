// SPDX-License-Identifier: Apache-2.0
#include "tests/c_abi/failing_memory.h"

#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace {

thread_local long heap_requests_left = -1;
std::atomic<long> arena_requests_left{-1};
std::atomic<long> blocks{0}, mapped_bytes{0};

void* allocate(std::size_t size, std::size_t alignment) noexcept {
  if (heap_requests_left == 0) return nullptr;
  if (heap_requests_left > 0) --heap_requests_left;
  if (size == 0) size = 1;
  void* const memory = alignment <= alignof(std::max_align_t)
                           ? std::malloc(size)
                           : std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (memory) ++blocks;
  return memory;
}

void* allocate_or_throw(std::size_t size, std::size_t alignment) {
  void* memory = allocate(size, alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void release(void* memory) noexcept {
  if (memory) --blocks;
  std::free(memory);
}

}  // namespace

namespace kumiko::test {

FailingHeap::FailingHeap(long granted) {
  heap_requests_left = granted;
}
FailingHeap::~FailingHeap() {
  heap_requests_left = -1;
}
FailingArenas::FailingArenas(long granted) {
  arena_requests_left = granted;
}
FailingArenas::~FailingArenas() {
  arena_requests_left = -1;
}
Footprint footprint() {
  return {blocks, mapped_bytes};
}
std::ostream& operator<<(std::ostream& os, const Footprint& f) {
  return os << f.blocks << " blocks, " << f.mapped_bytes << " bytes of arenas";
}

}  // namespace kumiko::test

extern "C" {
void* __real_mmap(void*, std::size_t, int, int, int, off_t);
int __real_munmap(void*, std::size_t);

void* __wrap_mmap(void* address, std::size_t bytes, int protection, int flags, int file, off_t offset) {
  long left = arena_requests_left;
  while (left > 0 && !arena_requests_left.compare_exchange_weak(left, left - 1)) {
  }
  if (left == 0) {
    errno = ENOMEM;
    return MAP_FAILED;
  }
  void* memory = __real_mmap(address, bytes, protection, flags, file, offset);
  if (memory != MAP_FAILED) mapped_bytes += static_cast<long>(bytes);
  return memory;
}
int __wrap_munmap(void* address, std::size_t bytes) {
  mapped_bytes -= static_cast<long>(bytes);
  return __real_munmap(address, bytes);
}
}

void* operator new(std::size_t size) {
  return allocate_or_throw(size, 0);
}
void* operator new[](std::size_t size) {
  return allocate_or_throw(size, 0);
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return allocate(size, 0);
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return allocate(size, 0);
}
void* operator new(std::size_t size, std::align_val_t a) {
  return allocate_or_throw(size, static_cast<std::size_t>(a));
}
void* operator new[](std::size_t size, std::align_val_t a) {
  return allocate_or_throw(size, static_cast<std::size_t>(a));
}
void operator delete(void* memory) noexcept {
  release(memory);
}
void operator delete[](void* memory) noexcept {
  release(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  release(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
  release(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  release(memory);
}
void operator delete[](void* memory, std::align_val_t) noexcept {
  release(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  release(memory);
}
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept {
  release(memory);
}
