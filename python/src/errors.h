// SPDX-License-Identifier: Apache-2.0
// How the library's statuses become Python's exceptions (docs/python.md has the table).
#pragma once

#include <kumiko/status.h>
#include <nanobind/nanobind.h>

#include <new>
#include <string>

namespace kumiko::python {

namespace nb = nanobind;

/// Throws the exception of a status that is not ok, with its message in Python's names.
void check(const Status& status);

/// "q is 3 (int); expected a tensor": a TypeError.
[[noreturn]] void wrong_type(const char* name, nb::handle value, const char* expected);
/// A ValueError.
[[noreturn]] void wrong_value(const std::string& what, const std::string& value, const std::string& expected);
/// A ValueError, caused by the Python exception that is now set.
[[noreturn]] void wrong_value_from_error(const std::string& message);

/// Rethrows KeyboardInterrupt and its like, which no error of an argument may replace.
void rethrow_unless_exception(nb::python_error& error);

/// Takes the GIL back that PyEval_SaveThread() gave up. If the interpreter is ending, Python up to 3.13 ends
/// a daemon thread here by unwinding its stack, where code of nanobind and ours ends the process. The thread
/// sleeps instead, as from Python 3.14 on, until the process has ended.
void take_gil_back(PyThreadState* state);

/// Runs the library's call without the GIL, so that other threads of Python run, and raises its error.
template <class Call>
void without_gil(const Call& call) {
  PyThreadState* const state = PyEval_SaveThread();
  Status status;
  try {
    status = call();
  } catch (const std::bad_alloc&) {
    status = Status(Code::out_of_memory, "out of memory");
  }
  take_gil_back(state);
  check(status);
}

}  // namespace kumiko::python
