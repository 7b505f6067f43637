// SPDX-License-Identifier: Apache-2.0
// One benchmark per row of the kernel tables, on one core, with operands in L1 and L2 as in the pipelines
// (decode: from memory).
#include "bench/kernels_bench/common.h"

int main(int argc, char** argv) {
  using namespace kumiko::bench;
  register_gemm();
  register_softmax();
  register_pack();
  register_score_tile();
  register_state();
  register_store();
  register_append();
  register_decode();
  register_key_tiles();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  const ScopedAffinity affinity(first_core());
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
