// What ThreadSanitizer cannot know of oneTBB's library, which is not built with it: memory that libtbb.so
// itself clears and hands over by its own atomics. Only calls made inside that library are left out; the
// tasks it runs are watched like all else.
extern "C" __attribute__((visibility("default"))) const char* __tsan_default_suppressions();

const char* __tsan_default_suppressions() {
  return "called_from_lib:libtbb.so\n";
}
