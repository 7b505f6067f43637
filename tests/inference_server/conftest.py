# SPDX-License-Identifier: Apache-2.0
"""The server under test and the reference model. Run by ctest; by hand:

.venv/bin/python -m pytest tests/inference_server --server build/examples/inference_server/inference_server
"""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "examples" / "inference_server"))

from reference_model import ReferenceModel  # noqa: E402
from server_process import Client, ServerProcess, model_directory  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--server", type=pathlib.Path, required=True, help="the built inference_server")
    # A sanitizer's own memory adds to the 256 MB that the server may use.
    parser.addoption("--max-rss-mb", type=float, default=256, help="largest resident set in the attacks")


@pytest.fixture(scope="session")
def binary(request):
    path = request.config.getoption("--server").resolve()
    assert path.is_file(), f"{path} is not built"
    return path


@pytest.fixture(scope="session")
def server(binary):
    """One server for all tests that do not affect each other."""
    with ServerProcess(binary) as running:
        yield running
        assert running.process.poll() is None, "the server died:\n" + "\n".join(running.lines)
        running.terminate()
        assert running.wait() == 0


@pytest.fixture
def client(server):
    return Client(server.url)


@pytest.fixture
def start(binary):
    """start(*options): a separate server for one test."""
    running = []

    def make(*options):
        running.append(ServerProcess(binary, list(options)))
        return running[-1]

    yield make
    for process in running:
        if process.process.poll() is None:
            process.kill()


@pytest.fixture(scope="session")
def reference():
    return ReferenceModel(model_directory())
