// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/conversion.h"

#include <algorithm>

#include "tests/fuzz/checks.h"
#include "tests/fuzz/failing_new.h"

namespace kumiko::fuzz {

void Conversion::run(const kumiko_context* context, long countdown) {
  poison_outputs();
  kumiko_status status;
  {
    const FailingNew failing(kLargestRequest, countdown);
    status = call(context);
  }
  checked(status, name_);
  if (status == KUMIKO_OK) {
    require(!is_refused_, "only a sound call runs", name_);
    return check_outputs();
  }
  require(status == KUMIKO_OUT_OF_MEMORY || is_refused_, "a sound call runs", kumiko_last_error());
  require(status != KUMIKO_OUT_OF_MEMORY || countdown >= 0, "the call needs little memory", name_);
  require(outputs_untouched(), "an error leaves the outputs alone", name_);
}

void Conversion::fuzz(const kumiko_context* own, const kumiko_context* other, const kumiko_context* reference,
                      long countdown) {
  if (countdown >= 0) run(own, countdown);
  run(own, -1);
  if (is_refused_) return;
  const std::vector<unsigned char> want = outputs();
  for (const kumiko_context* context : {other, reference}) {
    if (!context) continue;
    run(context, -1);
    require(outputs() == want, "every machine and instruction set gives the same bytes", name_);
  }
}

void Conversion::poison_outputs() {
  for (Buffer& buffer : buffers_)
    if (buffer.is_output()) buffer.poison();
}

bool Conversion::outputs_untouched() const {
  return std::all_of(buffers_.begin(), buffers_.end(),
                     [](const Buffer& b) { return !b.is_output() || b.is_poisoned(); });
}

std::vector<unsigned char> Conversion::outputs() const {
  std::vector<unsigned char> all;
  for (const Buffer& buffer : buffers_) {
    const auto* const data = static_cast<const unsigned char*>(buffer.data());
    if (buffer.is_output()) all.insert(all.end(), data, data + buffer.size());
  }
  return all;
}

void Conversion::check_rest(const Buffer& buffer, const std::vector<bool>& expected) const {
  for (std::size_t i = 0; i < expected.size(); ++i)
    require(expected[i] || buffer.is_poisoned(i, i + 1), "the call writes nothing else", name_);
}

}  // namespace kumiko::fuzz
