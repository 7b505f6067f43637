// SPDX-License-Identifier: Apache-2.0
#include "errors.h"

#include <cxxabi.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <iterator>
#include <string_view>

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

struct Renamed {
  std::string_view from, to;
};
/// What fields and types of the library are called here.
constexpr Renamed kNames[] = {{"null", "None"},
                              {"window_left", "window[0] (left)"},
                              {"window_right", "window[1] (right)"},
                              {"alibi_batch_stride", "alibi_slopes.stride[0]"},
                              {"block_table_stride", "block_table.stride[0]"},
                              {"bsr_head_stride", "bsr_indptr.stride[0]"},
                              {"tree_mask_stride", "tree_mask.stride[0]"},
                              {"rope_stride", "cos_sin.stride[0]"},
                              {"rope_positions", "rows of cos_sin"},
                              {"lse_stride", "stride"},
                              {"f32", "float32"},
                              {"f16", "float16"},
                              {"bf16", "bfloat16"},
                              {"i8", "int8"},
                              {"i32", "int32"},
                              {"boolean", "bool"}};

bool is_of_a_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_';
}

/// Outside of quoted values.
std::string renamed(std::string_view message) {
  std::string text;
  bool is_quoted = false;
  while (!message.empty()) {
    std::size_t length = 0;
    while (length < message.size() && is_of_a_word(message[length])) ++length;
    if (length == 0) {
      is_quoted ^= message.front() == '"';
      length = 1;
    }
    const std::string_view word = message.substr(0, length);
    const auto* const name = std::find_if(std::begin(kNames), std::end(kNames),
                                          [&](const Renamed& row) { return !is_quoted && row.from == word; });
    text += name == std::end(kNames) ? word : name->to;
    message.remove_prefix(length);
  }
  return text;
}

}  // namespace

void check(const Status& status) {
  if (!status.ok()) raise(exception_of(status.code()), renamed(status.message()));
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

void rethrow_unless_exception(nb::python_error& error) {
  if (!error.matches(PyExc_Exception)) throw error;
}

void take_gil_back(PyThreadState* state) {
  try {
    PyEval_RestoreThread(state);
  } catch (abi::__forced_unwind&) {
    for (;;) pause();
  }
}

}  // namespace kumiko::python
