// SPDX-License-Identifier: Apache-2.0
// A call of kv_append with memory of its own: tokens that lie anywhere in pages, and perhaps one fault.
#pragma once

#include <kumiko/kv_append_c.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "tests/fuzz/conversion.h"

namespace kumiko::fuzz {

class AppendProblem : public Conversion {
 public:
  explicit AppendProblem(Input& input);

  /// Changes one thing that matters. The call must then be refused.
  void add_fault(Input& input);
  const kumiko_kv_append_args& args() const { return *args_; }
  kumiko_status call(const kumiko_context* context) const override;
  /// Outside the rows of slots nothing is written.
  void check_outputs() const override;

 private:
  std::int64_t tokens() const { return batch_ * seq_; }
  template <class Tensor>
  void place(std::array<std::int64_t, 4> shape, Layout::Order order, std::int64_t pad, std::int32_t type,
             bool is_output, Tensor* tensor);
  const float* floats(std::int64_t count);
  /// Column `slot` of its tile, in units of 4 bytes.
  void mark_column(std::int64_t slot, std::int64_t head, std::vector<bool>* written) const;

  // In memory of exactly its size.
  const std::unique_ptr<kumiko_kv_append_args> args_ =
      std::make_unique<kumiko_kv_append_args>(kumiko_kv_append_args KUMIKO_KV_APPEND_ARGS_INIT);
  std::unique_ptr<std::int64_t[]> slots_, positions_;
  std::vector<std::int32_t> domains_;
  std::int64_t batch_ = 0, seq_ = 0, page_size_ = 1;
};

}  // namespace kumiko::fuzz
