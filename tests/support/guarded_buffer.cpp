// SPDX-License-Identifier: Apache-2.0
#include "tests/support/guarded_buffer.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

namespace kumiko::test {
namespace {

constexpr std::byte kSlack{0xA5};

std::size_t page_bytes() {
  static const auto bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

/// Each byte equals its neighbour: memcmp takes many at a time, and this runs after every call.
bool is_slack(const std::byte* begin, const std::byte* end) {
  return begin == end ||
         (*begin == kSlack && std::memcmp(begin, begin + 1, static_cast<std::size_t>(end - begin) - 1) == 0);
}

}  // namespace

GuardedBuffer::GuardedBuffer(std::size_t bytes, Flush flush, std::size_t reserved) : size_(bytes) {
  const std::size_t page = page_bytes();
  const std::size_t body = std::max<std::size_t>((bytes + page - 1) / page, 1) * page;
  body_bytes_ = body;
  mapping_bytes_ = body + (2 + (reserved + page - 1) / page) * page;
  void* mapping = mmap(nullptr, mapping_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  mapping_ = static_cast<std::byte*>(mapping);
  if (mprotect(mapping_ + page, body, PROT_READ | PROT_WRITE) != 0) std::abort();
  std::memset(mapping_ + page, static_cast<int>(kSlack), body);
  data_ = flush == Flush::front ? mapping_ + page : mapping_ + page + body - bytes;
}

GuardedBuffer::GuardedBuffer(GuardedBuffer&& other) noexcept {
  *this = std::move(other);
}

GuardedBuffer& GuardedBuffer::operator=(GuardedBuffer&& other) noexcept {
  std::swap(mapping_, other.mapping_);
  std::swap(mapping_bytes_, other.mapping_bytes_);
  std::swap(body_bytes_, other.body_bytes_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

GuardedBuffer::~GuardedBuffer() {
  if (mapping_ != nullptr) munmap(mapping_, mapping_bytes_);
}

bool GuardedBuffer::slack_untouched() const {
  if (mapping_ == nullptr) return true;
  const std::byte* begin = mapping_ + page_bytes();
  const std::byte* end = begin + body_bytes_;
  return is_slack(begin, static_cast<const std::byte*>(data_)) &&
         is_slack(static_cast<const std::byte*>(data_) + size_, end);
}

}  // namespace kumiko::test
