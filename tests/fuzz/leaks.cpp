// SPDX-License-Identifier: Apache-2.0
// What LeakSanitizer cannot know of libraries that are not built with it.
extern "C" {
__attribute__((visibility("default"))) const char* __lsan_default_suppressions();
}

// LLVM's OpenMP runtime keeps its threads' records where LeakSanitizer does not look: 4 blocks of 1440 bytes,
// malloc'ed by that library itself, in one run of several, and never again with the same input. This also
// hides what a worker of that library leaks; the suite under AddressSanitizer runs on another OpenMP runtime,
// with nothing of it hidden. oneTBB: tests/support/sanitizer_options.cpp.
const char* __lsan_default_suppressions() {
  return "leak:libomp.so\nleak:tbb::detail::r1::observe\n";
}
