// SPDX-License-Identifier: Apache-2.0
// Linked into kumiko-tune in front of the library (--wrap): kv_append(context, args), by the name that
// compilers give it. The first context's calls are right; those of others, of other candidates, change a bit
// of the first value that they write.
#include <kumiko/kv_append.h>

#include <cstddef>

using kumiko::Status;

#ifdef __clang__
#pragma clang diagnostic ignored "-Wreturn-type-c-linkage"
#endif

extern "C" {
Status __real__ZN6kumiko9kv_appendERKNS_7ContextERKNS_12KvAppendArgsE(const kumiko::Context&,
                                                                      const kumiko::KvAppendArgs&);
Status __wrap__ZN6kumiko9kv_appendERKNS_7ContextERKNS_12KvAppendArgsE(const kumiko::Context& context,
                                                                      const kumiko::KvAppendArgs& args) {
  static const kumiko::Context* const first = new kumiko::Context(context);
  Status status = __real__ZN6kumiko9kv_appendERKNS_7ContextERKNS_12KvAppendArgsE(context, args);
  if (!(context == *first)) *static_cast<std::byte*>(args.value_cache.data) ^= std::byte{1};
  return status;
}
}
