#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Two ranks of one thread against one process of two: ranks_call under mpirun, with and without a slow link between them.

    distributed_bench                  prints the figures
    distributed_bench --benchmark_...  takes the flags of Google Benchmark, for bench/run_groups.py

A slow link is the loopback of a network namespace of its own, held to a rate by the token bucket filter of `tc` (needs root, unshare, ip, tc).
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

CALL = pathlib.Path(sys.argv[1])
MPIRUN = ["mpirun", "--allow-run-as-root", "--bind-to", "none", "-n", "2"]
PREFILL = ["prefill", "8192", "3"]
PREFILL_BYTES = 8192 * 8 * 128 * 2 * 4  # K and V of all keys: each half goes to the other rank


def call(*arguments, before=(), options=()):
    done = subprocess.run([*before, *MPIRUN, *options, str(CALL), *arguments], text=True, capture_output=True)
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[0])
    return json.loads(done.stdout.strip().splitlines()[-1])


def efficiency(*arguments):
    seconds = call(*arguments)
    return {"efficiency": seconds["alone"] / seconds["together"], **seconds}


def step():
    """What a decode step over two ranks takes beyond that of one process, less two latencies of the link."""
    seconds = call("decode", "1024", "9")
    return {"microseconds": max(seconds["together"] - seconds["alone"] - 2 * seconds["latency"], 0) * 1e6, **seconds}


def slow_link(share):
    """Sending K and V takes `share` of computing."""
    tcp = ["--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "lo"]
    free = call(*PREFILL, options=tcp)
    sending = share * free["together"]
    rate = round(PREFILL_BYTES * 8 / sending)
    script = ("ip link set lo up && tc qdisc add dev lo root tbf rate " + str(rate) + "bit burst 256kb latency 200ms && exec \"$@\"")
    slow = call(*PREFILL, before=["unshare", "-n", "sh", "-c", script, "sh"], options=tcp)
    return {"over_longer": slow["together"] / max(free["together"], sending), "rate": rate, **slow}


BENCHMARKS = {
    "ranks_causal_d128_h8x8_8192": lambda: efficiency(*PREFILL),
    "ranks_decode_d128_h32x8_32768": lambda: efficiency("decode", "32768", "7"),
    "ranks_step": step,
    **{f"ranks_link_{round(100 * share):03}": lambda share=share: slow_link(share) for share in (0.5, 0.8, 1.0)},
}


def why_not(name):
    """None, or why this machine cannot run it."""
    if not shutil.which("mpirun"):
        return "no mpirun"
    if name.startswith("ranks_link") and (os.geteuid() != 0 or not all(shutil.which(tool) for tool in ("unshare", "ip", "tc"))):
        return "a slow link needs root and unshare, ip and tc"
    return None


def main(arguments):
    parser = argparse.ArgumentParser(prog="distributed_bench", description=__doc__.splitlines()[0])
    parser.add_argument("--benchmark_list_tests", choices=["true", "false"], default="false", help=argparse.SUPPRESS)
    parser.add_argument("--benchmark_filter", default=".", help=argparse.SUPPRESS)
    parser.add_argument("--benchmark_out", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--benchmark_out_format", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    names = {f"{name}/host/t2": run for name, run in BENCHMARKS.items()}
    if args.benchmark_list_tests == "true":
        print("\n".join(names))
        return 0
    found = []
    for name, run in names.items():
        if not re.search(args.benchmark_filter, name):
            continue
        try:
            reason = why_not(name)
            if reason:
                raise RuntimeError(reason)
            found.append({"name": name, **run()})
        except (RuntimeError, ValueError) as error:
            found.append({"name": name, "error_occurred": True, "error_message": str(error)})
        print(found[-1], file=sys.stderr if args.benchmark_out else sys.stdout, flush=True)
    if args.benchmark_out:
        args.benchmark_out.write_text(json.dumps({"benchmarks": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
