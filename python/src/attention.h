// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nanobind/nanobind.h>

namespace kumiko::python {

void bind_attention(nanobind::module_& module);
void bind_scaled_dot_product_attention(nanobind::module_& module);
void bind_products(nanobind::module_& module);
void bind_append(nanobind::module_& module);
void bind_backward(nanobind::module_& module);
void bind_backward_plan(nanobind::module_& module);
void bind_plan(nanobind::module_& module);
void bind_stream(nanobind::module_& module);

}  // namespace kumiko::python
