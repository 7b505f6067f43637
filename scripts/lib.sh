# SPDX-License-Identifier: Apache-2.0
# Shared by the scripts beside it: sourced, not run.
# shellcheck shell=bash
# shellcheck disable=SC2034
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '== %s\n' "$*"; }
die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# run_logged LOG COMMAND...: quiet on success; on failure prints the log's end and returns a non-zero status.
run_logged() {
  local log=$1
  shift
  mkdir -p "$(dirname "$log")"
  if ! "$@" >"$log" 2>&1; then
    show_failure "$log" "$*"
    return 1
  fi
}

# show_failure LOG WHAT
show_failure() {
  tail -n 40 "$1" >&2
  printf 'failed: %s (all of it in %s)\n' "$2" "$1" >&2
}

# run_phase LABEL LOG COMMAND...: as run_logged, but shows its progress (scripts/phases.sh).
run_phase() {
  start_phase "$@"
  finish_phases
}

# cross_builds: true on the machine where AArch64 is a foreign architecture.
cross_builds() { [[ $(dpkg --print-architecture) == amd64 ]]; }

# lacks_avx512: true on an x86-64 processor that cannot run the AVX-512 kernels (kernels/cpu.h has their requirements). KUMIKO_TEST_CPUINFO
# names a file to read instead of /proc/cpuinfo, to choose another machine's tests here.
lacks_avx512() {
  [[ $(uname -m) == x86_64 ]] || return 1
  local flags flag
  flags=" $(sed -n '/^flags/{p;q}' "${KUMIKO_TEST_CPUINFO:-/proc/cpuinfo}") "
  for flag in avx2 fma f16c avx512f avx512bw avx512dq avx512vl; do
    [[ $flags == *" $flag "* ]] || return 0
  done
  return 1
}

# jobs: how many compilers at once. One per CPU that this process may use, fewer if memory is short: a test's translation unit takes up to
# about 1 GiB under the sanitizers.
jobs() {
  local cpus memory_gib
  cpus=$(nproc)
  memory_gib=$(awk '/MemAvailable/ { print int($2 / 1048576) }' /proc/meminfo)
  if ((memory_gib < 1)); then memory_gib=1; fi
  echo $((cpus < memory_gib ? cpus : memory_gib))
}
