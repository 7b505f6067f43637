# SPDX-License-Identifier: Apache-2.0
"""HTTP by hand: requests that no client library sends."""

import contextlib
import http.client
import re
import socket
import time


class Raw:
    """One connection. `send` takes bytes as they are; `answer` reads one response, None if the server closed instead."""

    def __init__(self, port, timeout_s=60):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.reader = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.reader.close()
        self.socket.close()

    def send(self, data):
        """False if the server stopped reading before all of it was sent."""
        try:
            self.socket.sendall(data)
            return True
        except (BrokenPipeError, ConnectionResetError):
            return False

    def answer(self, method="POST"):
        # HTTPResponse makes a file of its socket; the next answer must find the bytes that this one's buffer has read ahead.
        reader = self.reader

        class Shared:
            def makefile(self, *_):
                return reader

        response = http.client.HTTPResponse(Shared(), method=method)
        response._close_conn = lambda: None
        try:
            response.begin()
            response.content = response.read()
        except (http.client.RemoteDisconnected, ConnectionResetError):
            return None
        return response

    def is_closed_by_server(self):
        """Waits until the server has closed; discards what it still sends."""
        with contextlib.suppress(ConnectionResetError):
            while self.reader.read(65536):
                pass
        return True


def request(path="/embed", body=b'{"texts": ["a"]}', method="POST", headers=(), host="127.0.0.1", length=True):
    """The bytes of a request that is valid except for what the arguments change. headers: (name, value) pairs."""
    lines = [f"{method} {path} HTTP/1.1".encode()]
    given = {name.lower() for name, _ in headers}
    if "host" not in given and host is not None:
        lines.append(b"Host: " + host.encode())
    if method == "POST" and "content-type" not in given:
        lines.append(b"Content-Type: application/json")
    if length and (body or method == "POST") and not given & {"content-length", "transfer-encoding"}:
        lines.append(b"Content-Length: %d" % len(body))
    lines += [name.encode("latin-1") + b": " + value.encode("latin-1") for name, value in headers if value is not None]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def peak_rss_mb(process):
    """Largest resident set of the process since it started."""
    status = open(f"/proc/{process.pid}/status").read()
    return int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[1]) / 1024


def trickle(connections, data, seconds, pause_s=0.2):
    """Sends a byte of `data` on each connection every `pause_s`, for `seconds` or until the server closes them all."""
    end = time.monotonic() + seconds
    alive, at = list(connections), 0
    while alive and time.monotonic() < end:
        alive = [raw for raw in alive if raw.send(data[at % len(data) :][:1])]
        at += 1
        time.sleep(pause_s)
