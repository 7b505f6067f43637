// SPDX-License-Identifier: Apache-2.0
// Helpers of the kernel tests: one gtest parameter per table row that this machine runs.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/element.h"
#include "kernels/float_state.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/numbers.h"
#include "tests/support/random.h"

namespace kumiko::kernels {

/// gtest prints a parameter by its table name. In the rows' namespace, where gtest finds it.
template <class Row>
requires requires(const Row& row) {
  row.name, row.isa;
}
void PrintTo(const Row& row, std::ostream* os) {
  *os << row.name;
}

}  // namespace kumiko::kernels

namespace kumiko::test {

/// The rows of a table whose ISA the host supports.
template <class Row>
std::vector<Row> host_rows(std::span<const Row> rows) {
  std::vector<Row> result;
  for (const Row& row : rows)
    if (kernels::host_isas() & kernels::bit(row.isa)) result.push_back(row);
  return result;
}

/// Those of them whose panels are for `product`.
template <class Row>
std::vector<Row> host_rows(std::span<const Row> rows, kernels::Element product) {
  std::vector<Row> result;
  for (const Row& row : host_rows(rows))
    if (row.product == product) result.push_back(row);
  return result;
}

/// Those of them that do not multiply f16, whose operands look different (half_test.cpp).
template <class Row>
std::vector<Row> host_rows_but_half(std::span<const Row> rows) {
  std::vector<Row> result = host_rows(rows);
  std::erase_if(result, [](const Row& row) { return row.product == kernels::Element::f16; });
  return result;
}

/// A test of one table row, in the floating-point state that kernels of its ISA assume. Scalar C++ models
/// then flush the same subnormals as the kernel.
template <class Row>
struct RowTest : ::testing::TestWithParam<Row> {
  const Row& row = ::testing::TestWithParam<Row>::GetParam();

 private:
  kernels::FloatState state_{row.isa};
};

struct RowName {
  template <class Info>
  std::string operator()(const Info& info) const {
    return info.param.name;
  }
};

/// Where an operand lies: directly after a guard page, directly before one, or 4 bytes into the first page
/// (no further alignment).
enum class Place { front, back, misaligned };
inline constexpr Place kPlaces[] = {Place::front, Place::back, Place::misaligned};
/// All places; in runs with fewer cases (kThinning) one of them, in turn.
inline std::span<const Place> places(std::int64_t turn) {
  return kThinning < 2 ? std::span(kPlaces)
                       : std::span(kPlaces).subspan(static_cast<std::size_t>(turn % 3), 1);
}

/// n values of T between guard pages.
template <class T>
class Operand {
 public:
  Operand(std::size_t n, Place place)
      : offset_(place == Place::misaligned ? 1 : 0),
        n_(n),
        buffer_((n + offset_) * sizeof(T), place == Place::back ? Flush::back : Flush::front) {}
  T* data() const { return reinterpret_cast<T*>(buffer_.data()) + offset_; }
  T& operator[](std::size_t i) const { return data()[i]; }
  std::size_t size() const { return n_; }
  std::span<T> span() const { return {data(), n_}; }
  /// True if nothing was written beside the values, as far as the guard pages leave room.
  bool intact() const { return buffer_.slack_untouched(); }

 private:
  std::size_t offset_;
  std::size_t n_;
  GuardedBuffer buffer_;
};

/// Equal bits, where any NaN equals any other: which payload a sum of NaNs keeps depends on the order of
/// operands, not on the order of arithmetic.
inline bool same_value(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}

}  // namespace kumiko::test
