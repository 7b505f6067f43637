// SPDX-License-Identifier: Apache-2.0
// 700 causal tokens of one head over the ranks; every value is 1, and so is every output.
#include <kumiko/distributed.h>

#include <cmath>
#include <cstdio>
#include <vector>

namespace mpi = kumiko::distributed;

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int status = 1;
  {
    mpi::Communicator ranks;
    kumiko::Context context;
    kumiko::Status made = kumiko::Context::create({}, &context);
    if (made.ok()) made = mpi::Communicator::create(MPI_COMM_WORLD, {}, &ranks);
    if (!made.ok()) return std::printf("%s\n", made.message().c_str()), 1;
    constexpr std::int64_t kTokens = 700, kDim = 8;
    std::int64_t rows = 0;
    for (const auto& part : mpi::rows_of_rank(mpi::Distribution::zigzag, kTokens, ranks.size(), ranks.rank()))
      rows += part.end - part.begin;
    std::vector<float> q(static_cast<std::size_t>(rows * kDim), 0.5f), v(q.size(), 1.0f), out(q.size());
    const mpi::SequenceLengths lengths{kTokens, kTokens};
    mpi::SequenceParallelArgs args;
    args.local.q = args.local.k = kumiko::ConstTensor::bhsd(q.data(), 1, 1, rows, kDim);
    args.local.v = kumiko::ConstTensor::bhsd(v.data(), 1, 1, rows, kDim);
    args.local.out = kumiko::Tensor::bhsd(out.data(), 1, 1, rows, kDim);
    args.local.is_causal = true;
    args.sequences = {&lengths, 1};
    const kumiko::Status ran = mpi::attention_forward(context, ranks, args);
    bool is_right = ran.ok();
    for (const float x : out) is_right = is_right && std::fabs(x - 1.0f) < 1e-5f;
    std::printf("rank %d of %d: %s\n%s", ranks.rank(), ranks.size(),
                is_right ? "right" : ran.message().c_str(), mpi::explain(context, ranks, args).c_str());
    status = is_right ? 0 : 1;
  }
  MPI_Finalize();
  return status;
}
