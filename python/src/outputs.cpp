// SPDX-License-Identifier: Apache-2.0
#include "outputs.h"

#include <nanobind/ndarray.h>

#include <new>
#include <vector>

namespace kumiko::python {
namespace {

nb::object tuple_of(std::span<const std::int64_t> shape) {
  nb::object tuple = nb::steal(PyTuple_New(static_cast<Py_ssize_t>(shape.size())));
  for (std::size_t i = 0; i < shape.size(); ++i)
    PyTuple_SetItem(tuple.ptr(), static_cast<Py_ssize_t>(i), PyLong_FromLongLong(shape[i]));
  return tuple;
}

/// A module that is already loaded, or None: an array is of a library that its caller has imported.
nb::object loaded(const char* module) {
  const nb::dict modules = nb::borrow<nb::dict>(PyImport_GetModuleDict());
  PyObject* const found = PyDict_GetItemString(modules.ptr(), module);
  return found ? nb::borrow(found) : nb::none();
}

bool is_numpy(nb::handle like) {
  const nb::object numpy = loaded("numpy");
  return !numpy.is_none() && nb::isinstance(like, numpy.attr("ndarray"));
}

nb::object own_tensor(std::span<const std::int64_t> shape, nb::dlpack::dtype dtype) {
  std::vector<std::size_t> sizes(shape.begin(), shape.end());
  std::size_t bytes = dtype.bits / 8u;
  for (const std::size_t size : sizes) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) throw std::bad_alloc();
  }
  void* const data = ::operator new(bytes);
  const nb::capsule owner(data, [](void* memory) noexcept { ::operator delete(memory); });
  return nb::cast(nb::ndarray<>(data, sizes.size(), sizes.data(), owner, nullptr, dtype));
}

}  // namespace

nb::object new_tensor(nb::handle like, std::span<const std::int64_t> shape) {
  if (is_numpy(like)) return loaded("numpy").attr("empty")(tuple_of(shape), like.attr("dtype"));
  if (nb::hasattr(like, "new_empty")) return like.attr("new_empty")(tuple_of(shape));
  const Imported tensor("query", like);
  return own_tensor(shape, {tensor.dtype.code, tensor.dtype.bits, 1});
}

nb::object new_float32_tensor(nb::handle like, std::span<const std::int64_t> shape) {
  if (is_numpy(like)) return loaded("numpy").attr("empty")(tuple_of(shape), "float32");
  if (nb::hasattr(like, "new_empty"))
    return like.attr("new_empty")(tuple_of(shape), nb::arg("dtype") = loaded("torch").attr("float32"));
  return own_tensor(shape, nb::dtype<float>());
}

nb::object finished(nb::handle like, const nb::object& made) {
  if (is_numpy(like) || nb::hasattr(like, "new_empty") || !nb::hasattr(like, "__array_namespace__"))
    return made;
  return like.attr("__array_namespace__")().attr("from_dlpack")(made);
}

}  // namespace kumiko::python
