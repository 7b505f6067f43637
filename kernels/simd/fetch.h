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
};

/// Fetches the rows of a range ahead of their use, in the order of memory, and then the first rows of the
/// range that is read next. The shuffles and chains of FMAs between the loads fill the schedulers, so that
/// without it few loads are under way at a time. Figures are shares of the read loop's bandwidth (Zen 5, one
/// thread, D = 128, groups of 4 heads): nothing fetched 0.45, each of 16 rows in step with its use 0.63 to
/// 0.73, in order of memory 8 KiB ahead 0.59, 16 KiB 0.74 to 0.80, 32 KiB 0.69, 64 KiB 0.71; 16 KiB into L2
/// only 0.65.
/// One line at a time: in bursts of 4 lines 0.05 less.
class RowFetcher {
 public:
  static constexpr std::int64_t kLine = 64;  ///< bytes
  /// `steps` calls of fetch() pass over `rows` rows.
  RowFetcher(const RowRange& range, const RowRange& next, std::int64_t bytes, std::int64_t rows, std::int64_t steps)
      : at_(range), next_(next) {
    const std::int64_t lines = (range.width + kLine - 1) / kLine * rows;
    rate_ = (lines << kFractionBits) / steps;
    const std::int64_t ahead = bytes / range.width;
    if (ahead >= range.rows) {
      at_ = next;
    } else {
      at_.row += ahead * at_.stride;
      at_.rows -= ahead;
    }
    start_row();
  }
  /// Inlined by order: a call would have the loop around it store and load all its sums, and g++ makes one of
  /// it in files with many loops.
  [[gnu::always_inline]] void fetch() {
    for (due_ += rate_; due_ >= kOne; due_ -= kOne) fetch_line();
  }
  [[gnu::always_inline]] void fetch_line() {
    __builtin_prefetch(line_, 0, 3);
    line_ += kLine;
    if (__builtin_expect(line_ >= row_end_, 0)) end_row();
  }
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
  // What a line takes is in four registers; the ranges are looked at once a row.
  std::int64_t rate_, due_ = 0;  // in lines
  const char *line_, *row_end_;
  RowRange at_;
  RowRange next_;
};

}  // namespace
}  // namespace kumiko::kernels
