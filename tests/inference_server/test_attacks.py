# SPDX-License-Identifier: Apache-2.0
"""What an attacker sends: the server answers with the right status, stays within its memory, and goes on serving others.

One server takes all cases, one after the other; after each it must be healthy and below its memory limit.
"""

import json
import threading

import pytest
from raw_http import Raw, chunk, peak_rss_mb, request, trickle
from server_process import Client, ServerProcess, sentences
from support import Background, metric, wait_until

MIB = 1 << 20
GOOD = b'{"texts": ["a"]}'


@pytest.fixture(scope="module")
def victim(binary, request):
    """Deadlines of a few seconds, so that the tests need not wait for the real ones."""
    options = ["--header-timeout", "3", "--body-timeout", "4", "--idle-timeout", "20", "--write-timeout", "4"]
    with ServerProcess(binary, options) as running:
        yield running
        assert running.process.poll() is None, "the server died:\n" + "\n".join(running.lines)
        running.terminate()
        assert running.wait() == 0


@pytest.fixture(autouse=True)
def unharmed(victim, request):
    yield
    assert victim.process.poll() is None, "the server died:\n" + "\n".join(victim.lines)
    assert Client(victim.url).get("/healthz").status_code == 200
    assert len(Client(victim.url).embed(["still here"])[0]) == 384
    peak = peak_rss_mb(victim.process)
    assert peak <= request.config.getoption("--max-rss-mb"), f"{peak:.0f} MB resident"


def head(*lines, end=b"\r\n"):
    return end.join(line.encode("latin-1") if isinstance(line, str) else line for line in lines) + end + end


HOST = "Host: 127.0.0.1"
JSON_TYPE = "Content-Type: application/json"
SMUGGLED = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

# name, bytes, status: after each of these the connection is closed, so that bytes behind them are not taken for a request.
MALFORMED = {
    "tls_hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n", 400),
    "http2_preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "http09": (b"GET /\r\n\r\n", 400),
    "http3_version": (head("GET /healthz HTTP/3.0", HOST), 400),
    "version_in_lower_case": (head("GET /healthz http/1.1", HOST), 400),
    "bare_line_feeds": (head("GET /healthz HTTP/1.1", HOST, end=b"\n") + b"\r\n\r\n", 400),
    "no_method": (head(" /healthz HTTP/1.1", HOST), 400),
    "space_in_path": (head("GET /health z HTTP/1.1", HOST), 400),
    "nul_in_path": (head("GET /heal\0thz HTTP/1.1", HOST), 400),
    "absolute_path": (head("GET http://127.0.0.1/healthz HTTP/1.1", HOST), 400),
    "asterisk": (head("OPTIONS * HTTP/1.1", HOST), 400),
    "connect": (head("CONNECT evil.example:443 HTTP/1.1", HOST), 400),
    "no_host": (head("GET /healthz HTTP/1.1"), 400),
    "no_host_http10": (head("GET /healthz HTTP/1.0"), 400),
    "two_hosts": (head("GET /healthz HTTP/1.1", HOST, "Host: localhost"), 400),
    "long_path": (head("GET /" + "a" * 20_000 + " HTTP/1.1", HOST), 414),
    "long_header": (head("GET /healthz HTTP/1.1", HOST, "A: " + "a" * 20_000), 431),
    "many_headers": (head("GET /healthz HTTP/1.1", HOST, *[f"A{i}: b" for i in range(150)]), 431),
    "same_header_often": (head("GET /healthz HTTP/1.1", HOST, *["A: b"] * 150), 431),
    "nul_in_header": (head("GET /healthz HTTP/1.1", HOST, "A: b\0c"), 400),
    "nul_in_header_name": (head("GET /healthz HTTP/1.1", HOST, "A\0: b"), 400),
    "header_without_colon": (head("GET /healthz HTTP/1.1", HOST, "nonsense"), 400),
    "header_without_name": (head("GET /healthz HTTP/1.1", HOST, ": b"), 400),
    "space_before_colon": (head("POST /embed HTTP/1.1", HOST, JSON_TYPE, "Transfer-Encoding : chunked") + SMUGGLED, 400),
    "length_and_chunked": (
        head("POST /embed HTTP/1.1", HOST, JSON_TYPE, "Content-Length: 4", "Transfer-Encoding: chunked") + b"0\r\n\r\n" + SMUGGLED, 400),
    "chunked_and_length": (
        head("POST /embed HTTP/1.1", HOST, JSON_TYPE, "Transfer-Encoding: chunked", "Content-Length: 4") + b"0\r\n\r\n" + SMUGGLED, 400),
    "two_lengths": (head("POST /embed HTTP/1.1", HOST, JSON_TYPE, "Content-Length: 16", "Content-Length: 2") + GOOD + SMUGGLED, 400),
    "list_of_lengths": (head("POST /embed HTTP/1.1", HOST, JSON_TYPE, "Content-Length: 16, 2") + GOOD + SMUGGLED, 400),
    "negative_length": (head("POST /embed HTTP/1.1", HOST, JSON_TYPE, "Content-Length: -1") + GOOD, 400),
    "signed_length": (head("POST /embed HTTP/1.1", HOST, JSON_TYPE, "Content-Length: +16") + GOOD, 400),
    "hex_length": (head("POST /embed HTTP/1.1", HOST, JSON_TYPE, "Content-Length: 0x10") + GOOD, 400),
    "length_above_64_bits": (head("POST /embed HTTP/1.1", HOST, JSON_TYPE, "Content-Length: 18446744073709551632") + GOOD, 400),
    "identity_encoding": (head("POST /embed HTTP/1.1", HOST, JSON_TYPE, "Transfer-Encoding: identity") + SMUGGLED, 400),
    "gzip_chunked": (head("POST /embed HTTP/1.1", HOST, JSON_TYPE, "Transfer-Encoding: gzip, chunked") + chunk(GOOD), 400),
    "chunked_twice": (head("POST /embed HTTP/1.1", HOST, JSON_TYPE, "Transfer-Encoding: chunked, chunked") + chunk(GOOD), 400),
    "two_encodings": (
        head("POST /embed HTTP/1.1", HOST, JSON_TYPE, "Transfer-Encoding: chunked", "Transfer-Encoding: identity") + chunk(GOOD), 400),
    "not_quite_chunked": (head("POST /embed HTTP/1.1", HOST, JSON_TYPE, "Transfer-Encoding: xchunked") + chunk(GOOD), 400),
    "chunked_http10": (head("POST /embed HTTP/1.0", HOST, JSON_TYPE, "Transfer-Encoding: chunked") + chunk(GOOD), 400),
    "chunk_size_no_number": (request(headers=[("Transfer-Encoding", "chunked")], body=b"zz\r\n" + GOOD), 400),
    "chunk_size_negative": (request(headers=[("Transfer-Encoding", "chunked")], body=b"-1\r\n" + GOOD), 400),
    "chunk_size_above_64_bits": (request(headers=[("Transfer-Encoding", "chunked")], body=b"f" * 17 + b"\r\n" + GOOD), 400),
    "chunk_longer_than_said": (request(headers=[("Transfer-Encoding", "chunked")], body=b"2\r\n" + GOOD + b"\r\n0\r\n\r\n"), 400),
    "chunk_extension": (request(headers=[("Transfer-Encoding", "chunked")], body=b"1;" + b"a" * 100_000 + b"\r\n"), 400),
    "endless_trailers": (request(headers=[("Transfer-Encoding", "chunked")], body=chunk(GOOD) + b"0\r\n" + b"A: b\r\n" * 50_000), (400, 431)),
    "length_too_large": (request(headers=[("Content-Length", str(5 * MIB))], body=b""), 413),
    "length_of_a_petabyte": (request(headers=[("Content-Length", str(1 << 50))], body=b"x" * 1000), 413),
    "chunks_too_large": (request(headers=[("Transfer-Encoding", "chunked")], body=chunk(b" " * MIB) * 5 + b"0\r\n\r\n"), 413),
    "chunk_of_a_petabyte": (request(headers=[("Transfer-Encoding", "chunked")], body=b"4000000000000\r\n" + b" " * 5 * MIB), 413),
    "foreign_host": (request(host="evil.example"), 421),
    "host_that_begins_right": (request(host="127.0.0.1.evil.example:80"), 421),
    "host_with_user": (request(host="localhost@evil.example"), 421),
    "empty_host": (request(host=""), 421),
    "foreign_origin": (request(headers=[("Origin", "https://evil.example")]), 403),
    "origin_of_a_file": (request(headers=[("Origin", "null")]), 403),
    "origin_that_begins_right": (request(headers=[("Origin", "http://127.0.0.1.evil.example")]), 403),
    "own_origin_other_scheme": (request(headers=[("Origin", "https://127.0.0.1")]), 403),
    "foreign_delete": (request("/index", method="DELETE", body=b"", headers=[("Origin", "https://evil.example")]), 403),
    "two_origins": (request(headers=[("Origin", "http://127.0.0.1"), ("Origin", "https://evil.example")]), 400),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_requests_are_refused_and_the_connection_closed(victim, name):
    data, statuses = MALFORMED[name]
    with Raw(victim.port) as raw:
        raw.send(data)
        answer = raw.answer()
        assert answer is not None, "closed without an answer"
        assert answer.status in (statuses if isinstance(statuses, tuple) else (statuses,)), answer.content
        assert answer.headers["Connection"] == "close"
        assert json.loads(answer.content)["error"]
        raw.socket.shutdown(1)
        assert raw.reader.read() == b"", "a second answer"


# Refused by head or body alone; the connection stays open.
REFUSED = {
    "no_content_type": (request(headers=[("Content-Type", None)]), 415),
    "form": (request(headers=[("Content-Type", "application/x-www-form-urlencoded")]), 415),
    "text": (request(headers=[("Content-Type", "text/plain")]), 415),
    "almost_json": (request(headers=[("Content-Type", "application/jsonp")]), 415),
    "latin1": (request(headers=[("Content-Type", "application/json; charset=latin1")]), 415),
    "gzip": (request(headers=[("Content-Encoding", "gzip")], body=b"\x1f\x8b\x08" + bytes(1000)), 415),
    "deflate": (request(headers=[("Content-Encoding", "Deflate")], body=bytes(1000)), 415),
    "deep_arrays_in_a_field": (request(body=b'{"texts": ' + b"[" * 75_000 + b"]" * 75_000 + b"}"), (400, 422)),
    "deep_arrays_in_a_text": (request(body=b'{"texts": ["a", ' + b"[" * 75_000 + b"]" * 75_000 + b"]}"), (400, 422)),
    "deep_arrays_in_no_field": (request(body=b'{"x": ' + b"[" * 75_000 + b"]" * 75_000 + b"}"), (400, 422)),
    "deep_arrays_in_top_k": (request("/search", body=b'{"query": "a", "top_k": ' + b"[" * 75_000 + b"]" * 75_000 + b"}"), (400, 422)),
    "deep_arrays_without_end": (request(body=b"[" * 4_000_000), (400, 422)),
    "deep_objects_without_end": (request(body=b'{"a":' * 800_000), (400, 422)),
    "two_million_numbers": (request(body=b'{"texts": [' + b"0," * 2_000_000 + b"0]}"), (413, 422)),
    "two_million_texts": (request(body=b'{"texts": [' + b'"",' * 1_300_000 + b'""]}'), 413),
    "objects_of_many_keys": (request(body=b'{"texts": {' + b'"a":0,' * 600_000 + b'"a":0}}'), 422),
    "a_text_of_four_megabytes": (request(body=b'{"texts": ["' + b"a " * 2_000_000 + b'"]}'), 413),
    "a_query_of_four_megabytes": (request("/search", body=b'{"query": "' + b"x" * 4_000_000 + b'"}'), 413),
    "a_key_of_four_megabytes": (request(body=b'{"' + b"k" * 4_000_000 + b'": 1}'), 422),
    "a_number_of_a_megabyte": (request(body=b'{"texts": ' + b"1" * MIB + b"}"), (400, 422)),
    "a_number_out_of_range": (request(body=b'{"texts": 1e999999}'), (400, 422)),
    "texts_twice": (request(body=b'{"texts": ["a"], "texts": ["b"]}'), 422),
    "empty_chunked_body": (request(headers=[("Transfer-Encoding", "chunked")], body=b"0\r\n\r\n"), 400),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_requests_leave_the_connection_usable(victim, name):
    data, statuses = REFUSED[name]
    with Raw(victim.port) as raw:
        raw.send(data)
        answer = raw.answer()
        assert answer is not None, "closed without an answer"
        assert answer.status in (statuses if isinstance(statuses, tuple) else (statuses,)), answer.content[:200]
        assert len(answer.content) < 1000 and json.loads(answer.content)["error"]
        raw.send(request())
        assert raw.answer().status == 200


@pytest.mark.parametrize(
    "headers",
    [[("Content-Type", "Application/JSON")], [("Content-Type", "application/json; charset=utf-8")],
     [("Content-Type", 'application/json;charset="UTF-8"')], [("Content-Encoding", "identity")], [("Expect", "something-else")],
     [("Range", "bytes=" + ",".join(["0-"] * 2500))], [("Range", "bytes=0-0")], [("Host", "LOCALHOST:8080")], [("Host", "[::1]:80")],
     [("Origin", "http://127.0.0.1")], [("Connection", "Upgrade"), ("Upgrade", "websocket")]],
    ids=lambda headers: str(headers)[:60],
)
def test_unusual_requests_that_are_right_get_their_answer(victim, headers):
    with Raw(victim.port) as raw:
        raw.send(request(headers=headers))
        answer = raw.answer()
        assert answer.status == 200, answer.content
        assert len(json.loads(answer.content)["embeddings"]) == 1


def test_ranges_of_a_page_are_not_multiplied(victim):
    with Raw(victim.port) as raw:
        raw.send(request("/", b"", "GET", headers=[("Range", "bytes=" + ",".join(["0-"] * 2500))]))
        answer = raw.answer("GET")
        assert answer.status == 200 and len(answer.content) < 100_000


def test_a_body_in_chunks_of_one_byte_is_a_body(victim):
    with Raw(victim.port) as raw:
        raw.send(request(headers=[("Transfer-Encoding", "chunked")], body=b"".join(chunk(GOOD[i : i + 1]) for i in range(len(GOOD))) + b"0\r\n\r\n"))
        assert raw.answer().status == 200


def test_expected_continue_is_sent_or_the_refusal_instead(victim):
    with Raw(victim.port) as raw:
        raw.send(request(headers=[("Expect", "100-continue"), ("Content-Length", str(len(GOOD)))], body=b""))
        assert raw.reader.readline() == b"HTTP/1.1 100 Continue\r\n" and raw.reader.readline() == b"\r\n"
        raw.send(GOOD)
        assert raw.answer().status == 200
        raw.send(request("/nothing", headers=[("Expect", "100-continue"), ("Content-Length", "1000000")], body=b""))
        assert raw.answer().status == 404


def test_http_1_0_knows_no_interim_answer(victim):
    """RFC 9110, section 10.1.1: its clients would take "100 Continue" for the answer."""
    with Raw(victim.port) as raw:
        raw.send(request(headers=[("Expect", "100-continue"), ("Content-Length", str(len(GOOD)))]).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert raw.reader.readline() == b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("body", [b"10;" + b"a" * 20_000 + b"\r\n" + GOOD + b"\r\n0\r\n\r\n", chunk(GOOD) + b"0\r\nA: " + b"a" * 20_000 + b"\r\n\r\n"],
                         ids=["extension", "trailer"])
def test_what_a_chunked_body_has_too_much_of_is_named(victim, body):
    with Raw(victim.port) as raw:
        raw.send(request(headers=[("Transfer-Encoding", "chunked")], body=body))
        assert json.loads(raw.answer().content)["error"].endswith("a chunk's size line, or the trailer after the last chunk, is longer than 16384 bytes")


def test_pipelined_requests_are_answered_in_order(victim):
    with Raw(victim.port) as raw:
        count = 300
        sender = threading.Thread(target=lambda: [raw.send(request("/healthz", b"", "GET") + request()) for _ in range(count)])
        sender.start()
        for _ in range(count):
            assert json.loads(raw.answer("GET").content) == {"status": "ok"}
            assert "embeddings" in json.loads(raw.answer().content)
        sender.join()


@pytest.mark.parametrize("start", [b"GET /healthz HTTP/1.1\r\n", request(headers=[("Transfer-Encoding", "chunked")], body=b"")], ids=["headers", "chunks"])
def test_what_has_no_end_is_cut_off(victim, start):
    with Raw(victim.port) as raw:
        part = b"A: b\r\n" * 20_000 if start.startswith(b"GET") else chunk(b" " * 120_000)
        assert raw.send(start)
        assert not all(raw.send(part) for _ in range(1000))  # 120 MB


@pytest.mark.parametrize(
    "start", [b"", b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n", request(headers=[("Content-Length", "100000")], body=b"{"),
              request(headers=[("Transfer-Encoding", "chunked")], body=b"1\r\n")],
    ids=["head", "headers", "body", "chunk"],
)
def test_a_byte_at_a_time_holds_up_nobody_and_is_ended(victim, start):
    slow = [Raw(victim.port) for _ in range(150)]
    try:
        for raw in slow:
            raw.send(start)
        trickling = threading.Thread(target=trickle, args=(slow, b"aaaaaaaaaa", 30))
        trickling.start()
        client = Client(victim.url)
        for _ in range(20):
            assert client.get("/healthz").status_code == 200
            assert metric(client, "kumiko_http_connections") > 100
            assert len(client.embed(["a sentence"])) == 1
        statuses = {answer.status if (answer := raw.answer()) else None for raw in slow}
        trickling.join()
        assert statuses <= {400, 408}
    finally:
        for raw in slow:
            raw.close()


def test_silent_connections_hold_up_nobody(victim):
    silent = [Raw(victim.port) for _ in range(400)]
    try:
        client = Client(victim.url)
        for _ in range(20):
            assert client.get("/healthz").status_code == 200
            assert len(client.embed(["a sentence"])) == 1
    finally:
        for raw in silent:
            raw.close()


def test_more_connections_than_allowed_push_out_the_idle_ones(victim):
    idle = [Raw(victim.port) for _ in range(1500)]
    try:
        client = Client(victim.url)
        assert client.get("/healthz").status_code == 200
        assert metric(client, "kumiko_http_connections") <= 1024 + 64
        wait_until(lambda: client.post("/embed", {"texts": ["a"]}).status_code == 200, "a place that was idle for a second")
        for raw in idle[:100]:
            assert raw.is_closed_by_server()
    finally:
        for raw in idle:
            raw.close()


def test_answers_nobody_reads_are_bounded(victim):
    body = json.dumps({"texts": ["a"] * 256}).encode()
    greedy = [Raw(victim.port) for _ in range(120)]
    try:
        for raw in greedy:
            raw.socket.setsockopt(1, 8, 4096)  # SO_RCVBUF
            raw.send(request(body=body) * 20)
        client = Client(victim.url)
        for _ in range(10):
            assert client.get("/healthz").status_code == 200
        # A client that does not read is cut off, and the queue is free for the others again.
        wait_until(lambda: client.post("/embed", {"texts": ["a"]}).status_code == 200, "an answer beside them", 120)
    finally:
        for raw in greedy:
            raw.close()


def test_large_bodies_at_once_are_bounded(victim):
    body = b'{"texts": ["' + b"a" * (4 * MIB - 100) + b'"]}'
    large = [Raw(victim.port) for _ in range(60)]
    try:
        for raw in large:  # all but the last byte, held until the deadline
            raw.socket.settimeout(0.2)
            data = request(body=body)[:-1]
            try:
                raw.socket.sendall(data)
            except OSError:
                pass
        client = Client(victim.url)
        assert client.get("/healthz").status_code == 200
        assert client.post("/embed", {"texts": ["a small one"]}).status_code == 200
    finally:
        for raw in large:
            raw.close()


def test_clients_that_leave_in_the_middle_cost_nothing(victim):
    body = json.dumps({"texts": sentences()[:20]}).encode()
    data = request(body=body)
    for sent in range(0, len(data) + 1, max(1, len(data) // 60)):
        with Raw(victim.port) as raw:
            raw.send(data[:sent])
    client = Client(victim.url)
    wait_until(lambda: metric(client, "kumiko_queue_texts") == 0, "an empty queue")


def test_a_client_that_has_only_closed_its_sending_side_gets_its_answer(victim):
    with Raw(victim.port) as raw:
        raw.send(request())
        raw.socket.shutdown(1)
        assert raw.answer().status == 200


def test_256_keep_alive_clients_are_all_served(victim):
    texts = sentences()

    def ask_three_times(i):
        client = Client(victim.url)
        return [client.post("/embed", {"texts": [texts[i]]}).status_code for _ in range(3)]

    codes = sum(Background([lambda i=i: ask_three_times(i) for i in range(256)]).results(), [])
    assert codes == [200] * 768
