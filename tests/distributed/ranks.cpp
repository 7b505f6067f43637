// SPDX-License-Identifier: Apache-2.0
#include "tests/distributed/ranks.h"

#include <cstdlib>
#include <cstring>
#include <vector>

namespace kumiko::test {
namespace {

distributed::Communicator* g_world = nullptr;

}  // namespace

const distributed::Communicator& world() {
  return *g_world;
}

int world_rank() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

int world_size() {
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

::testing::AssertionResult same_on_all_ranks(const Status& status) {
  constexpr int kBytes = 700;
  const std::string mine = std::to_string(static_cast<int>(status.code())) + " " + status.message();
  std::vector<char> sent(kBytes, '\0'), all(static_cast<std::size_t>(kBytes * world_size()));
  mine.copy(sent.data(), kBytes - 1);
  MPI_Allgather(sent.data(), kBytes, MPI_CHAR, all.data(), kBytes, MPI_CHAR, MPI_COMM_WORLD);
  for (int rank = 0; rank < world_size(); ++rank) {
    const char* const text = all.data() + rank * kBytes;
    if (std::strcmp(text, sent.data()) != 0)
      return ::testing::AssertionFailure() << "rank " << rank << ": " << text << "; here: " << mine;
  }
  return ::testing::AssertionSuccess();
}

static int run_tests_on_ranks(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const char* const level = std::getenv("KUMIKO_TEST_MPI_LEVEL");
  int provided = 0;
  MPI_Init_thread(&argc, &argv, level ? level[0] - '0' : MPI_THREAD_MULTIPLE, &provided);
  int failed = 0;
  {
    distributed::Communicator made;
    const Status status = distributed::Communicator::create(MPI_COMM_WORLD, {}, &made);
    g_world = &made;
    if (!status.ok()) std::fprintf(stderr, "%s\n", status.message().c_str());
    // One rank's report is enough to read; all ranks' failures count.
    if (world_rank() != 0) {
      auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
      if (!std::getenv("KUMIKO_TEST_ALL_RANKS")) delete listeners.Release(listeners.default_result_printer());
    }
    const int mine = !status.ok() || RUN_ALL_TESTS() != 0;
    MPI_Allreduce(&mine, &failed, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    if (mine) std::fprintf(stderr, "tests failed on rank %d\n", world_rank());
  }
  MPI_Finalize();
  return failed;
}

}  // namespace kumiko::test

int main(int argc, char** argv) {
  return kumiko::test::run_tests_on_ranks(argc, argv);
}
