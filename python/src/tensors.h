// SPDX-License-Identifier: Apache-2.0
// Tensors of Python: whatever speaks the buffer protocol or DLPack, without a copy.
#pragma once

#include <nanobind/nanobind.h>

#include <array>
#include <cstdint>
#include <string>

#include "dlpack.h"
#include "errors.h"

namespace kumiko::python {

constexpr int kMaxDims = 8;

enum class Access : std::uint8_t { read, write };

/// A tensor of another library. It keeps the memory alive until it is destroyed, which needs the GIL.
class Imported {
 public:
  Imported() = default;
  /// `name` is the argument's, for errors: TypeError if `object` is no tensor, ValueError if it is not in the
  /// memory of the CPU, has more than kMaxDims dimensions or is to be written and cannot be.
  Imported(const char* argument, nb::handle object, Access access = Access::read);
  Imported(const Imported&) = delete;
  Imported& operator=(const Imported&) = delete;
  ~Imported();

  const char* name = "";
  std::byte* data = nullptr;
  int ndim = 0;
  std::array<std::int64_t, kMaxDims> shape{};
  std::array<std::int64_t, kMaxDims> stride{};  ///< In elements.
  dlpack::Type dtype{};

  /// Of one dimension, counted from the end: -1 is the last.
  std::int64_t size(int index) const { return shape.begin()[ndim + index]; }
  std::int64_t step(int index) const { return stride.begin()[ndim + index]; }
  std::int64_t item_bytes() const { return dtype.bits / 8; }
  bool is(std::uint8_t code, int bits) const { return dtype.code == code && dtype.bits == bits; }
  std::string dtype_name() const;
  std::string shape_text() const;

 private:
  bool take_buffer_of(nb::handle object);
  void take_bits_of(nb::handle object);
  void take_buffer();
  void take_dlpack(nb::handle object);
  bool take_exchange(nb::handle object);
  void take_capsule(nb::handle object);
  void check_gradient(nb::handle object) const;
  void check_negative(nb::handle object) const;
  void take_tensor(const dlpack::Tensor& tensor);
  void check_device(nb::handle object, std::int32_t type, std::int32_t id) const;
  /// Strides in elements: those of dimensions of size 1, which are arbitrary, as in contiguous memory.
  void normalise();

  Py_buffer buffer_{};
  dlpack::ManagedVersioned* versioned_ = nullptr;
  dlpack::Managed* managed_ = nullptr;
  bool is_read_only_ = false;
  bool is_copied_ = false;
};

}  // namespace kumiko::python
