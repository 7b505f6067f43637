// SPDX-License-Identifier: Apache-2.0
#include <nanobind/nanobind.h>

#include "attention.h"
#include "context.h"

NB_MODULE(_core, module) {
  module.doc() =
      "The compiled part of kumiko. Its functions take every argument in order; use those of kumiko.";
  module.attr("__version__") = KUMIKO_VERSION;
  kumiko::python::bind_context(module);
  kumiko::python::bind_attention(module);
  kumiko::python::bind_scaled_dot_product_attention(module);
  kumiko::python::bind_products(module);
  kumiko::python::bind_plan(module);
}
