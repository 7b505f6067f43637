// SPDX-License-Identifier: Apache-2.0
// What the sanitizers cannot know of oneTBB's library, which is not built with them.
extern "C" {
__attribute__((visibility("default"))) const char* __tsan_default_suppressions();
__attribute__((visibility("default"))) const char* __lsan_default_suppressions();
}

// Memory that libtbb.so itself clears and hands over by its own atomics. Only calls made inside that library
// are left out; the tasks it runs are watched like all else.
const char* __tsan_default_suppressions() {
  return "called_from_lib:libtbb.so\n";
}

// An observer's proxy belongs to the last TBB worker that saw it, and oneTBB neither joins its workers when
// the process ends nor keeps the proxy where LeakSanitizer looks (40 bytes per arena, now and then).
const char* __lsan_default_suppressions() {
  return "leak:tbb::detail::r1::observe\n";
}
