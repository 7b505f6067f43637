// SPDX-License-Identifier: Apache-2.0
// Fetches the rows of a block of keys and values from pages into L2, some lines at a time, while the block
// before is computed.
#pragma once

#include "kernels/pipelines/key_rows.h"

namespace kumiko::kernels {

class NextRows {
 public:
  struct Operand {
    const KeyRows* rows;
    Element element;
    std::int64_t dim;
  };
  /// Rows of keys [first, last) of both. At most `steps` calls of fetch() cover them. A call fetches
  /// kLeastStep lines or more: with one line a call, a window's tiles, not all of which see every block,
  /// would not reach the end.
  void begin(const Operand& keys, const Operand& values, std::int64_t first, std::int64_t last,
             std::int64_t line_bytes, std::int64_t steps) {
    operand_[0] = keys, operand_[1] = values;
    first_ = first, last_ = last, line_ = line_bytes;
    const std::int64_t lines = (last - first) * (lines_of(keys) + lines_of(values));
    step_ = max_of((lines + steps - 1) / steps, kLeastStep);
    at_ = 0;
    begin_piece(first);
  }
  void stop() { at_ = kOperands; }
  bool any() const { return at_ < kOperands; }
  void fetch() {
    for (std::int64_t due = step_; due > 0 && any(); --due) {
      __builtin_prefetch(next_, 0, 2);
      next_ += line_;
      if (next_ >= row_end_) end_row();
    }
  }

 private:
  static constexpr int kOperands = 2;
  static constexpr std::int64_t kLeastStep = 8;
  static std::int64_t width_of(const Operand& operand) { return operand.dim * bytes_of(operand.element); }
  std::int64_t lines_of(const Operand& operand) const { return (width_of(operand) + line_ - 1) / line_; }
  static std::int64_t max_of(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

  void begin_piece(std::int64_t key) {
    const Operand& operand = operand_[at_];
    const std::int64_t end = operand.rows->piece_end(key);
    key_ = key;
    piece_end_ = end < last_ ? end : last_;
    row_ = static_cast<const char*>(operand.rows->row(operand.element, key));
    begin_row();
  }
  void begin_row() {
    next_ = row_;
    row_end_ = row_ + width_of(operand_[at_]);
  }
  void end_row() {
    row_ += operand_[at_].rows->stride * bytes_of(operand_[at_].element);
    if (++key_ < piece_end_) return begin_row();
    if (key_ < last_) return begin_piece(key_);
    if (++at_ < kOperands) begin_piece(first_);
  }

  Operand operand_[kOperands];
  std::int64_t first_, last_, line_, step_;
  int at_ = kOperands;  // the current operand
  std::int64_t key_, piece_end_;
  const char *row_, *row_end_, *next_;
};

}  // namespace kumiko::kernels
