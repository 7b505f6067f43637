// SPDX-License-Identifier: Apache-2.0
// Software prefetch of rows in memory.
#pragma once

#include <cstdint>

#include "kernels/row_range.h"

namespace kumiko::kernels {
namespace {  // as in the vector types' headers: one copy per ISA file

#ifdef __ARM_FEATURE_SVE
constexpr std::int64_t kLine = 256;  // bytes of a cache line: A64FX
#else
constexpr std::int64_t kLine = 64;
#endif

/// Lines of a row.
inline std::int64_t lines_of_row(std::int64_t width) {
  return (width + kLine - 1) / kLine;
}

/// Rows from `first` on, stride and width in elements.
template <class T>
inline RowRange endless_rows(const T* first, std::int64_t stride, std::int64_t width) {
  constexpr auto kBytes = static_cast<std::int64_t>(sizeof(T));
  return {reinterpret_cast<const char*>(first), stride * kBytes, width * kBytes, kNoEnd};
}

/// Prefetches the rows of a list in memory order. Without prefetch the shuffles and FMA chains between the
/// loads fill the schedulers, and few loads are in flight at a time. Fractions of the read loop's bandwidth
/// in decode (Zen 5, one thread, f32, D = 128, groups of 4 heads, other things equal): no prefetch 0.45; each
/// of 16 rows prefetched in step with its use 0.63 to 0.73, in memory order 0.74 to 0.80; into L2 only 0.65.
/// It is better to spread the lines evenly over the loop: 16 lines in one place 0.78, 2 in eight places or 4
/// in four 0.83. The caller sets the distance.
///
/// Also tried there, as time relative to this code (groups of 4, f32 and 16-bit elements): prefetchnta, which
/// does not fill L2, 0.97 to 1.02, and a branch per line that chooses it 0.99 to 1.08; a load instead of the
/// prefetch 1.6 to 2.0; the first lines of the next page into L2 as well 0.88 to 1.06; one check of the row's
/// end for two or more lines, with the keys in L2, 1.03.
///
/// With RowRange::l2_ahead, each line also prefetches the one that many bytes further on, into L2: where L1's
/// few miss buffers are the limit, L2's take over (docs/limits.md).
class RowFetcher {
 public:
  /// Starts `bytes` of row data after the operand's first row, or at the rows that are read after the operand
  /// if it is shorter. `steps` calls of fetch() cover `rows` rows.
  RowFetcher(const RowList& list, std::int64_t bytes, std::int64_t rows, std::int64_t steps)
      : rate_((lines_of_row(list.begin->width) * rows << kFractionBits) / steps), next_(list.begin) {
    std::int64_t ahead = bytes / list.begin->width;
    for (; next_ != list.next && ahead >= next_->rows; ++next_) ahead -= next_->rows;
    if (next_ == list.next) ahead = 0;
    at_ = *next_++;
    at_.row += ahead * at_.stride;
    at_.rows -= ahead;
    start_row();
  }
  /// Always inlined: around a call the loop would spill and reload all its sums, and g++ does not inline it
  /// in files with many loops.
  [[gnu::always_inline]] void fetch() {
    for (due_ += rate_; due_ >= kOne; due_ -= kOne) fetch_line();
  }
  [[gnu::always_inline]] void fetch_line() {
    if (__builtin_expect(at_.l2_ahead != 0, 0)) __builtin_prefetch(line_ + at_.l2_ahead, 0, 2);
    __builtin_prefetch(line_, 0, 3);
    line_ += kLine;
    if (__builtin_expect(line_ >= row_end_, 0)) end_row();
  }
  /// A constant number of lines: the branches are predicted, and no counter is needed.
  template <int kLines>
  [[gnu::always_inline]] void fetch_lines() {
#pragma GCC unroll 16
    for (int i = 0; i < kLines; ++i) fetch_line();
  }

 private:
  friend struct RowFetcherLayout;  // decode/arm_sve512_values.h
  static constexpr int kFractionBits = 16;
  static constexpr std::int64_t kOne = 1 << kFractionBits;
  void start_row() {
    line_ = at_.row;
    row_end_ = at_.row + at_.width;
  }
  void end_row() {
    at_.row += at_.stride;
    if (--at_.rows == 0) at_ = *next_++;
    start_row();
  }
  // The state for a line fits in five registers; the ranges are read once per row.
  std::int64_t rate_, due_ = 0;  // in lines, fixed point
  const char *line_, *row_end_;
  RowRange at_;
  const RowRange* next_;  // after at_
};

}  // namespace
}  // namespace kumiko::kernels
