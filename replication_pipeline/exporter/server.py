"""The exporter's HTTP server: ``/metrics`` and ``/healthz``, without TLS or a login."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.exporter.collector import Exporter

PORT: Final = 9748
LONGEST_REQUEST: Final = 10.0  # seconds that a client may take
LOOK: Final = 0.1  # seconds until the server notices that it is to end


class _Server(ThreadingWSGIServer):
    """Its requests end with it."""

    block_on_close = False


class _Handler(WSGIRequestHandler):
    timeout = LONGEST_REQUEST

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  as it is overridden
        """Requests are not logged."""


@contextmanager
def served(exporter: Exporter, host: str, port: int) -> Iterator[tuple[str, int]]:
    """``/metrics`` and ``/healthz`` at that address, in threads, while the block runs. Port 0 takes a
    free one. ``/healthz`` says that this process lives, whatever the database does.
    """
    registry = CollectorRegistry()
    registry.register(exporter)
    metrics_app = make_wsgi_app(registry)

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        match environ.get("PATH_INFO"):
            case "/metrics":
                told: Iterable[bytes] = metrics_app(environ, start_response)
                return told
            case "/healthz":
                status, body = "200 OK", b"ok\n"
            case _:
                status, body = "404 Not Found", b"/metrics or /healthz\n"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [body]

    class Server(_Server):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    try:
        server = make_server(host, port, app, Server, _Handler)
    except OSError as error:
        raise ConfigurationError(
            f"the exporter can't listen on {host}, port {port}: {error.strerror}",
            remedy="choose a free one with --port, and an address of this machine with --host",
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=[LOOK], name="http", daemon=True)
    thread.start()
    try:
        yield host, server.server_port
    finally:
        server.shutdown()
        server.server_close()
        exporter.close()
