// SPDX-License-Identifier: Apache-2.0
#include "tests/c_abi/fields.h"

#include "runtime/handles_c.h"

namespace kumiko::test {

Memory::Memory() {
  // A mask's elements are bytes, about half of them 0.
  auto* const bytes = static_cast<unsigned char*>(mask.data());
  for (std::size_t i = 0; i < 4 * mask.words().size(); ++i) {
    bytes[i] = static_cast<unsigned char>(bytes[i] & (bytes[i] >> 3));
  }
}

Memory& memory() {
  static Memory all;
  return all;
}

std::ostream& operator<<(std::ostream& os, const Seen& seen) {
  return os << "status " << seen.code << " \"" << seen.message << "\"\n" << seen.text;
}

void clear_outputs() {
  memory().out.clear();
  memory().lse.clear();
  memory().row_max.clear();
}

namespace {

Seen with_outputs(int code, std::string message) {
  return {code, std::move(message), {}, memory().out.words(), memory().lse.words(), memory().row_max.words()};
}

}  // namespace

Seen seen_of(const Status& status) {  // its message with the names that fields have in C
  c_abi::report(status.code(), status.message().c_str());
  return with_outputs(static_cast<int>(status.code()), kumiko_last_error());
}
Seen seen_of(kumiko_status status) {
  return with_outputs(status, kumiko_last_error());
}

}  // namespace kumiko::test
