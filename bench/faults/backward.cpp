// SPDX-License-Identifier: Apache-2.0
// Linked into backward_bench in front of the library (--wrap): attention_backward(context, args), by the name
// that compilers give it. Its answer is right when it is checked first, and wrong after that.
#include <kumiko/attention_backward.h>

#include <limits>

using kumiko::Status;

#ifdef __clang__
#pragma clang diagnostic ignored "-Wreturn-type-c-linkage"
#endif

extern "C" {
Status __real__ZN6kumiko18attention_backwardERKNS_7ContextERKNS_12BackwardArgsE(const kumiko::Context&,
                                                                                const kumiko::BackwardArgs&);
Status __wrap__ZN6kumiko18attention_backwardERKNS_7ContextERKNS_12BackwardArgsE(
    const kumiko::Context& context, const kumiko::BackwardArgs& args) {
  static int calls = 0;
  const Status status =
      __real__ZN6kumiko18attention_backwardERKNS_7ContextERKNS_12BackwardArgsE(context, args);
  if (++calls > 1) *static_cast<float*>(args.dq.data) = std::numeric_limits<float>::quiet_NaN();
  return status;
}
}
