// SPDX-License-Identifier: Apache-2.0
// Calls without end, in which rank 1 is killed. No other rank may say that all went well.
#include <kumiko/distributed.h>
#include <signal.h>

#include <chrono>
#include <cstdio>
#include <thread>
#include <vector>

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  constexpr std::int64_t kPages = 64, kHeads = 2, kDim = 16;
  kumiko::Context context;
  kumiko::distributed::Communicator communicator;
  if (!kumiko::Context::create({}, &context).ok() ||
      !kumiko::distributed::Communicator::create(MPI_COMM_WORLD, {}, &communicator).ok())
    return 1;
  std::vector<float> q(kHeads * kDim, 0.5f), k(kPages * 512 * kHeads * kDim, 0.5f), v(k.size(), 1.0f),
      out(q.size());
  std::vector<std::int32_t> table;
  for (std::int32_t page = 0; page < kPages; ++page) table.push_back(page);
  const std::int32_t length = kPages * 512;
  kumiko::AttentionArgs args;
  args.q = kumiko::ConstTensor::bhsd(q.data(), 1, kHeads, 1, kDim);
  args.k = kumiko::ConstTensor::bhsd(k.data(), kPages, kHeads, 512, kDim);
  args.v = kumiko::ConstTensor::bhsd(v.data(), kPages, kHeads, 512, kDim);
  args.out = kumiko::Tensor::bhsd(out.data(), 1, kHeads, 1, kDim);
  args.seqused_k = &length;
  args.block_table = table.data(), args.max_pages = kPages;
  std::thread killer;
  for (int i = 0; i < 1000000; ++i) {
    const kumiko::Status status = kumiko::distributed::attention_forward(context, communicator, args);
    if (!status.ok()) {
      std::printf("stopped: %s\n", status.message().c_str());
      return 1;
    }
    if (i > 0) continue;
    std::printf("first call is right: %d\n", out[0] > 0.999f && out[0] < 1.001f);
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
