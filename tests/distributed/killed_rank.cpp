// SPDX-License-Identifier: Apache-2.0
// Calls without end, in which rank 1 is killed. No other rank may say that all went well.
#include <kumiko/distributed.h>
#include <signal.h>

#include <chrono>
#include <cstdio>
#include <thread>

#include "tests/distributed/paged_decode.h"

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  kumiko::Context context;
  kumiko::distributed::Communicator communicator;
  if (!kumiko::Context::create({}, &context).ok() ||
      !kumiko::distributed::Communicator::create(MPI_COMM_WORLD, {}, &communicator).ok())
    return 1;
  kumiko::test::PagedDecode decode(64 * 512, 2, 16);
  const kumiko::AttentionArgs args = decode.args();
  std::thread killer;
  for (int i = 0; i < 1000000; ++i) {
    const kumiko::Status status = kumiko::distributed::attention_forward(context, communicator, args);
    if (!status.ok()) {
      std::printf("stopped: %s\n", status.message().c_str());
      return 1;
    }
    if (i > 0) continue;
    std::printf("first call is right: %d\n", decode.is_right());
    std::fflush(stdout);
    MPI_Barrier(MPI_COMM_WORLD);
    if (communicator.rank() == 1)
      killer = std::thread([] {
        std::this_thread::sleep_for(std::chrono::milliseconds(300));
        raise(SIGKILL);
      });
  }
  std::printf("all calls succeeded\n");
  return 0;
}
