#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Batch script: both curves of all three workloads on one A64FX, 48 cores.
#   Fugaku:  pjsub examples/scaling/a64fx.sh        (from the root of a tree built there, in build/)
#   FX700:   sbatch examples/scaling/a64fx.sh
#PJM -L "node=1"
#PJM -L "rscgrp=small"
#PJM -L "elapse=00:30:00"
#PJM --mpi "max-proc-per-node=1"
#PJM -j
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=48
#SBATCH --exclusive
#SBATCH --time=00:30:00
set -euo pipefail

# At program start Fugaku's large-page library takes all memory from one CMG, unless told to wait for the first touch.
export XOS_MMM_L_PAGING_POLICY=demand:demand:demand
# Both would bind the threads that Kumiko binds; a contradiction is an error.
unset OMP_PROC_BIND OMP_PLACES

results=scaling-$(hostname)-$(date +%Y%m%d-%H%M)
mkdir -p "$results"
for mode in strong weak; do
  for workload in prefill decode mixed; do
    "build/examples/${mode}_scaling/${mode}_scaling" --workload "$workload" --json "$results/$mode-$workload.json" |
      tee "$results/$mode-$workload.txt"
  done
done
echo "$results: draw with examples/scaling/plot.py $results/strong-*.json strong.svg"
