// SPDX-License-Identifier: Apache-2.0
// Linked into serving_bench in front of the library (--wrap): kv_append(context, args), by the name that
// compilers give it. The first round over all steps, which is checked, is right; later ones are errors.
#include <kumiko/kv_append.h>

using kumiko::Status;

#ifdef __clang__
#pragma clang diagnostic ignored "-Wreturn-type-c-linkage"
#endif

extern "C" {
Status __real__ZN6kumiko9kv_appendERKNS_7ContextERKNS_12KvAppendArgsE(const kumiko::Context&,
                                                                      const kumiko::KvAppendArgs&);
Status __wrap__ZN6kumiko9kv_appendERKNS_7ContextERKNS_12KvAppendArgsE(const kumiko::Context& context,
                                                                      const kumiko::KvAppendArgs& args) {
  static const void* const first_step = args.slot_mapping;
  static int rounds = 0;
  rounds += args.slot_mapping == first_step;
  if (rounds > 1) return {kumiko::Code::internal, "the second round fails"};
  return __real__ZN6kumiko9kv_appendERKNS_7ContextERKNS_12KvAppendArgsE(context, args);
}
}
