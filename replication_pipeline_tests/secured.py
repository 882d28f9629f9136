"""A PostgreSQL and a Kafka with certificates and logins, and somebody who gives out tokens."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg

from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres, Listener
from replication_pipeline_tests.certificates import Authority, Identity

USER, PASSWORD = "replicator", "s3cret"
_JAAS = "org.apache.kafka.common.security"
LOGINS = {
    "sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512,PLAIN,OAUTHBEARER",
    "scram-sha-256.sasl.jaas.config": f"{_JAAS}.scram.ScramLoginModule required;",
    "scram-sha-512.sasl.jaas.config": f"{_JAAS}.scram.ScramLoginModule required;",
    "plain.sasl.jaas.config": f'{_JAAS}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";',
    "oauthbearer.sasl.jaas.config": f"{_JAAS}.oauthbearer.OAuthBearerLoginModule required "
    'unsecuredLoginStringClaim_sub="broker";',
    "connection.failed.authentication.delay.ms": "1",
}


@dataclass
class Secured:
    """Listeners of Kafka: TLS, MTLS (asks for a certificate), OLD (shows an expired one), SASL."""

    postgres: EmbeddedPostgres
    kafka: EmbeddedKafka
    ours: Authority
    other: Authority
    server: Identity
    old: Identity
    client: Identity
    stranger: Identity
    token_url: str

    def broker(self, listener: str, host: str = "localhost") -> str:
        return f"{host}:{self.kafka.port_of(listener)}"


@contextmanager
def secured(directory: Path) -> Iterator[Secured]:
    ours, other = Authority(directory, "ours"), Authority(directory, "other")
    server = ours.issue("server", "localhost")
    old = ours.issue("old", "localhost", expired=True)
    client = ours.issue(USER, f"{USER}.example")
    stranger = other.issue(USER, f"{USER}.example")

    def shows(identity: Identity, **more: str) -> dict[str, str]:
        return {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(identity.both),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(ours.ca),
        } | more

    postgres = EmbeddedPostgres(
        directory / "postgres",
        settings={"fsync": "off"},
        tls=server.served(ours.ca),
        access=[
            "host all postgres 127.0.0.1/32 trust",
            f"hostssl all {USER},somebody 127.0.0.1/32 cert",
            "hostssl all all 127.0.0.1/32 scram-sha-256",
        ],
    )
    kafka = EmbeddedKafka(
        directory / "kafka",
        listeners={
            "TLS": Listener(protocol="SSL", settings=shows(server)),
            "MTLS": Listener(
                protocol="SSL", settings=shows(server) | {"ssl.client.auth": "required"}
            ),
            "OLD": Listener(protocol="SSL", settings=shows(old)),
            "SASL": Listener(protocol="SASL_SSL", settings=shows(server) | LOGINS),
        },
        scram_users={USER: PASSWORD},
    )
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        token_url = stack.enter_context(_tokens())
        starting = pool.submit(postgres.start)
        stack.enter_context(kafka)
        stack.enter_context(starting.result())
        with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
            connection.execute(f"create role {USER} superuser login")
            connection.execute("create role somebody superuser login")
            connection.execute(f"create role by_password superuser login password '{PASSWORD}'")
        yield Secured(postgres, kafka, ours, other, server, old, client, stranger, token_url)


@contextmanager
def _tokens() -> Iterator[str]:
    """An identity provider's token endpoint: unsigned tokens for whoever has the secret."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            right = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            known = self.headers["Authorization"] == f"Basic {right}"
            now = int(time.time())
            claims = {"sub": USER, "iat": now, "exp": now + 600}
            token = f"{_part({'alg': 'none'})}.{_part(claims)}."
            answer = {"access_token": token, "token_type": "bearer"} if known else {}
            body = json.dumps(answer).encode()
            self.send_response(200 if known else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/token"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
