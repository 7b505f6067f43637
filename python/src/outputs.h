// SPDX-License-Identifier: Apache-2.0
// Tensors that a call returns: of the kind that its query is.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <span>

#include "tensors.h"

namespace kumiko::python {

/// What a call writes: the caller's tensor, or a new one of the library that another is of: numpy's for a
/// numpy array, PyTorch's for one of PyTorch (whatever has new_empty), that of its array namespace (JAX),
/// otherwise an object that speaks DLPack and the buffer protocol.
class Output {
 public:
  enum class Type : std::uint8_t { as_like, float32, int8 };

  /// `given` may be None: a new tensor of this shape then.
  Output(const char* name, nb::handle given, nb::handle like, std::span<const std::int64_t> shape, Type type);

  /// Where to write. It is destroyed with this object.
  const Imported& tensor() const { return tensor_; }
  /// What to return once it is written: arrays that never change (JAX's) are made now.
  nb::object result() const;

 private:
  nb::object like_;  // which the caller may drop before an asynchronous call has ended
  bool is_new_;
  nb::object object_;
  Imported tensor_;
};

}  // namespace kumiko::python
