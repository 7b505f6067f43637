// SPDX-License-Identifier: Apache-2.0
// What the other threads of this process do, according to the kernel.
#pragma once

#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

namespace kumiko::test {

struct OtherThreads {
  int count = 0, asleep = 0;
  bool all_asleep() const { return asleep == count; }
};

inline OtherThreads other_threads() {
  OtherThreads others;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    if (task.path().filename() == std::to_string(gettid())) continue;
    std::ifstream stat(task.path() / "stat");  // "tid (name) S ..."; empty if the thread has ended meanwhile
    std::string text;
    if (!std::getline(stat, text)) continue;
    ++others.count;
    others.asleep += text.compare(text.rfind(')'), 3, ") S") == 0;
  }
  return others;
}

/// Whether `condition` becomes true of the other threads within `patience`, 20 times in a row, a millisecond
/// apart: a working thread may also wait for a moment, above all under an emulator.
template <class Condition>
bool comes_to_rest(Condition condition, std::chrono::seconds patience) {
  const auto end = std::chrono::steady_clock::now() + patience;
  for (int times = 0; times < 20;) {
    if (std::chrono::steady_clock::now() > end) return false;
    times = condition(other_threads()) ? times + 1 : 0;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}
inline bool all_others_come_to_rest() {
  return comes_to_rest([](const OtherThreads& others) { return others.all_asleep(); },
                       std::chrono::seconds(10));
}

}  // namespace kumiko::test
