// SPDX-License-Identifier: Apache-2.0
#include "errors.h"

#include <cxxabi.h>
#include <unistd.h>

namespace kumiko::python {
namespace {

/// Those of the standard library are imported when they are first raised.
nb::object exception_of(Code code) {
  switch (code) {
    case Code::invalid_argument:
      return nb::borrow(PyExc_ValueError);
    case Code::unsupported:
      return nb::borrow(PyExc_NotImplementedError);
    case Code::out_of_memory:
      return nb::borrow(PyExc_MemoryError);
    case Code::queue_full:
      return nb::module_::import_("queue").attr("Full");
    case Code::cancelled:
      return nb::module_::import_("concurrent.futures").attr("CancelledError");
    default:
      return nb::borrow(PyExc_RuntimeError);
  }
}

[[noreturn]] void raise(nb::handle type, const std::string& message) {
  PyErr_SetString(type.ptr(), message.c_str());
  throw nb::python_error();
}

}  // namespace

void check(const Status& status) {
  if (!status.ok()) raise(exception_of(status.code()), status.message());
}

void wrong_type(const char* name, nb::handle value, const char* expected) {
  std::string text = "an object";
  try {
    if (const nb::str said = nb::repr(value); nb::len(said) <= 80) text = said.c_str();
  } catch (const nb::python_error&) {  // its __repr__ failed: without it
  }
  if (!value.is_none()) text += std::string(" (") + nb::type_name(value.type()).c_str() + ")";
  raise(PyExc_TypeError, std::string(name) + " is " + text + "; expected " + expected);
}

void wrong_value(const std::string& what, const std::string& value, const std::string& expected) {
  raise(PyExc_ValueError, what + " is " + value + "; expected " + expected);
}

void wrong_value_from_error(const std::string& message) {
  nb::python_error cause;
  nb::raise_from(cause, PyExc_ValueError, "%s", message.c_str());
}

void take_gil_back(PyThreadState* state) {
  try {
    PyEval_RestoreThread(state);
  } catch (abi::__forced_unwind&) {
    for (;;) pause();
  }
}

}  // namespace kumiko::python
