// SPDX-License-Identifier: Apache-2.0
// How the library's statuses become Python's exceptions (docs/python.md has the table).
#pragma once

#include <kumiko/status.h>
#include <nanobind/nanobind.h>

#include <string>

namespace kumiko::python {

namespace nb = nanobind;

/// Throws the exception of a status that is not ok, with its message.
void check(const Status& status);

/// "q is 3 (int); expected a tensor": a TypeError.
[[noreturn]] void wrong_type(const char* name, nb::handle value, const char* expected);
/// A ValueError.
[[noreturn]] void wrong_value(const std::string& what, const std::string& value, const std::string& expected);
/// A ValueError, caused by the Python exception that is now set.
[[noreturn]] void wrong_value_from_error(const std::string& message);

}  // namespace kumiko::python
