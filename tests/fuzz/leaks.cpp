// SPDX-License-Identifier: Apache-2.0
// Suppressions for libraries that are not built with LeakSanitizer.
extern "C" {
__attribute__((visibility("default"))) const char* __lsan_default_suppressions();
}

// LLVM's OpenMP runtime keeps its threads' records where LeakSanitizer does not search: it reported 4 blocks
// of 1440 bytes, allocated by that library itself, in one run of several, and never again with the same
// input. This also hides real leaks of that library's workers; the suite under AddressSanitizer uses another
// OpenMP runtime, without suppressions for it. oneTBB: tests/support/sanitizer_options.cpp.
const char* __lsan_default_suppressions() {
  return "leak:libomp.so\nleak:tbb::detail::r1::observe\n";
}
