"""Real receivers of alerts: an HTTP server and an SMTP server on this machine."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from replication_pipeline.embedded.process import free_port


@dataclass
class HttpReceiver:
    """Keeps each request's path, headers and JSON; answers ``status``."""

    url: str = ""
    status: int = 200
    requests: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)

    @property
    def bodies(self) -> list[Any]:
        return [body for _, _, body in self.requests]


@contextmanager
def http_receiver() -> Iterator[HttpReceiver]:
    receiver = HttpReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.requests.append((self.path, headers, json.loads(body)))
            self.send_response(receiver.status)
            if receiver.status in (301, 302, 307):
                self.send_header("Location", receiver.url + "/elsewhere")
            self.end_headers()
            self.wfile.write(b"ok")

        def do_GET(self) -> None:
            receiver.requests.append((self.path, {}, "GET"))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class MailReceiver:
    """Keeps envelopes' recipients and messages, and who logged in."""

    port: int = 0
    refuse: bool = False
    mails: list[tuple[list[str], EmailMessage]] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)


def certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for localhost that nobody has signed, and its key."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-keyout", key, "-out", cert, "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


@contextmanager
def mail_receiver(tls: tuple[Path, Path] | None = None) -> Iterator[MailReceiver]:
    """Plain, or with STARTTLS and a login that it asks for."""
    from aiosmtpd.controller import Controller
    from aiosmtpd.smtp import AuthResult, LoginPassword

    receiver = MailReceiver()

    class Handler:
        async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
            if receiver.refuse:
                return "451 later"
            mail = message_from_bytes(envelope.content, policy=policy.default)
            receiver.mails.append((envelope.rcpt_tos, mail))
            return "250 taken"

    def login(_server: Any, _session: Any, _envelope: Any, _kind: str, data: Any) -> Any:
        assert isinstance(data, LoginPassword)
        receiver.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=data.password == b"open sesame", handled=False)

    options: dict[str, Any] = {}
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*tls)
        options = {
            "tls_context": context,
            "require_starttls": True,
            "authenticator": login,
            "auth_required": True,
        }
    receiver.port = free_port()
    controller = Controller(Handler(), hostname="localhost", port=receiver.port, **options)
    controller.start()
    try:
        yield receiver
    finally:
        controller.stop()
