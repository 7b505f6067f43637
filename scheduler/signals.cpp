// SPDX-License-Identifier: Apache-2.0
#include "scheduler/signals.h"

#include <pthread.h>
#include <signal.h>

#include <initializer_list>

namespace kumiko::scheduler {

void leave_signals_to_the_program() noexcept {
  sigset_t set;
  sigfillset(&set);
  for (const int kept : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF})
    sigdelset(&set, kept);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

}  // namespace kumiko::scheduler
