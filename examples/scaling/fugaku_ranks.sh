#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Batch script for Fugaku: a program of MPI on every node, and what the model predicts for as many ranks.
#   one rank a node, 48 threads:  pjsub -x COMMAND="build/my_program" examples/scaling/fugaku_ranks.sh
#   one rank a CMG, 12 threads:   pjsub -x COMMAND="build/my_program",DOMAINS=1 --mpi "max-proc-per-node=4" ...
# from the root of a tree built there, in build/. Other numbers of nodes: pjsub -L "node=64" -x NODES=64 ...
#PJM -L "node=16"
#PJM -L "rscgrp=small"
#PJM -L "elapse=00:30:00"
#PJM --mpi "max-proc-per-node=1"
#PJM -j
set -euo pipefail

: "${COMMAND:?the program and its arguments, as in pjsub -x COMMAND=...}"
nodes=${NODES:-16}
domains=${DOMAINS:-4} # CMGs of a rank
ranks=$((nodes * 4 / domains))

# The first touch places pages, not the program's start, which would fill one CMG.
export XOS_MMM_L_PAGING_POLICY=demand:demand:demand
# The MPI library gives a rank its node's or its CMG's cores; Kumiko's threads stay on these. Both of the following would
# bind them a second time.
unset OMP_PROC_BIND OMP_PLACES

results=ranks-$ranks-$(date +%Y%m%d-%H%M)
mkdir -p "$results"
for workload in prefill decode; do
  # Several ranks of a node share its six network interfaces; one each is what --link tofu-d states.
  build/examples/strong_scaling/strong_scaling --simulate "${ranks}x${domains}x12" --link tofu-d \
    --workload "$workload" --tokens 1048576 --json "$results/predicted-$workload.json" \
    > "$results/predicted-$workload.txt"
done
read -ra command <<< "$COMMAND" # split at blanks
mpiexec -stdout-proc "$results/%/1000R/stdout" -stderr-proc "$results/%/1000R/stderr" "${command[@]}"
echo "$results: draw with examples/scaling/plot.py $results/predicted-*.json predicted.svg"
