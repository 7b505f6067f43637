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
  bool fits = true;
  for (const std::size_t size : sizes) fits = fits && !__builtin_mul_overflow(bytes, size, &bytes);
  void* const data = fits ? ::operator new(bytes, std::nothrow) : nullptr;
  if (data == nullptr)
    check({Code::out_of_memory, "a result of " + (fits ? std::to_string(bytes) : "more than 2^64") +
                                    " bytes could not be allocated"});
  const nb::capsule owner(data, [](void* memory) noexcept { ::operator delete(memory); });
  return nb::cast(nb::ndarray<nb::array_api>(data, sizes.size(), sizes.data(), owner, nullptr, dtype));
}

nb::object new_tensor(nb::handle like, std::span<const std::int64_t> shape) {
  if (is_numpy(like)) return loaded("numpy").attr("empty")(tuple_of(shape), like.attr("dtype"));
  if (nb::hasattr(like, "new_empty")) return like.attr("new_empty")(tuple_of(shape));
  const Imported tensor("query", like);
  return own_tensor(shape, {tensor.dtype.code, tensor.dtype.bits, 1});
}

/// `name`: of the type, as numpy and PyTorch have it.
nb::object new_tensor_of(const char* name, nb::dlpack::dtype dtype, nb::handle like,
                         std::span<const std::int64_t> shape) {
  if (is_numpy(like)) {
    const nb::object numpy = loaded("numpy");
    return numpy.attr("empty")(tuple_of(shape), numpy.attr(name));
  }
  if (nb::hasattr(like, "new_empty"))
    return like.attr("new_empty")(tuple_of(shape), nb::arg("dtype") = loaded("torch").attr(name));
  return own_tensor(shape, dtype);
}

nb::object object_of(nb::handle given, nb::handle like, std::span<const std::int64_t> shape,
                     Output::Type type) {
  if (!given.is_none()) return nb::borrow(given);
  if (type == Output::Type::float32) return new_tensor_of("float32", nb::dtype<float>(), like, shape);
  if (type == Output::Type::int8) return new_tensor_of("int8", nb::dtype<std::int8_t>(), like, shape);
  return new_tensor(like, shape);
}

}  // namespace

Output::Output(const char* name, nb::handle given, nb::handle like, std::span<const std::int64_t> shape,
               Type type)
    : like_(nb::borrow(like)),
      is_new_(given.is_none()),
      object_(object_of(given, like, shape, type)),
      tensor_(name, object_, Access::write) {}

nb::object Output::result() const {
  const bool is_final = !is_new_ || is_numpy(like_) || nb::hasattr(like_, "new_empty");
  if (is_final || !nb::hasattr(like_, "__array_namespace__")) return object_;
  return like_.attr("__array_namespace__")().attr("from_dlpack")(object_);
}

}  // namespace kumiko::python
