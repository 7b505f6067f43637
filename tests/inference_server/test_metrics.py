# SPDX-License-Identifier: Apache-2.0
"""/metrics has the format of Prometheus and the right counts."""

import time

from prometheus_client.parser import text_string_to_metric_families

from raw_http import Raw, request
from server_process import Client
from support import metric


def families(client):
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {family.name: family for family in text_string_to_metric_families(response.text)}


def test_format_and_types(start):
    client = Client(start().url)
    client.embed(["one", "two"])
    found = families(client)
    types = {name: family.type for name, family in found.items()}
    assert types == {
        "kumiko_http_requests": "counter",
        "kumiko_http_request_seconds": "histogram",
        "kumiko_batch_texts": "histogram",
        "kumiko_queue_wait_seconds": "histogram",
        "kumiko_queue_texts": "gauge",
        "kumiko_queue_capacity_texts": "gauge",
        "kumiko_http_connections": "gauge",
        "kumiko_index_texts": "gauge",
        "kumiko_texts": "counter",
        "kumiko_tokens": "counter",
        "kumiko_attention_query_rows": "counter",
        "kumiko_forward_seconds": "counter",
        "kumiko_attention_seconds": "counter",
        "kumiko_linear_seconds": "counter",
        "kumiko_build_info": "gauge",
    }
    assert all(family.documentation for family in found.values())


def test_histograms_are_cumulative(start):
    client = Client(start().url)
    for count in (1, 3, 9):
        client.embed(["text"] * count)
    for family in families(client).values():
        if family.type != "histogram":
            continue
        series = {}
        for sample in family.samples:
            key = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
            series.setdefault(key, {}).setdefault(sample.name.removeprefix(family.name), []).append(sample)
        for parts in series.values():
            counts = [sample.value for sample in parts["_bucket"]]
            assert counts == sorted(counts)
            assert parts["_bucket"][-1].labels["le"] == "+Inf"
            assert counts[-1] == parts["_count"][0].value > 0
            assert parts["_sum"][0].value > 0


def test_latency_leaves_out_how_long_a_request_takes_to_arrive(start):
    server = start()
    client = Client(server.url)
    client.embed(["the first request may take longer"])
    before = metric(client, "kumiko_http_request_seconds_sum", path="/embed")
    for refused in (False, True):
        data = request("/embed" if not refused else "/healthz", headers=[("Content-Length", "16")])
        for unsent in (1, 40):  # a byte of the body; the body and some of the head
            with Raw(server.port) as raw:
                raw.send(data[:-unsent])
                time.sleep(5)
                raw.send(data[-unsent:])
                assert raw.answer().status == (405 if refused else 200)
    assert metric(client, "kumiko_http_request_seconds_sum", path="/embed") - before < 5
    assert metric(client, "kumiko_http_request_seconds_sum", path="/healthz") < 5


def test_counts_follow_the_traffic(start):
    client = Client(start("--queue", "77").url)
    client.embed(["one", "two", "three"])
    client.index(["four"])
    client.search("five")
    assert client.post("/embed", {}).status_code == 422
    assert client.get("/nowhere").status_code == 404
    assert metric(client, "kumiko_http_requests_total", path="/embed", code="200") == 1
    assert metric(client, "kumiko_http_requests_total", path="/embed", code="422") == 1
    assert metric(client, "kumiko_http_requests_total", path="other", code="404") == 1
    assert metric(client, "kumiko_http_request_seconds_count", path="/search") == 1
    assert metric(client, "kumiko_texts_total") == 5
    assert metric(client, "kumiko_tokens_total") == 5 * 3  # [CLS] word [SEP]
    assert metric(client, "kumiko_batch_texts_sum") == 5
    assert metric(client, "kumiko_queue_wait_seconds_count") == 5
    assert metric(client, "kumiko_queue_texts") == 0
    assert metric(client, "kumiko_queue_capacity_texts") == 77
    assert metric(client, "kumiko_index_texts") == 1
    forward = metric(client, "kumiko_forward_seconds_total")
    attention = metric(client, "kumiko_attention_seconds_total")
    linear = metric(client, "kumiko_linear_seconds_total")
    assert attention > 0 and linear > 0 and attention + linear <= forward
