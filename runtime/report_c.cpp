// SPDX-License-Identifier: Apache-2.0
// The last error of each thread, with the names that fields have in C.
#include <array>
#include <cstddef>
#include <string_view>

#include "runtime/handles_c.h"

namespace {

/// A fixed size, so that reporting "out of memory" needs no memory; the library's longest message is much
/// shorter.
thread_local std::array<char, 1024> last_error{};

struct Renamed {
  std::string_view from, to;
};
/// What is one view in C++ is a pointer and its strides in C.
constexpr Renamed kNames[] = {{"lse.data", "lse"},           {"lse.stride", "lse_stride"},
                              {"row_max.data", "row_max"},   {"row_max.stride", "row_max_stride"},
                              {"q_scale.data", "q_scale"},   {"q_scale.stride", "q_scale_stride"},
                              {"k_scale.data", "k_scale"},   {"k_scale.stride", "k_scale_stride"},
                              {"scale.data", "scale"},       {"scale.stride", "scale_stride"},
                              {"dlse.data", "dlse"},         {"dlse.stride", "dlse_stride"},
                              {"delta.data", "delta"},       {"delta.stride", "delta_stride"},
                              {"seqused_k.size()", "count"}, {"forward.", "forward->"},
                              {"local.", "local->"}};

/// The name that `text` begins with, or nullptr.
const Renamed* name_at(std::string_view text) {
  for (const Renamed& name : kNames) {
    if (text.starts_with(name.from)) return &name;
  }
  return nullptr;
}

}  // namespace

kumiko_status kumiko::c_abi::report(Code code, const char* message) noexcept {
  std::size_t length = 0;
  const auto append = [&](std::string_view text) {
    text = text.substr(0, last_error.size() - 1 - length);
    text.copy(last_error.data() + length, text.size());
    length += text.size();
  };
  // Names follow a blank or another name, as in "forward.lse.data"; paths of files do not.
  bool may_begin = true;
  for (std::string_view rest = message; !rest.empty();) {
    const Renamed* const name = may_begin ? name_at(rest) : nullptr;
    append(name ? name->to : rest.substr(0, 1));
    may_begin = name != nullptr || rest[0] == ' ';
    rest.remove_prefix(name ? name->from.size() : 1);
  }
  last_error[length] = '\0';
  return static_cast<kumiko_status>(code);
}

extern "C" const char* kumiko_last_error(void) {
  return last_error.data();
}
