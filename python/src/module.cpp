// SPDX-License-Identifier: Apache-2.0
#include <nanobind/nanobind.h>

#include "attention.h"
#include "context.h"

namespace nb = nanobind;

NB_MODULE(_core, module) {
  module.doc() =
      "The compiled part of kumiko. Its functions take every argument in order; use those of kumiko.";
  module.attr("version") = KUMIKO_VERSION;
  nb::set_leak_warnings(false);  // what a program has not released when it ends is no concern of its users
  kumiko::python::bind_context(module);
  kumiko::python::bind_attention(module);
  kumiko::python::bind_scaled_dot_product_attention(module);
  kumiko::python::bind_products(module);
  kumiko::python::bind_append(module);
  kumiko::python::bind_backward(module);
  kumiko::python::bind_backward_plan(module);
  kumiko::python::bind_plan(module);
  kumiko::python::bind_stream(module);
}
