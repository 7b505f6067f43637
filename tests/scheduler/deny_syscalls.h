// SPDX-License-Identifier: Apache-2.0
// Runs a function in a child process for which the kernel refuses some system calls, as a container's seccomp
// profile does.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <initializer_list>
#include <string>
#include <vector>

#include "tests/support/threads.h"

namespace kumiko::test {

/// From here on `calls` fail with `error` in this thread and its children. For good.
inline bool deny_syscalls(std::initializer_list<long> calls, int error) {
  std::vector<sock_filter> program;
  program.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
  for (const long call : calls) {
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(call), 0, 1));
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)));
  }
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

struct ChildResult {
  int status = -1;     ///< What the function returned, -1 if the child died in another way.
  std::string output;  ///< What it printed, stdout and stderr.
};

/// `function` returns 0..125. The calling process must have one thread, or know what its child may do.
template <class Function>
ChildResult in_child(Function function) {
  int ends[2];
  if (pipe(ends) != 0) return {};
  std::fflush(nullptr);
#if defined(__SANITIZE_ADDRESS__)
  // GCC 12's does not take its allocator's locks around fork(), as glibc does: a child forked while another
  // thread allocates waits for them for ever. A thread that sleeps holds none.
  all_others_come_to_rest();
#endif
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    close(ends[1]);
    const int status = function();
    std::fflush(nullptr);
    _exit(status);
  }
  close(ends[1]);
  ChildResult result;
  char buffer[512];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;)
    result.output.append(buffer, static_cast<std::size_t>(n));
  close(ends[0]);
  int status = 0;
  if (child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status))
    result.status = WEXITSTATUS(status);
  return result;
}

}  // namespace kumiko::test
