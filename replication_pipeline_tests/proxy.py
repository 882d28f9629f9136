"""A stretch of network between a client and a real server, which a test can slow, freeze and cut."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from replication_pipeline.embedded.process import free_port

HOST = "127.0.0.1"


class Proxy:
    """Passes bytes on between ``port`` and ``target``.

    ``delay``: seconds that each piece takes. ``freeze``: nothing passes and nothing is refused, as
    behind a firewall that drops packets; or only the server's answers don't. ``cut``: connections are
    reset and new ones are refused.
    """

    def __init__(self, target: int, port: int | None = None) -> None:
        self.target = target
        self.port = port or free_port()
        self.delay = 0.0
        self._passing = threading.Event()
        self._passing.set()
        self._answering = threading.Event()
        self._answering.set()
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self.mend()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cut()
        self._passing.set()
        self._answering.set()
        for thread in self._threads:
            thread.join(10)

    def freeze(self, *, answers_only: bool = False) -> None:
        (self._answering if answers_only else self._passing).clear()

    def cut(self) -> None:
        with self._lock:
            listener, self._listener = self._listener, None
            if listener is not None:
                # Without this a thread that waits in `accept` would let one more in.
                with suppress(OSError):
                    listener.shutdown(socket.SHUT_RDWR)
                listener.close()
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """All is well again: no delay, nothing frozen, nothing refused."""
        self.delay = 0.0
        self._passing.set()
        self._answering.set()
        with self._lock:
            if self._listener is None:
                self._listener = socket.create_server((HOST, self.port))
                self._run(self._accept, self._listener)

    def _run(self, work: object, *sockets: socket.socket) -> None:
        assert callable(work)
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=work, args=sockets, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection((HOST, self.target), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                if self._listener is not listener:
                    client.close()
                    server.close()
                    return
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open |= {client, server}
                self._run(self._pass_both_ways, client, server)

    def _pass_both_ways(self, client: socket.socket, server: socket.socket) -> None:
        back = threading.Thread(
            target=self._pass, args=(server, client, self._answering), daemon=True
        )
        back.start()
        self._pass(client, server, self._passing)
        back.join()
        with self._lock:
            self._open -= {client, server}
        client.close()
        server.close()

    def _pass(self, source: socket.socket, target: socket.socket, gate: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self.delay:
                    threading.Event().wait(self.delay)
                self._passing.wait()
                gate.wait()
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class PoolersKeys(Proxy):
    """Tells clients another backend's number than the server does, as a pooler has to."""

    def _pass(self, source: socket.socket, target: socket.socket, gate: threading.Event) -> None:
        if gate is self._answering:
            with suppress(OSError):
                self._greet(source, target)
        super()._pass(source, target, gate)

    def _greet(self, source: socket.socket, target: socket.socket) -> None:
        """Pass messages on up to and with BackendKeyData, whose number is changed."""
        stream = source.makefile("rb", buffering=0)
        asked = False  # for a password, or told that none is needed
        while kind := stream.read(1):
            asked |= kind == b"R"
            if not asked:
                target.sendall(kind)  # no encryption
                continue
            length = stream.read(4) or b""
            body = b""
            while len(body) < int.from_bytes(length) - 4:
                body += stream.read(int.from_bytes(length) - 4 - len(body)) or b""
            if kind == b"K":
                body = (int.from_bytes(body[:4]) ^ 1).to_bytes(4) + body[4:]
            target.sendall(kind + length + body)
            if kind == b"K":
                return
