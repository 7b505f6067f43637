#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Batch job for one node of Fugaku or FX1000: pjsub -g GROUP fugaku_job.sh [PROGRAM ARGUMENTS...]
# Without a program it runs the library's own report of instruction sets and its benchmark of attention. docs/a64fx.md gives the reason for
# each setting. Written from published recommendations; not run on the machine.
#PJM -L "node=1"
#PJM -L "rscgrp=small"
#PJM -L "elapse=00:20:00"
#PJM -x PJM_LLIO_GFSCACHE=/vol0004
#PJM -j
#PJM -S
set -euo pipefail
build=${BUILD:-$PWD/build-a64fx}

# Pages on the CMG that touches them first, and large pages.
export XOS_MMM_L_PAGING_POLICY=demand:demand:demand
export XOS_MMM_L_HPAGE_TYPE=hugetlbfs
# The library binds its own threads, one on each core of the job's mask (CPUs 12 to 59).
unset OMP_PROC_BIND OMP_PLACES GOMP_CPU_AFFINITY
export KUMIKO_ISA=sve512      # an error, not a slower ISA, if vectors are not 512 bits
export KUMIKO_BIND=close
export KUMIKO_VERBOSE=1

if (($# > 0)); then
  exec "$@"
fi
"$build/tests/isa_report/isa_report"
"$build/bench/attention_bench" --benchmark_filter='^(dense|causal|decode)_.*/sve512/'
