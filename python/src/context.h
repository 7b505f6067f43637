// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <kumiko/attention.h>
#include <nanobind/nanobind.h>

namespace kumiko::python {

namespace nb = nanobind;

/// The context of an argument: None is the one that the process shares, made at the first call.
Context context_of(nb::handle value);

/// How often the process was forked on the way from the one that loaded this module.
int forks();

void bind_context(nb::module_& module);

}  // namespace kumiko::python
