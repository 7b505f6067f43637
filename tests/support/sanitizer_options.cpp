// SPDX-License-Identifier: Apache-2.0
// Facts about oneTBB's library that the sanitizers cannot see, because it is not built with them.
extern "C" {
__attribute__((visibility("default"))) const char* __tsan_default_suppressions();
__attribute__((visibility("default"))) const char* __lsan_default_suppressions();
}

// libtbb.so clears this memory itself and hands it over by its own atomics. Only calls inside that library
// are ignored; the tasks it runs are checked like all other code.
const char* __tsan_default_suppressions() {
  return "called_from_lib:libtbb.so\n";
}

// An observer's proxy belongs to the last TBB worker that saw it, and oneTBB neither joins its workers when
// the process ends nor keeps the proxy where LeakSanitizer looks (40 bytes per arena, now and then).
const char* __lsan_default_suppressions() {
  return "leak:tbb::detail::r1::observe\n";
}
