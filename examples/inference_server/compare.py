# SPDX-License-Identifier: Apache-2.0
"""CPU time per text of the inference server and of ONNX Runtime, with the same model and texts in turns, one thread each.

    scripts/setup peers
    .venv/bin/python examples/inference_server/compare.py --server build/examples/inference_server/inference_server

The server's time includes everything its process does: HTTP, JSON, tokenizing, the encoder. ONNX Runtime's includes the tokenizers package
and the encoder, called from Python in this process. Exit status 1 if their vectors differ.
"""

import argparse
import os
import pathlib
import site
import statistics
import sys
import time

import numpy as np

from server_process import Client, ServerProcess, model_directory, sentences

os.environ["TOKENIZERS_PARALLELISM"] = "false"
import tokenizers  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
try:
    import onnxruntime
except ModuleNotFoundError:
    for folder in (ROOT / ".venv-peers").glob("lib/python3*/site-packages"):
        site.addsitedir(str(folder))
    try:
        import onnxruntime
    except ModuleNotFoundError:
        sys.exit("compare.py: no onnxruntime: run scripts/setup peers")
import onnx_graph  # noqa: E402
from reference_model import MAX_RELATIVE_ERROR, relative_error  # noqa: E402

MAX_DIFFERENCE = 2 * MAX_RELATIVE_ERROR  # of two vectors, both so near the exact one


class OnnxRuntime:
    """The encoder in ONNX Runtime, on one thread."""

    def __init__(self, directory: pathlib.Path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = onnxruntime.InferenceSession(onnx_graph.build(directory), options, providers=["CPUExecutionProvider"])
        self.tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.tokenizer.no_padding()

    def run(self, ids: list[list[int]]) -> np.ndarray:
        lengths = np.array([len(text) for text in ids])
        columns = np.arange(lengths.max())
        mask = (columns < lengths[:, None]).astype(np.int32)
        padded = np.zeros(mask.shape, np.int32)
        padded[mask == 1] = np.concatenate(ids)
        return self.session.run(None, {"input_ids": padded, "mask": mask})[0]

    def embed(self, texts: list[str], group) -> np.ndarray:
        """Texts with the same group(tokens) go into one call, padded to the longest of them."""
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts)]
        groups: dict[int, list[int]] = {}
        for i, text in enumerate(ids):
            groups.setdefault(group(len(text)), []).append(i)
        vectors = np.empty((len(texts), 384), np.float32)
        for members in groups.values():
            vectors[members] = self.run([ids[i] for i in members])
        return vectors


# Groupings of 32 texts for ONNX Runtime; the fastest counts. It computes padding like tokens.
GROUPS = {
    "padded to the longest": lambda tokens: 0,
    "like lengths together": lambda tokens: (tokens + 3) // 4,
    "equal lengths together": lambda tokens: tokens,
}


def process_cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process, user and kernel."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def over(texts: list[str], size: int, embed) -> np.ndarray:
    return np.concatenate([np.asarray(embed(texts[i:i + size]), np.float32) for i in range(0, len(texts), size)])


def measure(ways: dict, texts: list[str], size: int, repeats: int) -> tuple[dict, dict]:
    """({way: CPU milliseconds per text of every repeat}, {way: vectors}); the first turn of each is not counted."""
    times: dict = {way: [] for way in ways}
    vectors = {}
    for turn in range(repeats + 1):
        for way, (embed, clock) in ways.items():
            before = clock()
            vectors[way] = over(texts, size, embed)
            if turn:
                times[way].append((clock() - before) * 1e3 / len(texts))
    return times, vectors


def compare(ways: dict, texts: list[str], size: int, repeats: int) -> bool:
    times, vectors = measure(ways, texts, size, repeats)
    ours = next(iter(ways))
    medians = {way: statistics.median(values) for way, values in times.items()}
    print(f"\n{len(texts)} texts, {size} a request, {repeats} turns: CPU milliseconds per text")
    for way, values in times.items():
        print(f"  {way:42} median {medians[way]:6.2f}   {min(values):6.2f} .. {max(values):6.2f}")
    peer = min((way for way in ways if way != ours), key=medians.get)
    ratios = [theirs / mine for mine, theirs in zip(times[ours], times[peer], strict=True)]
    print(f"  {peer} takes {statistics.median(ratios):.2f} times the server's CPU time ({min(ratios):.2f} .. {max(ratios):.2f})")
    error = max(relative_error(mine, theirs) for way in ways for mine, theirs in zip(vectors[ours], vectors[way], strict=True))
    print(f"  largest difference of a text's vectors, relative to their length, {error:.1e}")
    return error <= MAX_DIFFERENCE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", type=pathlib.Path, required=True, help="the built inference_server")
    parser.add_argument("--repeats", type=int, default=9, help="turns of each, odd is best")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats is {arguments.repeats}, expected 1 or more")
    texts = sentences()
    peer = OnnxRuntime(model_directory())
    name = f"ONNX Runtime {onnxruntime.__version__}"
    with ServerProcess(arguments.server) as server:
        print("\n".join(line for line in server.lines if line.startswith("inference_server:")))
        client = Client(server.url)
        clock = lambda: process_cpu_seconds(server.process.pid)  # noqa: E731
        served = {"inference_server": (client.embed, clock)}
        same = True
        for size in (1, 32):
            ways = dict(served)
            for how, group in GROUPS.items() if size > 1 else [("", GROUPS["padded to the longest"])]:
                ways[f"{name}{', ' if how else ''}{how}"] = (lambda part, group=group: peer.embed(part, group), time.process_time)
            same &= compare(ways, texts, size, arguments.repeats)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
