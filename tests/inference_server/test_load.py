# SPDX-License-Identifier: Apache-2.0
"""Overload, drain, and how the process starts and ends."""

import json
import os
import signal
import socket
import subprocess
import time

import pytest
import requests

from raw_http import Raw, request
from server_process import Client, ServerProcess, model_directory, sentences
from support import HOLD, Background, metric, wait_until


def assert_refused(response, part):
    assert response.status_code == 503, response.text
    assert int(response.headers["Retry-After"]) >= 1
    assert part in response.json()["error"]


def test_full_queue_is_503_and_loses_nothing(start):
    server = start("--queue", "8", *HOLD)
    client = Client(server.url)
    waiting = Background([lambda: Client(server.url).post("/embed", {"texts": ["a", "b", "c", "d", "e"]})])
    wait_until(lambda: metric(client, "kumiko_queue_texts") == 5, "the first request in the queue")
    assert_refused(client.post("/embed", {"texts": ["a", "b", "c", "d"]}), "5 texts waiting, room for 8")
    assert_refused(client.post("/index", {"texts": ["a", "b", "c", "d"]}), "the queue is full")
    # Three still fit: the server refuses by room, not all requests. A request larger than the queue is the client's mistake.
    fits = Background([lambda: Client(server.url).post("/embed", {"texts": ["f", "g", "h"]})])
    assert client.post("/embed", {"texts": ["a"] * 9}).status_code == 413
    wait_until(lambda: metric(client, "kumiko_queue_texts") == 8, "the second request in the queue")
    assert_refused(client.post("/search", {"query": "a"}), "the queue is full")
    assert [len(r.json()["embeddings"]) for r in waiting.results() + fits.results()] == [5, 3]
    assert len(client.embed(["after the storm"])) == 1
    assert metric(client, "kumiko_http_requests_total", path="/embed", code="503") == 1


def test_more_connections_than_allowed_get_503_while_health_and_metrics_answer(start):
    server = start("--connections", "3", *HOLD)
    waiting = [Raw(server.port) for _ in range(3)]
    for raw in waiting:
        raw.send(request())
    wait_until(lambda: metric(Client(server.url), "kumiko_queue_texts") == 3, "all three requests in the queue")
    for _ in range(5):
        assert_refused(Client(server.url).post("/embed", {"texts": ["b"]}), "all 3 connections are busy")
        assert Client(server.url).get("/healthz").status_code == 200
        assert metric(Client(server.url), "kumiko_queue_texts") == 3
    for raw in waiting:
        assert raw.answer().status == 200
        raw.close()


def test_an_idle_connection_gives_way_to_a_new_one(start):
    server = start("--connections", "2")
    idle = [Client(server.url), Client(server.url)]
    began, refused = 0.0, None
    while time.monotonic() > began + 0.9:  # a slow machine: once more, until all of it has happened within a second
        began = time.monotonic()
        for client in idle:
            assert client.get("/healthz").status_code == 200
        refused = Client(server.url).post("/embed", {"texts": ["a third"]})
    assert_refused(refused, "all 2 connections are busy")
    time.sleep(1.2)  # within a second the next request might be on its way
    assert len(Client(server.url).embed(["a third"])) == 1
    assert len(idle[0].embed(["opens its connection anew"])) == 1


def test_a_small_request_does_not_wait_for_a_large_one(start):
    """One text of each request in turn: 200 earlier texts are not all embedded first."""
    server = start("--workers", "1", "--max-batch", "4", "--max-wait-us", "0")
    done = []

    def ask(name, texts):
        assert len(Client(server.url).embed(texts)) == len(texts)
        done.append(name)

    large = Background([lambda: ask("large", sentences()[:200])])
    wait_until(lambda: metric(Client(server.url), "kumiko_texts_total") > 0, "the large request begun")
    small = Background([lambda i=i: ask("small", [f"text {i}"]) for i in range(3)])
    small.results(), large.results()
    assert done == ["small"] * 3 + ["large"]


def test_storm_of_clients_is_answered_with_200_or_503_only(start):
    server = start("--queue", "16", "--workers", "2", "--max-batch", "4", "--connections", "12")
    texts = sentences()

    def storm(seed):
        client = Client(server.url)
        codes = []
        for i in range(12):
            response = client.post("/embed", {"texts": texts[(seed + i) % 300 :][: 1 + (seed + i) % 6]})
            if response.status_code == 503:
                assert int(response.headers["Retry-After"]) >= 1
            codes.append(response.status_code)
        return codes

    codes = sum(Background([lambda s=s: storm(s) for s in range(24)]).results(), [])
    assert len(codes) == 24 * 12
    assert set(codes) <= {200, 503} and 200 in codes
    client = Client(server.url)
    assert metric(client, "kumiko_queue_texts") == 0
    assert metric(client, "kumiko_http_requests_total", path="/embed", code="200") == codes.count(200)
    assert metric(client, "kumiko_http_requests_total", path="/embed", code="503") == codes.count(503)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_drain_answers_what_is_in_flight_refuses_the_rest_and_exits_0(start, stop):
    server = start(*HOLD)
    client, idle = Client(server.url), Client(server.url)
    assert idle.get("/healthz").status_code == 200  # an idle connection that stays open through the drain
    texts = sentences()
    calls = [lambda i=i: Client(server.url).post("/embed", {"texts": texts[i : i + 10]}) for i in range(0, 80, 10)]
    calls.append(lambda: Client(server.url).post("/search", {"query": "anything"}))
    in_flight = Background(calls)
    wait_until(lambda: metric(client, "kumiko_queue_texts") == 81, "all requests in the queue")
    server.process.send_signal(stop)
    wait_until(lambda: client.get("/healthz").status_code == 503, "the drain")
    assert_refused(client.post("/embed", {"texts": ["late"]}), "stopping")
    server.process.send_signal(stop)  # a second signal changes nothing
    answers = in_flight.results()
    assert [r.status_code for r in answers] == [200] * 9
    assert [len(r.json()["embeddings"]) for r in answers[:8]] == [10] * 8
    assert server.wait() == 0
    assert server.lines[-1] == "inference_server: stopped"
    with pytest.raises(requests.ConnectionError):
        Client(server.url).get("/healthz")


def test_a_drain_ends_when_the_process_was_not_run_for_a_while(start):
    """Two timers of the server have run out when it goes on: that of the drain, most often first, and that of the connections' deadlines."""
    servers = [start() for _ in range(4)]
    for server in servers:
        server.terminate()
        wait_until(lambda server=server: server.lines[-1] == "inference_server: draining", "the drain")
        server.process.send_signal(signal.SIGSTOP)
    time.sleep(0.6)  # longer than the port stays open
    for server in servers:
        server.process.send_signal(signal.SIGCONT)
    assert [server.wait() for server in servers] == [0] * 4


# Longer than a client of these tests may need to send its next request on a busy machine: 400 of them share a processor with the server.
GRACE = ("--drain-grace", "25")


def test_drain_under_steady_load_breaks_no_answer(start):
    server = start("--workers", "2", "--max-batch", "8", *GRACE)
    text = sentences()[0]

    def send_until_refused():
        client, codes = Client(server.url), []
        for _ in range(100_000):
            try:
                codes.append(client.post("/embed", {"texts": [text]}).status_code)
            except requests.ConnectionError as error:
                # The connection could not be opened; every request that was sent has an answer.
                assert "Connection refused" in str(error), error
                break
            if codes[-1] != 200:
                break
        return codes

    load = Background([send_until_refused] * 6)
    wait_until(lambda: metric(Client(server.url), "kumiko_texts_total") > 20, "load")
    server.terminate()
    for codes in load.results():
        assert set(codes[:-1]) <= {200} and codes[-1] in (200, 503)
    assert server.wait() == 0


def test_drain_under_overload_answers_every_request_that_was_sent(start):
    """400 clients that never pause, more than the queue takes: every request that was sent gets an answer."""
    server = start("--queue", "64", "--max-batch", "8", *GRACE)
    data = request(body=json.dumps({"texts": [sentences()[0]]}).encode())
    lost, ends = [], []

    def send_until_told_to_go():
        raw = Raw(server.port)
        with raw:
            while raw.send(data):
                answer = raw.answer()
                if answer is None:
                    lost.append(1)
                    return
                assert answer.status in (200, 503)
                if answer.headers["Connection"] == "close":
                    ends.append(answer.status)
                    return

    load = Background([send_until_told_to_go] * 400)
    wait_until(lambda: metric(Client(server.url), "kumiko_http_requests_total", path="/embed", code="503") > 400, "overload")
    server.terminate()
    load.results()
    assert server.wait() == 0
    assert (len(lost), len(ends)) == (0, 400)


def test_drain_lets_an_idle_client_send_within_the_grace(start):
    server = start("--drain-grace", "20")
    idle = Client(server.url)
    assert idle.get("/healthz").status_code == 200
    server.terminate()

    def is_port_closed():
        try:
            Client(server.url).get("/healthz")
        except requests.ConnectionError:
            return True
        return False

    wait_until(is_port_closed, "the port closed", timeout_s=15)
    assert_refused(idle.post("/embed", {"texts": ["late"]}), "stopping")
    assert server.wait(timeout_s=15) == 0  # nobody is left: the rest of the grace is not waited for


def test_drain_does_not_wait_for_clients_that_send_or_read_nothing(start):
    server = start("--drain-timeout", "3")
    held = [Raw(server.port) for _ in range(90)]
    for i, raw in enumerate(held):
        if i % 3:
            raw.send(request()[: 60 if i % 3 == 1 else -1])
    server.terminate()
    assert server.wait(timeout_s=60) == 0
    for raw in held:
        raw.close()


def test_texts_still_queued_at_the_end_of_a_drain_are_not_embedded(start):
    server = start("--drain-timeout", "0.5", "--workers", "1", "--max-batch-tokens", "1")  # one text a batch
    client, text = Client(server.url), "word " * 250
    client.embed([text])
    began = time.monotonic()
    client.embed([text] * 8)
    a_text = (time.monotonic() - began) / 8
    body = json.dumps({"texts": [text] * 256}).encode()
    waiting = [Raw(server.port) for _ in range(4)]
    for raw in waiting:
        raw.send(request(body=body))
    wait_until(lambda: metric(client, "kumiko_queue_texts") > 900, "four requests in the queue")
    began = time.monotonic()
    server.terminate()
    assert [raw.answer().status for raw in waiting] == [503] * 4
    assert server.wait(timeout_s=300) == 0
    assert time.monotonic() - began < 0.5 + 2 + 1024 * a_text / 4
    for raw in waiting:
        raw.close()


def test_a_drain_goes_on_when_nobody_reads_the_output(binary):
    process = subprocess.Popen([str(binary), "--model", str(model_directory()), "--port", "0"], stdout=subprocess.PIPE, text=True)
    url = next(line for line in process.stdout if line.startswith("listening on ")).split()[-1]
    process.stdout.close()
    assert len(Client(url).embed(["still here"])) == 1
    process.terminate()
    assert process.wait(timeout=60) == 0


def run(binary, *arguments, **environment):
    command = [str(binary), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})
    return done.returncode, done.stdout + done.stderr


def test_two_servers_cannot_share_a_port(binary, start):
    port = start().port
    code, output = run(binary, "--model", str(model_directory()), "--port", str(port))
    assert code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in output


def test_given_port_is_used(binary):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ServerProcess(binary, port=port) as server:
        assert server.port == port
        assert Client(server.url).get("/healthz").status_code == 200


def test_missing_model_is_named(binary, tmp_path):
    code, output = run(binary, "--model", str(tmp_path), "--port", "0")
    assert code == 1
    assert str(tmp_path) in output and "cannot be opened" in output


@pytest.mark.parametrize(
    ("name", "change", "part"),
    [
        ("config.json", lambda t: t.replace('"gelu"', '"relu"'), "'hidden_act' is \"relu\""),
        ("config.json", lambda t: t.replace("384", "385"), "'hidden_size' 385 is not a multiple of 'num_attention_heads' 12"),
        ("config.json", lambda t: t.replace('"num_hidden_layers": 6', '"num_hidden_layers": 7'),
         "tensor 'encoder.layer.6.attention.self.query.weight' is missing"),
        ("config.json", lambda t: t.replace('"intermediate_size": 1536', '"intermediate_size": 1024'),
         "shape is [1536, 384], expected [1024, 384]"),
        ("config.json", lambda t: "{", "config.json: is not JSON"),
        ("1_Pooling/config.json", lambda t: t.replace('"pooling_mode_cls_token": false', '"pooling_mode_cls_token": true'),
         "'pooling_mode_cls_token' is true"),
        ("vocab.txt", lambda t: t.replace("[SEP]\n", "[NOT]\n"), "has no [SEP]"),
        ("vocab.txt", lambda t: t + "onemorepiece\n", "vocab.txt has 30523 pieces, config.json says 30522"),
    ],
)
def test_damaged_model_is_refused_with_the_reason(binary, tmp_path, name, change, part):
    source = model_directory()
    for path in source.rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            target.symlink_to(path)
    text = (source / name).read_text()
    (tmp_path / name).unlink()
    (tmp_path / name).write_text(change(text))
    code, output = run(binary, "--model", str(tmp_path), "--port", "0")
    assert code == 1
    assert part in output


@pytest.mark.parametrize("option", [["--port", "65536"], ["--workers", "0"], ["--queue", "-1"], ["--max-batch", "many"], ["--nonsense"]])
def test_wrong_options_are_refused(binary, option):
    code, output = run(binary, "--model", str(model_directory()), *option)
    assert code != 0
    assert option[0] in output


@pytest.mark.parametrize("option, words", [
    (["--max-body", "2000001", "--max-memory", "2000000"], "--max-body: is 2000001; expected at most --max-memory, which is 2000000"),
    (["--max-body", str(1 << 30)], "--max-body: is 1073741824; expected at most --max-memory, which is 67108864"),
    (["--queue", "7", "--max-texts", "8"], "--max-texts: is 8; expected at most --queue, which is 7"),
])  # fmt: skip
def test_a_limit_beyond_the_one_for_all_requests_is_refused(binary, option, words):
    code, output = run(binary, "--model", str(model_directory()), *option)
    assert code != 0 and words in output


def test_forced_isa_that_cannot_be_had_is_an_error(binary):
    code, output = run(binary, "--model", str(model_directory()), "--port", "0", KUMIKO_ISA="pentium")
    assert code == 1
    assert "KUMIKO_ISA" in output and "pentium" in output
