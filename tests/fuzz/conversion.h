// SPDX-License-Identifier: Apache-2.0
// A call that converts tensors into outputs, with memory of its own, and perhaps one fault.
#pragma once

#include <kumiko/attention_c.h>

#include <cstdint>
#include <deque>
#include <vector>

#include "tests/fuzz/input.h"
#include "tests/fuzz/memory.h"

namespace kumiko::fuzz {

class Conversion {
 public:
  Conversion(const Conversion&) = delete;
  virtual ~Conversion() = default;

  virtual kumiko_status call(const kumiko_context* context) const = 0;
  /// After a call that succeeded: what was written, and nothing else, is in its place.
  virtual void check_outputs() const = 0;
  /// Whether a fault was added, so that the call must fail.
  bool is_refused() const { return is_refused_; }

  /// The call on `own`, at first with `countdown` requests for memory if that is not negative, and the same
  /// bytes on `other` (may be null) and `reference`.
  void fuzz(const kumiko_context* own, const kumiko_context* other, const kumiko_context* reference,
            long countdown);
  void poison_outputs();
  bool outputs_untouched() const;
  std::vector<unsigned char> outputs() const;

 protected:
  explicit Conversion(const char* name) : name_(name) {}

  template <class Tensor>
  Buffer& add(const Layout& layout, std::int32_t type, bool is_output, Tensor* tensor) {
    Buffer& buffer = buffers_.emplace_back(layout.extent(), type, is_output);
    if (!is_output) buffer.fill(static_cast<std::uint32_t>(buffers_.size()), true);
    layout.place(buffer, type, tensor);
    return buffer;
  }
  /// Bytes that `expected` does not name are as they were.
  void check_rest(const Buffer& buffer, const std::vector<bool>& expected) const;

  const char* const name_;
  std::deque<Buffer> buffers_;
  bool is_refused_ = false;

 private:
  void run(const kumiko_context* context, long countdown);
};

}  // namespace kumiko::fuzz
