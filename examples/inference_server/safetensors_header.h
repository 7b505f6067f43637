// SPDX-License-Identifier: Apache-2.0
// The JSON header of a .safetensors file.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "safetensors.h"

namespace inference {

/// Entries by name, without "__metadata__". `file` is for messages. Throws std::runtime_error: not JSON,
/// deeper than 4 levels, a name above 1024 bytes, a name or member twice, a member missing or of another
/// type, an unknown dtype, a shape of more than 16 dimensions, offsets that do not fit the shape.
std::map<std::string, TensorEntry> parse_safetensors_header(std::string_view json, const std::string& file);

/// "[2, 3]"
std::string show_shape(const std::vector<std::int64_t>& shape);

}  // namespace inference
