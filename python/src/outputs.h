// SPDX-License-Identifier: Apache-2.0
// Tensors that a call returns: of the kind that its query is.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <span>

#include "tensors.h"

namespace kumiko::python {

/// A new tensor of the library that `like` is of: numpy's for a numpy array, PyTorch's for one of PyTorch
/// (whatever has new_empty), otherwise an object that speaks DLPack and the buffer protocol.
nb::object new_tensor(nb::handle like, std::span<const std::int64_t> shape);
/// The same of float32.
nb::object new_float32_tensor(nb::handle like, std::span<const std::int64_t> shape);
/// The new tensor once it is written: arrays that never change (JAX) are made from it by their own library.
nb::object finished(nb::handle like, const nb::object& made);

}  // namespace kumiko::python
