"""A stretch of network on which a real Kafka seems to have just started.

A broker that has not caught up with its cluster's metadata yet answers that there are no brokers, and
that it knows none of the topics. That takes it some milliseconds, which a test can't wait for; so here
the brokers are cut out of what the broker answers, and nothing else is touched.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from contextlib import suppress
from typing import Final

from replication_pipeline_tests.proxy import Proxy

METADATA: Final = 3  # the request's number in Kafka's protocol
FLEXIBLE: Final = 9  # from this version on, arrays have their lengths as varints


class BrokerlessProxy(Proxy):
    """While ``hide`` is set no metadata names a broker. ``hidden`` counts such answers by client id."""

    def __init__(self, target: int, port: int | None = None) -> None:
        super().__init__(target, port)
        self.hide = threading.Event()
        self.hidden: Counter[str] = Counter()

    def _pass_both_ways(self, client: socket.socket, server: socket.socket) -> None:
        asked: dict[int, tuple[int, str]] = {}  # versions and clients of open metadata requests
        back = threading.Thread(target=self._answer, args=(server, client, asked), daemon=True)
        back.start()
        with suppress(OSError):
            while frame := _frame(client):
                number, version, correlation, length = struct.unpack_from(">hhih", frame)
                if number == METADATA:
                    asked[correlation] = (version, frame[10 : 10 + length].decode())
                server.sendall(struct.pack(">i", len(frame)) + frame)
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        back.join()
        with self._lock:
            self._open -= {client, server}
        client.close()
        server.close()

    def _answer(
        self, server: socket.socket, client: socket.socket, asked: dict[int, tuple[int, str]]
    ) -> None:
        with suppress(OSError):
            while frame := _frame(server):
                question = asked.pop(struct.unpack_from(">i", frame)[0], None)
                if question is not None and self.hide.is_set():
                    version, name = question
                    assert version >= FLEXIBLE, version
                    frame = _without_brokers(frame)
                    self.hidden[name] += 1
                client.sendall(struct.pack(">i", len(frame)) + frame)
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _frame(source: socket.socket) -> bytes:
    """The next message, empty at the end."""
    head = _exactly(source, 4)
    return _exactly(source, struct.unpack(">i", head)[0]) if head else b""


def _exactly(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = source.recv(count - len(data))
        if not piece:
            return b""
        data += piece
    return data


def _without_brokers(frame: bytes) -> bytes:
    """A MetadataResponse, version 9 to 13, with an empty array of brokers."""
    begin = 4 + 1 + 4  # correlation id, no tagged fields, throttle time
    count, at = _varint(frame, begin)
    for _ in range(count - 1):  # a compact array's length is told plus one
        at += 4  # node id
        at = _past_string(frame, at)
        at += 4  # port
        at = _past_string(frame, at)  # rack
        at = _past_tags(frame, at)
    return frame[:begin] + b"\x01" + frame[at:]


def _past_string(frame: bytes, at: int) -> int:
    length, at = _varint(frame, at)
    return at + max(0, length - 1)


def _past_tags(frame: bytes, at: int) -> int:
    count, at = _varint(frame, at)
    for _ in range(count):
        _, at = _varint(frame, at)
        size, at = _varint(frame, at)
        at += size
    return at


def _varint(frame: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = frame[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
