# SPDX-License-Identifier: Apache-2.0
"""The endpoints' answers, above all to wrong requests."""

import json
import socket

import pytest

from raw_http import Raw, chunk, request
from server_process import Client, sentences

JSON = {"Content-Type": "application/json"}


def post_raw(client, path, body, headers=JSON):
    return client.session.post(client.url + path, data=body, headers=headers, timeout=60)


def assert_error(response, status, *parts):
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    message = response.json()["error"]
    for part in parts:
        assert part in message


def test_health(client):
    response = client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_page_is_one_file_without_outside_resources(client):
    response = client.get("/")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "<title>Kumiko" in response.text
    assert "http://" not in response.text and "https://" not in response.text


@pytest.mark.parametrize("path", ["/embed", "/index", "/search"])
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"texts": ["a"]', b'{"texts": [\'a\']}', b"nonsense", b'{"texts": ["\xff\xfe"]}', b'{"texts": ["\\ud800"]}',
     b'{"texts": ["a"]} trailing', b"[" * 100_000, b"\x00"],
)
def test_bad_json_is_400(client, path, body):
    assert_error(post_raw(client, path, body), 400, "the body is not JSON")


@pytest.mark.parametrize("path", ["/embed", "/index"])
@pytest.mark.parametrize(
    ("body", "part"),
    [
        ([], "must be a JSON object"),
        ("text", "must be a JSON object"),
        (None, "must be a JSON object, is null"),
        ({}, "'texts' is missing"),
        ({"text": ["a"]}, "field \"text\" is not known"),
        ({"texts": ["a"], "extra": 1}, "field \"extra\" is not known"),
        ({"texts": "a"}, "'texts' must be an array of strings"),
        ({"texts": {"0": "a"}}, "'texts' must be an array of strings"),
        ({"texts": []}, "'texts' is empty"),
        ({"texts": ["a", 1]}, "'texts[1]' must be a string, is 1"),
        ({"texts": [None]}, "'texts[0]' must be a string, is null"),
        ({"texts": [["a"]]}, "'texts[0]' must be a string"),
    ],
)
def test_wrong_types_are_422(client, path, body, part):
    assert_error(client.post(path, body) if body is not None else post_raw(client, path, b"null"), 422, part)


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({}, "'query' is missing"),
        ({"query": 1}, "'query' must be a string, is 1"),
        ({"query": ["a"]}, "'query' must be a string"),
        ({"query": "a", "topk": 3}, "field \"topk\" is not known"),
        *[({"query": "a", "top_k": k}, "'top_k' must be an integer in 1..100") for k in
          (0, -1, 101, 1.5, "3", None, True, [], 2**63, 2**64, -(2**63))],
    ],
)
def test_wrong_search_is_422(client, body, part):
    assert_error(client.post("/search", body), 422, part)


def test_over_long_text_is_413_and_the_longest_is_taken(client):
    assert len(client.embed(["word " * 254])) == 1  # 256 pieces with [CLS] and [SEP]
    for path, body, name in [
        ("/embed", {"texts": ["fine", "word " * 255]}, "'texts[1]'"),
        ("/index", {"texts": ["word " * 255]}, "'texts[0]'"),
        ("/search", {"query": "word " * 255}, "'query'"),
    ]:
        assert_error(client.post(path, body), 413, name, "has 257 word pieces", "at most 256")


def test_too_many_texts_is_413(client):
    assert_error(client.post("/embed", {"texts": ["a"] * 257}), 413, "'texts' has more than 256 texts")


def test_too_large_body_is_413_and_the_connection_lives_on(client):
    assert_error(client.post("/embed", {"texts": ["a" * (5 << 20)]}), 413, "too large")
    assert len(client.embed(["still here"])) == 1


def test_what_is_larger_than_all_memory_is_413_and_the_largest_is_taken(start):
    """A 503 asks to come again, but such a request would never fit."""
    capacity = 1 << 20
    server = start("--max-memory", str(capacity))
    client = Client(server.url)

    def assert_refused(response, *parts):
        assert_error(response, 413, *parts, str(capacity))
        assert "Retry-After" not in response.headers

    assert_refused(client.post("/embed", {"texts": ["a"] * 200}), "the answer needs 1235200 bytes", "--max-memory")
    assert len(client.embed(["a"] * 100)) == 100

    # A body that takes all memory leaves room for its answer.
    body = b'{"texts": ["a"]}'.ljust(capacity)
    assert post_raw(client, "/embed", body).status_code == 200
    assert_refused(post_raw(client, "/embed", body + b" "), "the body is too large")
    for more, status in [(b"", 200), (b" ", 413)]:
        with Raw(server.port) as raw:
            raw.send(request(headers=[("Transfer-Encoding", "chunked")], body=chunk(body + more) + chunk(b"")))
            answer = raw.answer()
            assert answer.status == status and "Retry-After" not in answer.headers, answer.content[:200]

    for first in (0, 50):
        client.index([f"{i}" + " " * 16_000 for i in range(first, first + 50)])
    assert_refused(client.post("/search", {"query": "7", "top_k": 100}), "the answer needs 16", "--max-memory")
    assert len(client.search("7", top_k=50)) == 50


@pytest.mark.parametrize("size", [10, 100_000])
def test_forms_are_415(client, size):
    body = b"x" * size
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert_error(post_raw(client, "/embed", body, form), 415, "expected application/json")
    assert_error(post_raw(client, "/embed", body, {"Content-Type": "text/plain"}), 415, "text/plain", "application/json")


@pytest.mark.parametrize("path", ["/nothing", "/embed/", "/embed/x", "/metrics.json", "/%2e%2e/etc/passwd", "//"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_unknown_path_is_404(client, method, path):
    assert_error(client.session.request(method, client.url + path, timeout=60), 404, "nothing at this path")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/", "GET"), ("/healthz", "GET"), ("/metrics", "GET"), ("/embed", "POST"), ("/search", "POST"), ("/index", "POST, DELETE")],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_wrong_method_is_405(client, path, allowed, method):
    if method in allowed:
        assert client.session.request(method, client.url + path, json={}, timeout=60).status_code != 405
        return
    response = client.session.request(method, client.url + path, json={}, timeout=60)
    assert_error(response, 405, f"{method} is not allowed at {path}")
    assert response.headers["Allow"] == allowed


@pytest.mark.parametrize(
    "request_bytes",
    [b"garbage\r\n\r\n", b"GET\r\n\r\n", b"BREW /embed HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n",
     b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n"],
)
def test_what_is_not_http_gets_4xx_and_harms_nobody(server, client, request_bytes):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
        raw.sendall(request_bytes)
        answer = raw.recv(4096)
    assert answer.startswith(b"HTTP/1.1 4"), answer[:200]
    assert client.get("/healthz").status_code == 200


def test_client_that_goes_away_harms_nobody(server, client):
    body = json.dumps({"texts": sentences()[:50]}).encode()
    for sent in (0, 1, len(body) // 2, len(body)):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
            raw.sendall(b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:sent])
    assert len(client.embed(["still here"])) == 1


def test_listens_on_loopback_only(server):
    listening = [line.split() for line in open("/proc/net/tcp") if line.split()[3] == "0A"]
    addresses = {fields[1].split(":")[0] for fields in listening if int(fields[1].split(":")[1], 16) == server.port}
    assert addresses == {"0100007F"}
    assert not [line for line in open("/proc/net/tcp6") if f":{server.port:04X} " in line and line.split()[3] == "0A"]


def test_index_skips_what_it_knows_and_can_be_cleared(start):
    client = Client(start("--max-index", "4").url)
    assert client.search("anything") == []
    assert client.index(["one", "two", "one"]) == {"added": 2, "size": 2}
    assert client.index(["two", "three"]) == {"added": 1, "size": 3}
    assert {hit["text"] for hit in client.search("one")} == {"one", "two", "three"}
    [best] = client.search("two", top_k=1)
    assert (best["id"], best["text"]) == (1, "two")
    assert best["score"] == pytest.approx(1, abs=1e-5)
    assert_error(client.post("/index", {"texts": ["four", "five"]}), 507, "room for 4")
    assert client.index(["four"]) == {"added": 1, "size": 4}
    cleared = client.session.delete(client.url + "/index", timeout=60)
    assert (cleared.status_code, cleared.json()) == (200, {"added": 0, "size": 0})
    assert client.search("one") == []


def test_pages_and_names_that_were_allowed_may_ask(start):
    client = Client(start("--allow-origin", "https://notes.example", "--allow-host", "Search.Example").url)
    page = {"Origin": "https://notes.example", "Host": "search.example:8080"}
    asked = client.session.options(client.url + "/embed", headers={**page, "Access-Control-Request-Method": "POST"}, timeout=60)
    assert asked.status_code == 204 and asked.content == b""
    assert asked.headers["Access-Control-Allow-Origin"] == "https://notes.example"
    assert "POST" in asked.headers["Access-Control-Allow-Methods"]
    assert "Content-Type" in asked.headers["Access-Control-Allow-Headers"]
    answer = post_raw(client, "/embed", b'{"texts": ["a"]}', {**JSON, **page})
    assert answer.status_code == 200
    assert (answer.headers["Access-Control-Allow-Origin"], answer.headers["Vary"]) == ("https://notes.example", "Origin")
    other = post_raw(client, "/embed", b'{"texts": ["a"]}', {**JSON, **page, "Origin": "http://notes.example"})
    assert_error(other, 403, "http://notes.example", "--allow-origin")
    assert "Access-Control-Allow-Origin" not in other.headers
    assert_error(client.session.get(client.url + "/", headers={"Host": "other.example"}, timeout=60), 421, "other.example", "--allow-host")


def test_answers_of_the_page_carry_its_policy(client):
    page = client.get("/")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    for response in (page, client.get("/metrics"), client.get("/nothing")):
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_head_is_get_without_a_body(client):
    for path in ("/", "/healthz", "/metrics"):
        answer = client.session.head(client.url + path, timeout=60)
        assert answer.status_code == 200 and answer.content == b"" and int(answer.headers["Content-Length"]) > 0
    assert client.session.head(client.url + "/embed", timeout=60).status_code == 405
