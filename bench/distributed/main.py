#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares two ranks of one thread with one process of two threads: ranks_call under mpirun, with and without a slow link between the ranks.

    distributed_bench                  prints the figures
    distributed_bench --benchmark_...  takes the flags of Google Benchmark, for bench/run_groups.py

A slow link is a pair of virtual Ethernet devices between two network namespaces. `tc` limits its rate and delays it by 50 us in each direction
(needs root, ip and tc), by netem, or, where the kernel has no netem, by the token bucket filter, which delays nothing.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

CALL = pathlib.Path(sys.argv[1])
MPIRUN = ["mpirun", "--allow-run-as-root", "--bind-to", "none", "-n", "2"]
PREFILL = ["prefill", "8192", "3"]
# K and V of 4096 keys, which the busier rank sends: rows in zigzag, so rank 0 has the first and the last quarter of the tokens.
PREFILL_BYTES = 4096 * 8 * 128 * 2 * 4
DELAY_US = 50
# Bytes of an Ethernet frame, which the rate of a link counts, over the bytes of TCP data in it.
FRAME = 1514 / 1448
# A short queue before the link, as network cards have: otherwise, where both sides send, acknowledgements wait behind megabytes of data, and in
# every second run both directions had half of their rate. With BBR, the default of some kernels, that happened in most runs.
TCP = ["net.ipv4.tcp_limit_output_bytes=131072", "net.ipv4.tcp_congestion_control=reno"]


def run(command):
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[0])
    return done.stdout


def call(*arguments, before=(), options=()):
    return json.loads(run([*before, *MPIRUN, *options, str(CALL), *arguments]).strip().splitlines()[-1])


class Link:
    """Two network namespaces and a link between them; `place` is what call() needs to put a rank in each."""

    def __init__(self, rate):
        self.names = [f"kumiko{os.getpid()}{side}" for side in "ab"]
        self.rate = rate
        self.delay = 0  # us in each direction, of netem
        self.agent = None

    def __enter__(self):
        try:
            self.make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def make(self):
        a, b = self.names
        for name in self.names:
            run(["ip", "netns", "add", name])
        run(["ip", "-n", a, "link", "add", "kumiko0", "type", "veth", "peer", "name", "kumiko0", "netns", b])
        for number, name in enumerate(self.names, 1):
            run(["ip", "-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "kumiko0"])
            run(["ip", "netns", "exec", name, "sysctl", "-qw", *TCP])
            for device in ("lo", "kumiko0"):
                run(["ip", "-n", name, "link", "set", device, "up"])
            self.slow_down(name)
        # mpirun starts the second rank through this instead of ssh.
        handle, self.agent = tempfile.mkstemp()
        os.write(handle, f'#!/bin/sh\nshift\nexec ip netns exec {b} sh -c "$*"\n'.encode())
        os.close(handle)
        os.chmod(self.agent, 0o700)
        net = "10.77.0.0/24"
        options = ["--host", "10.77.0.1:1,10.77.0.2:1", "--mca", "plm_rsh_agent", self.agent, "--mca", "btl", "tcp,self",
                   "--mca", "btl_tcp_if_include", net, "--mca", "oob_tcp_if_include", net]
        self.place = {"before": ["ip", "netns", "exec", a], "options": options}

    def slow_down(self, name):
        add = ["tc", "-n", name, "qdisc", "add", "dev", "kumiko0", "root"]
        rate = ["rate", f"{self.rate}bit"] if self.rate else []
        try:
            run([*add, "netem", "delay", f"{DELAY_US}us", "limit", "100000", *rate])
            self.delay = DELAY_US
        except RuntimeError:  # a kernel without netem
            if rate:
                run([*add, "tbf", *rate, "burst", "256kb", "latency", "200ms"])

    def __exit__(self, *_):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)
        if self.agent:
            os.unlink(self.agent)


def efficiency(*arguments):
    seconds = call(*arguments)
    return {"efficiency": seconds["alone"] / seconds["together"], **seconds}


def step(**place):
    """How much longer a decode step over two ranks takes than that of one process, less two latencies of the link."""
    seconds = call("decode", "1024", "9", **place)
    return {"microseconds": max(seconds["together"] - seconds["alone"] - 2 * seconds["latency"], 0) * 1e6, **seconds}


def step_over_link():
    with Link(None) as link:
        return {**step(**link.place), "delay_us": link.delay}


def slow_link(share):
    """A link on which sending K and V takes `share` of the time of computing, if the link keeps its rate. Sending is also measured, in `sending`."""
    with Link(None) as link:
        free = call(*PREFILL, **link.place)
    rate = round(PREFILL_BYTES * 8 * FRAME / (share * free["together"]))
    with Link(rate) as link:
        slow = call(*PREFILL, **link.place)
    return {"over_longer": slow["together"] / max(free["together"], slow["sending"]), "rate": rate, "free": free["together"],
            "delay_us": link.delay, **slow}


BENCHMARKS = {
    "ranks_causal_d128_h8x8_8192": lambda: efficiency(*PREFILL),
    "ranks_decode_d128_h32x8_32768": lambda: efficiency("decode", "32768", "7"),
    "ranks_step": step,
    "ranks_link_step": step_over_link,
    **{f"ranks_link_{round(100 * share):03}": lambda share=share: slow_link(share) for share in (0.5, 0.8, 1.0)},
}


def why_not(name):
    """None, or why this machine cannot run it."""
    if not shutil.which("mpirun"):
        return "no mpirun"
    if name.startswith("ranks_link") and (os.geteuid() != 0 or not all(shutil.which(tool) for tool in ("ip", "tc"))):
        return "a slow link needs root, ip and tc"
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
