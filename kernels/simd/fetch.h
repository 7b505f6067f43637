// SPDX-License-Identifier: Apache-2.0
// Software prefetch of rows in memory.
#pragma once

#include <cstdint>

namespace kumiko::kernels {
namespace {  // as in the vector types' headers: one copy per ISA file

constexpr std::int64_t kNoEnd = std::int64_t{1} << 40;

/// Rows of an operand in memory: strides and widths in bytes.
struct RowRange {
  const char* row;
  std::int64_t stride, width, rows;

  template <class T>
  RowRange(const T* data, std::int64_t stride_elements, std::int64_t elements, std::int64_t count)
      : row(reinterpret_cast<const char*>(data)),
        stride(stride_elements * static_cast<std::int64_t>(sizeof(T))),
        width(elements * static_cast<std::int64_t>(sizeof(T))),
        rows(count) {}
  static constexpr std::int64_t kLine = 64;                           ///< bytes
  std::int64_t lines() const { return (width + kLine - 1) / kLine; }  ///< of a row
};

/// Prefetches the rows of a range in the order of memory, and then the first rows of the range that is read
/// next. Without it the shuffles and FMA chains between the loads fill the schedulers, and few loads are in
/// flight at a time. Fractions of the read loop's bandwidth in decode (Zen 5, one thread, f32, D = 128,
/// groups of 4 heads, other things equal): no prefetch 0.45; each of 16 rows prefetched in step with its use
/// 0.63 to 0.73, in the order of memory 0.74 to 0.80; into L2 only 0.65. A few lines at a time, evenly: 16 in
/// one place 0.78, 2 or 4 in eight and four 0.83. The caller sets the distance.
///
/// With `l2_bytes`, each line also prefetches the one that many bytes of rows further on, into L2: where L1's
/// few miss buffers are the limit, L2's take over (docs/tuning.md).
class RowFetcher {
 public:
  /// Begins `bytes` after the range's begin. `steps` calls of fetch() cover `rows` rows.
  RowFetcher(const RowRange& range, const RowRange& next, std::int64_t bytes, std::int64_t rows,
             std::int64_t steps, std::int64_t l2_bytes = 0)
      : rate_((range.lines() * rows << kFractionBits) / steps),
        l2_ahead_(l2_bytes / range.width * range.stride),
        at_(range),
        next_(next) {
    const std::int64_t ahead = bytes / range.width;
    if (ahead >= range.rows) {
      at_ = next;
    } else {
      at_.row += ahead * at_.stride;
      at_.rows -= ahead;
    }
    start_row();
  }
  /// Always inlined: around a call the loop would spill and reload all its sums, and g++ does not inline it
  /// in files with many loops.
  [[gnu::always_inline]] void fetch() {
    for (due_ += rate_; due_ >= kOne; due_ -= kOne) fetch_line();
  }
  [[gnu::always_inline]] void fetch_line() {
    if (__builtin_expect(l2_ahead_ != 0, 0)) __builtin_prefetch(line_ + l2_ahead_, 0, 2);
    __builtin_prefetch(line_, 0, 3);
    line_ += RowRange::kLine;
    if (__builtin_expect(line_ >= row_end_, 0)) end_row();
  }
  /// A constant number of lines: its branches are predicted, and it counts nothing.
  template <int kLines>
  [[gnu::always_inline]] void fetch_lines() {
#pragma GCC unroll 16
    for (int i = 0; i < kLines; ++i) fetch_line();
  }

 private:
  static constexpr int kFractionBits = 16;
  static constexpr std::int64_t kOne = 1 << kFractionBits;
  void start_row() {
    line_ = at_.row;
    row_end_ = at_.row + at_.width;
  }
  void end_row() {
    at_.row += at_.stride;
    if (--at_.rows == 0) at_ = next_;
    start_row();
  }
  // The state for a line fits in five registers; the ranges are read once per row.
  std::int64_t rate_, due_ = 0;  // in lines
  std::int64_t l2_ahead_;        // bytes, a whole number of rows
  const char *line_, *row_end_;
  RowRange at_;
  RowRange next_;
};

}  // namespace
}  // namespace kumiko::kernels
