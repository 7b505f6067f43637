#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Batch script for Slurm: a program of MPI on every node, and what the model predicts for as many ranks.
#   one rank a node:           COMMAND="build/examples/strong_scaling/strong_scaling --mpi --tokens 65536" sbatch examples/scaling/slurm_ranks.sh
#   one rank a NUMA domain:    the same with  sbatch --ntasks-per-node=4 --cpus-per-task=12 ...
# from the root of a tree built there, in build/. DOMAINS and CORES: NUMA domains of a rank, and cores of a domain (an A64FX
# unless given).
#SBATCH --nodes=16
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=48
#SBATCH --exclusive
#SBATCH --time=00:30:00
set -euo pipefail

: "${COMMAND:?the program and its arguments, in the environment of sbatch}"
ranks=${SLURM_NTASKS:?set by sbatch}
threads=${SLURM_CPUS_PER_TASK:?set by sbatch}
cores=${CORES:-12} # of a NUMA domain
domains=${DOMAINS:-$(((threads + cores - 1) / cores))}
link=${LINK:-ethernet-100g}

# Slurm gives a rank its cores; Kumiko's threads stay on these. Both of the following would bind them a second time.
unset OMP_PROC_BIND OMP_PLACES

results=ranks-$ranks-$(date +%Y%m%d-%H%M)
mkdir -p "$results"
for workload in prefill decode; do
  build/examples/strong_scaling/strong_scaling --simulate "${ranks}x${domains}x${cores}" --link "$link" \
    --workload "$workload" --tokens 1048576 --json "$results/predicted-$workload.json" \
    > "$results/predicted-$workload.txt"
done
read -ra command <<< "$COMMAND" # split at blanks
# Since Slurm 22.05 srun does not take the job's cpus-per-task.
srun --cpus-per-task="$threads" --cpu-bind=cores "${command[@]}" | tee "$results/measured.txt"
echo "$results: draw with examples/scaling/plot.py $results/predicted-*.json predicted.svg"
