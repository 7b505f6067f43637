// SPDX-License-Identifier: Apache-2.0
// On top of AddressSanitizer's malloc, to keep its checks. AddressSanitizer's own operator new ends the
// process instead of failing.
#include "tests/fuzz/failing_new.h"

#include <cstdlib>
#include <limits>
#include <new>

namespace {

constexpr std::size_t kNoLimit = std::numeric_limits<std::size_t>::max();
thread_local std::size_t largest_allowed = kNoLimit;
thread_local long requests_left = -1;
thread_local bool refused = false;

void* request(std::size_t bytes, std::size_t alignment) noexcept {
  if (bytes > largest_allowed || requests_left == 0) {
    refused = true;
    return nullptr;
  }
  if (requests_left > 0) --requests_left;
  if (alignment <= alignof(std::max_align_t)) return std::malloc(bytes != 0 ? bytes : 1);
  void* memory = nullptr;
  return posix_memalign(&memory, alignment, bytes) == 0 ? memory : nullptr;
}

void* request_or_throw(std::size_t bytes, std::size_t alignment) {
  if (void* memory = request(bytes, alignment)) return memory;
  throw std::bad_alloc();
}

}  // namespace

namespace kumiko::fuzz {

FailingNew::FailingNew(std::size_t largest, long countdown) {
  largest_allowed = largest;
  requests_left = countdown;
  refused = false;
}
FailingNew::~FailingNew() {
  largest_allowed = kNoLimit;
  requests_left = -1;
}
bool FailingNew::has_refused() {
  return refused;
}

}  // namespace kumiko::fuzz

void* operator new(std::size_t bytes) {
  return request_or_throw(bytes, 0);
}
void* operator new[](std::size_t bytes) {
  return request_or_throw(bytes, 0);
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return request(bytes, 0);
}
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept {
  return request(bytes, 0);
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return request_or_throw(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return request_or_throw(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete[](void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
