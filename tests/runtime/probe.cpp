// SPDX-License-Identifier: Apache-2.0
#include "tests/runtime/probe.h"

#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

namespace kumiko::test {
namespace {

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

}  // namespace

ProbeResult probe(const std::vector<std::string>& environment, const std::vector<std::string>& arguments) {
  std::vector<std::string> env = environment, args = {KUMIKO_ENVIRONMENT_PROBE};
  args.insert(args.end(), arguments.begin(), arguments.end());
  std::array<std::array<int, 2>, 2> pipes{};
  for (auto& ends : pipes)
    if (pipe(ends.data()) != 0) return {};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  for (int i = 0; i < 2; ++i) {
    posix_spawn_file_actions_adddup2(&actions, pipes[i][1], i + 1);
    posix_spawn_file_actions_addclose(&actions, pipes[i][0]);
    posix_spawn_file_actions_addclose(&actions, pipes[i][1]);
  }
  pid_t child = -1;
  const int failed =
      posix_spawn(&child, args[0].c_str(), &actions, nullptr, pointers(args).data(), pointers(env).data());
  posix_spawn_file_actions_destroy(&actions);
  for (auto& ends : pipes) close(ends[1]);
  ProbeResult result;
  if (failed == 0) {
    std::array<std::string*, 2> texts = {&result.out, &result.err};
    std::array<pollfd, 2> polls = {pollfd{pipes[0][0], POLLIN, 0}, pollfd{pipes[1][0], POLLIN, 0}};
    for (int open = 2; open > 0;) {
      poll(polls.data(), 2, -1);
      for (int i = 0; i < 2; ++i) {
        if (polls[i].fd < 0 || polls[i].revents == 0) continue;
        char buffer[4096];
        const ssize_t n = read(polls[i].fd, buffer, sizeof buffer);
        if (n > 0) {
          texts[i]->append(buffer, static_cast<std::size_t>(n));
        } else {
          polls[i].fd = -1;
          --open;
        }
      }
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status)) result.exit_status = WEXITSTATUS(status);
  }
  for (auto& ends : pipes) close(ends[0]);
  return result;
}

}  // namespace kumiko::test
