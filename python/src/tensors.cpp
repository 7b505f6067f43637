// SPDX-License-Identifier: Apache-2.0
#include "tensors.h"

#include <cstring>

namespace kumiko::python {
namespace {

/// The type of a buffer's elements from its format in the notation of Python's module struct. code 255: none.
dlpack::Type type_of(const char* format, Py_ssize_t item_bytes) {
  constexpr dlpack::Type kNone{255, 0, 1};
  if (format == nullptr) format = "B";
  if (*format == '@' || *format == '=' || *format == '<') ++format;
  if (format[0] == '\0' || format[1] != '\0') return kNone;
  const auto bits = static_cast<std::uint8_t>(item_bytes * 8);
  if (std::strchr("efd", *format)) return {dlpack::kFloat, bits, 1};
  if (std::strchr("bhilq", *format)) return {dlpack::kInt, bits, 1};
  if (std::strchr("BHILQ", *format)) return {dlpack::kUnsigned, bits, 1};
  if (*format == '?') return {dlpack::kBool, bits, 1};
  return kNone;
}

/// Wraps where the library's own checks refuse the tensor.
std::int64_t product(std::int64_t a, std::int64_t b) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b));
}

/// numpy's type objects of ml_dtypes.bfloat16, once an array of it was seen, and of uint16. They live as long
/// as the process. Without them it takes 2 us a tensor to find that there is no buffer, and why.
PyObject* known_bfloat16 = nullptr;
PyObject* known_uint16 = nullptr;

bool is_known_bfloat16(nb::handle object) {
  return known_bfloat16 && nb::getattr(object, "dtype", nb::none()).ptr() == known_bfloat16;
}

/// Whether it is a numpy array of ml_dtypes.bfloat16, which numpy offers neither as a buffer nor by DLPack.
/// There may be several type objects of it: with metadata, or the other byte order.
bool is_numpy_bfloat16(nb::handle object) {
  const nb::object type = nb::getattr(object, "dtype", nb::none());
  return nb::hasattr(object, "__array_interface__") &&
         nb::getattr(type, "name", nb::none()).equal(nb::str("bfloat16"));
}

nb::object call_dlpack(nb::handle object) {
  const nb::object method = object.attr("__dlpack__");
  try {
    return method(nb::arg("max_version") = nb::make_tuple(1, 0));
  } catch (nb::python_error& error) {  // a producer from before version 1 does not know the argument
    if (!error.matches(PyExc_TypeError)) throw;
  }
  return method();
}

}  // namespace

Imported::Imported(const char* argument, nb::handle object, Access access)
    : Imported() {  // destroyed, whatever throws
  name = argument;
  if (!take_buffer_of(object)) take_dlpack(object);
  normalise();
  if (access == Access::write && is_read_only_) wrong_value(name, "read-only", "memory that can be written");
  if (access == Access::write && is_copied_)
    wrong_value(name, "copied by its owner", "a tensor that is shared");
}

Imported::~Imported() {
  if (buffer_.obj) PyBuffer_Release(&buffer_);
  if (versioned_ && versioned_->deleter) versioned_->deleter(versioned_);
  if (managed_ && managed_->deleter) managed_->deleter(managed_);
}

bool Imported::take_buffer_of(nb::handle object) {
  if (!PyObject_CheckBuffer(object.ptr())) return false;
  if (is_known_bfloat16(object)) return take_bits_of(object), true;
  if (PyObject_GetBuffer(object.ptr(), &buffer_, PyBUF_RECORDS_RO) != 0) {
    buffer_.obj = nullptr;
    PyErr_Clear();
    if (!is_numpy_bfloat16(object)) return false;
    const nb::object type = object.attr("dtype");
    if (!nb::cast<bool>(type.attr("isnative")))
      wrong_value(std::string(name) + ".dtype", "bfloat16 in the other byte order",
                  "a number type in this machine's byte order");
    if (known_bfloat16 == nullptr) {
      known_uint16 = nb::object(nb::module_::import_("numpy").attr("uint16")).release().ptr();
      known_bfloat16 = nb::object(type).release().ptr();
    }
    take_bits_of(object);
    return true;
  }
  take_buffer();
  return true;
}

/// Of a numpy array of bfloat16.
void Imported::take_bits_of(nb::handle object) {
  const nb::object bits = object.attr("view")(nb::handle(known_uint16));
  if (PyObject_GetBuffer(bits.ptr(), &buffer_, PyBUF_RECORDS_RO) != 0) {
    buffer_.obj = nullptr;
    throw nb::python_error();
  }
  take_buffer();
  dtype = {dlpack::kBfloat, 16, 1};
}

void Imported::take_buffer() {
  if (buffer_.ndim > kMaxDims)
    wrong_value(name, "a tensor of " + std::to_string(buffer_.ndim) + " dimensions",
                "at most " + std::to_string(kMaxDims));
  dtype = type_of(buffer_.format, buffer_.itemsize);
  if (dtype.code == 255)
    wrong_value(std::string(name) + ".dtype", std::string("\"") + buffer_.format + "\" (its buffer's format)",
                "a number type in this machine's byte order");
  data = static_cast<std::byte*>(buffer_.buf);
  is_read_only_ = buffer_.readonly != 0;
  ndim = buffer_.ndim;
  for (int i = 0; i < ndim; ++i) {
    const auto at = static_cast<std::size_t>(i);
    shape[at] = buffer_.shape[i];
    if (shape[at] > 1 && buffer_.strides[i] % buffer_.itemsize != 0)
      wrong_value(std::string(name) + ".strides[" + std::to_string(i) + "]",
                  std::to_string(buffer_.strides[i]) + " bytes",
                  "a multiple of the element's " + std::to_string(buffer_.itemsize));
    stride[at] = buffer_.strides[i] / buffer_.itemsize;
  }
}

/// By the table of functions of the object's type, which takes a tenth of the time of __dlpack__.
bool Imported::take_exchange(nb::handle object) {
  const nb::object capsule = nb::getattr(object.type(), "__dlpack_c_exchange_api__", nb::none());
  if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return false;
  const auto* api =
      static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (api->version.major != 1) return false;
  if (api->managed_from_object(object.ptr(), &versioned_) != 0) {
    versioned_ = nullptr;
    throw nb::python_error();
  }
  return true;
}

/// By the method __dlpack__.
void Imported::take_capsule(nb::handle object) {
  if (nb::hasattr(object, "__dlpack_device__")) {
    const nb::object device = object.attr("__dlpack_device__")();
    int type = 0, id = 0;
    if (!nb::isinstance<nb::tuple>(device) || nb::len(device) != 2 || !nb::try_cast(device[0], type) ||
        !nb::try_cast(device[1], id))
      wrong_type(name, device, "a pair of integers from its __dlpack_device__()");
    check_device(object, type, id);
  }
  const nb::object capsule = call_dlpack(object);
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
    versioned_ =
        static_cast<dlpack::ManagedVersioned*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    PyCapsule_SetName(capsule.ptr(), "used_dltensor_versioned");
    if (versioned_->version.major != 1)  // of which nothing but the deleter may be used
      wrong_value(name, "a tensor of DLPack " + std::to_string(versioned_->version.major), "version 1");
  } else if (PyCapsule_IsValid(capsule.ptr(), "dltensor")) {
    managed_ = static_cast<dlpack::Managed*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
    PyCapsule_SetName(capsule.ptr(), "used_dltensor");
  } else {
    wrong_type(name, capsule, "a capsule of DLPack from its __dlpack__()");
  }
}

void Imported::take_dlpack(nb::handle object) {
  if (object.is_none() || PyType_Check(object.ptr()) || !nb::hasattr(object, "__dlpack__"))
    wrong_type(name, object, "a tensor (DLPack or the buffer protocol)");
  check_gradient(object);
  try {
    if (!take_exchange(object)) take_capsule(object);
  } catch (nb::python_error& error) {
    if (error.matches(PyExc_MemoryError)) throw;
    rethrow_unless_exception(error);
    const std::string why = nb::str(error.value()).c_str();
    error.restore();
    if (why.starts_with(std::string(name) + " is ")) throw nb::python_error();
    wrong_value_from_error(std::string(name) +
                           " cannot be shared by DLPack: " + why.substr(0, why.find('\n')));
  }
  if (versioned_) {
    is_read_only_ = (versioned_->flags & dlpack::kReadOnly) != 0;
    is_copied_ = (versioned_->flags & dlpack::kIsCopied) != 0;
  }
  const dlpack::Tensor& tensor = versioned_ ? versioned_->tensor : managed_->tensor;
  check_device(object, tensor.device.type, tensor.device.id);
  take_tensor(tensor);
  check_negative(object);
}

/// PyTorch shares the imaginary part of a conjugate as that of the number itself. Every second element of a
/// complex tensor: only where no elements are neighbours does it take the time to ask.
void Imported::check_negative(nb::handle object) const {
  for (int i = 0; i < ndim; ++i) {
    const auto at = static_cast<std::size_t>(i);
    if (shape[at] > 1 && stride[at] == 1) return;
  }
  const nb::object is_neg = nb::getattr(object, "is_neg", nb::none());
  if (!is_neg.is_none() && nb::cast<bool>(is_neg()))
    wrong_value(name, "a tensor with PyTorch's negative bit", "its resolve_neg()");
}

/// PyTorch's table of functions would share a tensor whose result must have a gradient or, in forward mode, a
/// tangent. There are none here.
void Imported::check_gradient(nb::handle object) const {
  const nb::object requires_grad = nb::getattr(object, "requires_grad", nb::none());
  if (requires_grad.is_none()) return;
  PyObject* const modules = PyImport_GetModuleDict();
  const nb::handle torch = requires_grad.ptr() == Py_True ? PyDict_GetItemString(modules, "torch") : nullptr;
  if (torch && nb::cast<bool>(torch.attr("is_grad_enabled")()))
    wrong_value(name, "a tensor that requires a gradient",
                "one that does not (its detach()), or a call under torch.no_grad()");
  const nb::handle forward = PyDict_GetItemString(modules, "torch.autograd.forward_ad");
  if (!forward || nb::cast<int>(forward.attr("_current_level")) < 0) return;
  if (!forward.attr("unpack_dual")(object).attr("tangent").is_none())
    wrong_value(name, "a tensor with a tangent of forward-mode differentiation",
                "one without (unpack_dual()'s primal)");
}

void Imported::take_tensor(const dlpack::Tensor& tensor) {
  if (tensor.ndim > kMaxDims)
    wrong_value(name, "a tensor of " + std::to_string(tensor.ndim) + " dimensions",
                "at most " + std::to_string(kMaxDims));
  if (tensor.dtype.lanes != 1)
    wrong_value(std::string(name) + ".dtype", "a vector of " + std::to_string(tensor.dtype.lanes),
                "a type of single numbers");
  dtype = tensor.dtype;
  ndim = tensor.ndim;
  data = static_cast<std::byte*>(tensor.data) + tensor.byte_offset;
  std::int64_t contiguous = 1;
  for (int i = ndim - 1; i >= 0; --i) {
    const auto at = static_cast<std::size_t>(i);
    shape[at] = tensor.shape[i];
    stride[at] = tensor.strides ? tensor.strides[i] : contiguous;
    contiguous = product(contiguous, shape[at]);
  }
}

void Imported::check_device(nb::handle object, std::int32_t type, std::int32_t id) const {
  if (type == dlpack::kCpu || type == dlpack::kCudaHost || type == dlpack::kRocmHost) return;
  const std::string number =
      "DLPack's device type " + std::to_string(type) + ", number " + std::to_string(id);
  const std::string device = nb::hasattr(object, "device") ? nb::str(object.attr("device")).c_str() : number;
  wrong_value(name, "a tensor on " + device, "one in the memory of the CPU");
}

void Imported::normalise() {
  std::int64_t contiguous = 1;
  for (int i = ndim - 1; i >= 0; --i) {
    const auto at = static_cast<std::size_t>(i);
    if (shape[at] <= 1) stride[at] = contiguous;
    contiguous = product(shape[at], stride[at]);
  }
}

std::string Imported::dtype_name() const {
  const std::string bits = std::to_string(dtype.bits);
  switch (dtype.code) {
    case dlpack::kInt:
      return "int" + bits;
    case dlpack::kUnsigned:
      return "uint" + bits;
    case dlpack::kFloat:
      return "float" + bits;
    case dlpack::kBfloat:
      return "bfloat" + bits;
    case dlpack::kComplex:
      return "complex" + bits;
    case dlpack::kBool:
      return "bool";
    default:
      return "DLPack's type " + std::to_string(dtype.code) + " of " + bits + " bits";
  }
}

std::string Imported::shape_text() const {
  std::string text = "(";
  for (int i = 0; i < ndim; ++i) text += (i ? ", " : "") + std::to_string(shape[static_cast<std::size_t>(i)]);
  return text + (ndim == 1 ? ",)" : ")");
}

}  // namespace kumiko::python
