# SPDX-License-Identifier: Apache-2.0
"""Runs the inference server on real sentences, and checks every vector against an fp64 forward pass of the same model.

scripts/demo builds the server and runs this. Exit code 0: all checks passed.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import shlex
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from reference_model import MAX_RELATIVE_ERROR, ReferenceModel, relative_error
from server_process import DATA, Client, ServerProcess, cpu_count, model_directory, sentences

CHECKED_AT_ONCE = 16  # texts per fp64 forward pass: about 200 rows for each matrix of weights


def say(text: str) -> None:
    print(f"== {text}", flush=True)


class Progress:
    """A bar on a terminal; elsewhere a line at every quarter."""

    def __init__(self, label: str, total: int):
        self.label, self.total, self.done = label, total, 0
        self.terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.lock = threading.Lock()

    def step(self, count: int = 1) -> None:
        with self.lock:
            before = 100 * self.done // self.total
            self.done += count
            percent = 100 * self.done // self.total
            if percent == before:
                return
            filled = 30 * self.done // self.total
            bar = f"   {self.label} [{'#' * filled}{'.' * (30 - filled)}] {self.done}/{self.total}"
            if self.terminal:
                print(f"\r{bar}", end="\n" if self.done == self.total else "", flush=True)
            elif percent // 25 != before // 25:
                print(bar, flush=True)


def send_all(url: str, texts: list[str], clients: int, rounds: int) -> tuple[list[list[np.ndarray]], list[float], float]:
    """Sends every text `rounds` times, one per request, from `clients` connections. Returns the vectors of each text, the latency of
    each request in seconds, and the wall time in seconds."""
    work = [i for _ in range(rounds) for i in range(len(texts))]
    vectors: list[list[np.ndarray]] = [[] for _ in texts]
    latencies: list[float] = []
    errors: list[BaseException] = []
    lock = threading.Lock()
    progress = Progress("requests  ", len(work))

    def run() -> None:
        try:
            client = Client(url)
            while True:
                with lock:
                    if not work or errors:
                        return
                    i = work.pop()
                start = time.perf_counter()
                vector = client.embed([texts[i]])[0]
                seconds = time.perf_counter() - start
                with lock:
                    vectors[i].append(np.array(vector))
                    latencies.append(seconds)
                progress.step()
        except BaseException as error:  # a thread's exception would be lost otherwise
            with lock:
                errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return vectors, latencies, time.perf_counter() - start


class Reference:
    """fp64 vectors by one process per CPU, forked before any thread starts: they share the parent's weights."""

    model: ReferenceModel

    def __init__(self, texts: list[str]):
        Reference.model = ReferenceModel(model_directory())
        self.chunks = [texts[i : i + CHECKED_AT_ONCE] for i in range(0, len(texts), CHECKED_AT_ONCE)]
        self.pool = multiprocessing.get_context("fork").Pool(min(cpu_count(), len(self.chunks)))

    def vectors(self) -> Iterator[np.ndarray]:
        """[texts, hidden] of each chunk of texts, in order."""
        return self.pool.imap(Reference._vectors, self.chunks)

    @staticmethod
    def _vectors(texts: list[str]) -> np.ndarray:
        return Reference.model.embed_all(texts)

    def __enter__(self) -> "Reference":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.terminate()


def worst_error(vectors: list[list[np.ndarray]], texts: list[str], reference: Reference) -> tuple[float, str]:
    """Largest relative error of a served vector against the fp64 one of the same text, and that text."""
    progress = Progress("fp64 check", len(texts))
    worst = (0.0, "")
    for expected in reference.vectors():
        first = progress.done
        for i, exact in enumerate(expected, first):
            for served in vectors[i]:
                worst = max(worst, (relative_error(served, exact), texts[i]))
        progress.step(len(expected))
    if progress.done != len(texts):
        raise RuntimeError(f"{progress.done} of {len(texts)} sentences were checked")
    return worst


def show_answers(client: Client) -> int:
    """Asks every query of the data set; returns how many did not get the expected sentence first."""
    wrong = 0
    for entry in json.loads((DATA / "queries.json").read_text()):
        hits = client.search(entry["query"], top_k=3)
        right = hits[0]["text"] in entry["expected"]
        wrong += not right
        print(f"   {entry['query']}{'' if right else '   <- expected: ' + entry['expected'][0]}")
        for rank, hit in enumerate(hits, 1):
            print(f"      {rank}. {hit['score']:.3f}  {hit['text']}")
    return wrong


def metric_values(client: Client) -> dict[str, float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {s.name: s.value for family in families for s in family.samples if not s.labels}


def relative(path: pathlib.Path) -> str:
    """The path as typed in the current folder."""
    path, here = path.absolute(), pathlib.Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def count(text: str) -> int:
    """Without a request or a client nothing would be checked."""
    value = int(text)
    if not 1 <= value <= 999:
        raise argparse.ArgumentTypeError(f"{value}, expected 1 to 999")
    return value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", type=pathlib.Path, required=True, help="the built inference_server")
    parser.add_argument("--clients", type=count, default=8, help="connections that send at the same time")
    parser.add_argument("--rounds", type=count, default=4, help="how often every sentence is sent")
    options = parser.parse_args()
    texts = sentences()
    failures = []

    say("starting the server")
    with Reference(texts) as reference, ServerProcess(options.server) as server:
        for line in server.lines:
            print(f"   {line}")
        client = Client(server.url)
        say(f"embedding {len(texts)} sentences, {options.rounds} times each, from {options.clients} clients")
        vectors, latencies, seconds = send_all(server.url, texts, options.clients, options.rounds)
        values = metric_values(client)

        say("checking every vector against an fp64 forward of the same model")
        error, text = worst_error(vectors, texts, reference)
        print(f"   largest relative error: {error:.1e} ({text})")
        if not error <= MAX_RELATIVE_ERROR:
            failures.append(f"a relative error of {error:.1e} is above {MAX_RELATIVE_ERROR:.1e}")

        say("searching")
        for first in range(0, len(texts), 100):
            client.index(texts[first : first + 100])
        wrong = show_answers(client)
        if wrong:
            failures.append(f"{wrong} queries found another sentence first")

        say("stopping the server with SIGTERM")
        server.terminate()
        code = server.wait()
        print(f"   {server.lines[-1]}, exit code {code}")
        if code != 0:
            failures.append(f"the server ended with exit code {code}")

    p50, p99 = np.percentile(latencies, [50, 99]) * 1e3
    forward = values["kumiko_forward_seconds_total"]
    batches = values["kumiko_batch_texts_count"]
    say("figures")
    print(f"   requests/s       {len(latencies) / seconds:8.0f}")
    print(f"   latency p50      {p50:8.2f} ms")
    print(f"   latency p99      {p99:8.2f} ms")
    print(f"   texts per batch  {values['kumiko_texts_total'] / batches:8.1f}")
    print(f"   attention        {100 * values['kumiko_attention_seconds_total'] / forward:8.1f} % of the forward pass")
    print(f"   linear layers    {100 * values['kumiko_linear_seconds_total'] / forward:8.1f} % of the forward pass")
    if failures:
        print("demo: FAILED: " + "; ".join(failures))
        return 1
    print(
        f"demo: OK: {len(latencies)} requests at {len(latencies) / seconds:.0f}/s, every vector within {MAX_RELATIVE_ERROR:.0e} of fp64, "
        "every query answered right"
    )
    command = [relative(options.server), "--model", relative(model_directory()), "--port", "8080"]
    print(f"Next, its page: type\n   {shlex.join(command)}\nand open http://127.0.0.1:8080")
    return 0


if __name__ == "__main__":
    sys.exit(main())
