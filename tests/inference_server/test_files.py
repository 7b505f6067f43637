# SPDX-License-Identifier: Apache-2.0
"""What the server keeps on disk, and what happens when its files change under it."""

import json
import os
import shutil
import struct
import threading

import pytest
from server_process import Client, ServerProcess, model_directory, sentences
from support import Background, wait_until
from test_load import run


def test_the_index_outlives_the_server(binary, tmp_path):
    path, texts = tmp_path / "index", sentences()[:60]
    with ServerProcess(binary, ["--index", str(path)]) as server:
        client = Client(server.url)
        client.index(texts[:40])
        client.index(texts[30:])
        before = client.search("a storm", top_k=60)
        server.terminate()
        assert server.wait() == 0
    with ServerProcess(binary, ["--index", str(path)]) as server:
        client = Client(server.url)
        assert client.search("a storm", top_k=60) == before
        assert client.index(texts) == {"added": 0, "size": 60}
        assert client.session.delete(client.url + "/index", timeout=60).status_code == 200
        server.kill()  # answered requests are on the disk
    with ServerProcess(binary, ["--index", str(path)]) as server:
        assert Client(server.url).search("a storm") == []
        assert any(f"0 texts indexed, kept in {path}" in line for line in server.lines)


def test_every_answered_text_survives_a_kill(binary, tmp_path):
    path, texts = tmp_path / "index", sentences()
    for start in (0, 100, 200):
        answered = []
        with ServerProcess(binary, ["--index", str(path)]) as server:

            def add(server=server, start=start, answered=answered):
                client = Client(server.url)
                try:
                    for i in range(start, start + 100):
                        client.index([texts[i]])
                        answered.append(texts[i])
                except OSError:
                    pass  # killed

            adding = threading.Thread(target=add)
            adding.start()
            wait_until(lambda: len(answered) > 5, "some texts in the index")
            server.kill()
            adding.join()
        with ServerProcess(binary, ["--index", str(path)]) as server:
            client = Client(server.url)
            for text in answered:
                assert client.search(text, top_k=1)[0]["text"] == text


def test_one_server_to_an_index_file(binary, tmp_path):
    path = tmp_path / "index"
    with ServerProcess(binary, ["--index", str(path)]):
        code, output = run(binary, "--model", str(model_directory()), "--port", "0", "--index", str(path))
        assert code == 1 and str(path) in output


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data + b"x", lambda data: data[:200] + b"~" + data[201:], lambda data: b""],
                         ids=["torn", "longer", "changed", "empty"])
def test_a_damaged_index_is_refused_by_name(binary, tmp_path, damage):
    path = tmp_path / "index"
    with ServerProcess(binary, ["--index", str(path)]) as server:
        Client(server.url).index(sentences()[:3])
        server.terminate()
        server.wait()
    path.write_bytes(damage(path.read_bytes()))
    code, output = run(binary, "--model", str(model_directory()), "--port", "0", "--index", str(path))
    assert code == 1 and str(path) in output


def test_an_index_that_cannot_be_written_says_so_and_adds_nothing(binary, tmp_path):
    path = tmp_path / "index"
    # A disk that is full after 64 KiB: the limit applies to every file that the server writes.
    script = tmp_path / "limited"
    script.write_text(f'#!/bin/sh\nulimit -f 64\nexec {binary} "$@"\n')
    script.chmod(0o755)
    with ServerProcess(script, ["--index", str(path)]) as server:
        client = Client(server.url)
        assert client.index(sentences()[:10])["size"] == 10
        answer = client.post("/index", {"texts": sentences()[10:100]})
        assert answer.status_code == 507 and str(path) in answer.json()["error"]
        assert client.index(sentences()[:11])["size"] == 11


def test_a_vector_that_is_not_finite_is_an_error_for_its_text_alone(binary, tmp_path, monkeypatch):
    """Finite weights whose sums are not: the vector of one word would be NaN, which JSON cannot say."""
    model = tmp_path / "model"
    shutil.copytree(model_directory(), model)
    weights = model / "model.safetensors"
    with weights.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        table = json.loads(file.read(size))["embeddings.word_embeddings.weight"]["data_offsets"][0]
        row = (model / "vocab.txt").read_text().split("\n").index("dog")
        file.seek(8 + size + table + row * 384 * 4)
        file.write(struct.pack("<384f", *[3e38] * 384))
    monkeypatch.setattr("server_process.model_directory", lambda: model)
    with ServerProcess(binary, ["--max-wait-us", "300000"]) as server:
        client = Client(server.url)
        before = client.embed(["a cat"])
        beside = Background([lambda: Client(server.url).embed(["a cat"])])
        answers = [client.post("/embed", {"texts": ["a cat", "a dog"]}), client.post("/index", {"texts": ["a dog"]}), client.post("/search", {"query": "a dog"})]
        assert beside.results() == [before]
        for answer, name in zip(answers, ("texts[1]", "texts[0]", "query"), strict=True):
            assert answer.status_code == 500
            assert answer.json()["error"] == f"the vector of '{name}' has a value that is not a finite number: the model's weights are too large"
        assert client.index(["a cat"]) == {"added": 1, "size": 1}


def test_a_model_file_cut_short_while_serving_changes_nothing(binary, tmp_path, monkeypatch):
    model = tmp_path / "model"
    shutil.copytree(model_directory(), model)
    monkeypatch.setattr("server_process.model_directory", lambda: model)
    text = sentences()[0]
    with ServerProcess(binary) as server:
        client = Client(server.url)
        before = client.embed([text])
        os.truncate(model / "model.safetensors", 1000)
        assert client.embed([text]) == before
        assert len(client.embed(sentences()[:40])) == 40
