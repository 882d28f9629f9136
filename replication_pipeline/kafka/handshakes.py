"""Why no broker lets a client in: certificates, logins, and the wrong kind of port.

librdkafka tries for ever and tells of it by its error callback only, in OpenSSL's words. Here it is
told what an operator has to mend: a refusal that time does not heal ends the window with its remedy.
It counts only when all brokers are out of reach, so that one broker with an old certificate stops
nobody, and only as the last thing that was heard; what may be an outage as well stays one.

Callbacks run within the client's ``poll``, where an exception would be lost: they only take notes.
"""

from __future__ import annotations

import contextlib
import math
import re
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Any, Final, Literal, assert_never

from confluent_kafka import KafkaError

from replication_pipeline.domain.errors import FatalError
from replication_pipeline.handshake import PATIENCE, speaks_tls, why_distrusted
from replication_pipeline.settings import KafkaSettings

Kind = Literal["certificate", "ours", "tls", "login", "mechanism", "plain"]
TOGETHER: Final = 10.0  # seconds between the last refusal and the loss of all brokers
_WHERE: Final = re.compile(r"^\w+://(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:/]+)):(?P<port>\d+)/[^:]*: ")
_KINDS: Final[tuple[tuple[re.Pattern[str], Kind], ...]] = (
    (
        re.compile("certificate verify failed|Failed to verify broker|not provide a certif"),
        "certificate",
    ),
    # Alerts 42 to 49 and 116 are about our certificate, 40 and 70 about what both of us know of TLS.
    (re.compile(r"SSL alert number (?:4[2-9]|116)\b"), "ours"),
    (re.compile(r"SSL alert number (?:40|70|71)\b|unsupported protocol|no protocols avail"), "tls"),
    (re.compile("SASL .* mechanism handshake failed: Broker:"), "mechanism"),
    (re.compile("SASL authentication error: "), "login"),
    (re.compile("connecting to a PLAINTEXT broker listener"), "plain"),
)
# ApiVersions, version 0, correlation 7, no client id.
_PLAIN_QUESTION: Final = struct.pack(">ihhih", 10, 18, 0, 7, -1)
_PLAIN_ANSWER: Final = struct.pack(">i", 7)  # after the size


@dataclass(frozen=True, slots=True)
class _Refusal:
    kind: Kind
    host: str
    port: int


@dataclass(slots=True)
class Handshakes:
    """Of one client, whose ``options`` it has to get, and that has to be polled."""

    settings: KafkaSettings
    contour: str
    last: str | None = field(default=None)
    """What librdkafka last said of its connections."""
    _refusal: _Refusal | None = field(default=None)
    _refused_at: float = field(default=-math.inf)
    _cut_off_at: float = field(default=-math.inf)  # from all brokers
    _welcome: bool = field(default=False)  # was let in at least once
    _asked: bool = field(default=False)  # which language the brokers speak

    @property
    def options(self) -> dict[str, Any]:
        return {"error_cb": self.hear}

    def hear(self, error: KafkaError) -> None:
        """An error of librdkafka's."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._cut_off_at = time.monotonic()
            self.last = self.last or error.str()
            return
        self.last = error.str()
        self._refusal, self._refused_at = _read(self.last), time.monotonic()

    def succeeded(self) -> None:
        """A broker has answered: whatever was heard before is over."""
        self._refusal, self._cut_off_at, self.last = None, -math.inf, None
        self._welcome = True

    @property
    def unreachable(self) -> bool:
        """Whether no broker takes a connection at all."""
        return self._is_cut_off and self.last is not None and "Connect to" in self.last

    def check(self) -> None:
        """Raise ``FatalError`` when no broker can be reached, for a reason that time won't heal."""
        if not self._is_cut_off:
            return
        refusal = self._refusal
        if refusal is None:
            if not self._welcome and not self._asked and not self.unreachable:
                self._asked = True
                self._check_language()
        elif abs(self._cut_off_at - self._refused_at) < TOGETHER:
            self._refusal = None  # it is looked into once
            if error := self._explained(refusal):
                raise error

    @property
    def _is_cut_off(self) -> bool:
        return self._cut_off_at > -math.inf

    def _check_language(self) -> None:
        """A broker hangs up without a word on a client that does not speak TLS where it does."""
        if "ssl" in self.settings.security_protocol:
            return
        server = self.settings.bootstrap_servers.split(",")[0].strip()
        host, _, port = server.rpartition(":")
        if port.isdecimal() and speaks_tls(host.strip("[]"), int(port)):
            raise self._error(
                f"{server} speaks TLS, and we were told to speak plain text",
                "set kafka.security_protocol: ssl, or sasl_ssl with kafka.sasl_mechanism",
            )

    def _explained(self, refusal: _Refusal) -> FatalError | None:
        where = f"{refusal.host}:{refusal.port}"
        match refusal.kind:
            case "certificate":
                words, remedy = self._distrusted(refusal)
            case "ours":
                has = (
                    "does not accept ours"
                    if self.settings.ssl_certificate_location
                    else "we have none"
                )
                words = f"asks for a client certificate, and {has}"
                remedy = (
                    "set kafka.ssl_certificate_location and ssl_key_location to a valid certificate "
                    "of a CA that the brokers trust"
                )
            case "tls":
                words = "and this client have no TLS version or cipher in common"
                remedy = (
                    "let brokers speak TLS 1.2 or 1.3; look at ssl.cipher.suites in kafka.options"
                )
            case "mechanism":
                words = f"does not offer kafka.sasl_mechanism {self.settings.sasl_mechanism}"
                remedy = (
                    "use one of the listener's sasl.enabled.mechanisms, or its port without SASL"
                )
            case "login":
                words = f"refuses our login by {self.settings.sasl_mechanism}"
                remedy = (
                    "check the user, the secret's file or variable, and that the brokers know both"
                )
            case "plain":
                if not _speaks_plain(refusal.host, refusal.port):
                    return None  # a broker or a balancer on its way down hangs up as well
                words = "speaks plain text, and we were told to speak TLS"
                remedy = "name the port of the brokers' TLS listener in kafka.bootstrap_servers"
            case _:
                assert_never(refusal.kind)
        return self._error(f"{where} {words}", remedy)

    def _distrusted(self, refusal: _Refusal) -> tuple[str, str]:
        ca = self.settings.ssl_ca_location
        why = why_distrusted(refusal.host, refusal.port, ca=None if ca is None else str(ca))
        match why.cause if why else "other":
            case "host":
                remedy = (
                    "in kafka.bootstrap_servers, and in the brokers' advertised.listeners, write the "
                    "names that their certificates have"
                )
            case "expired" | "early" | "revoked":
                remedy = "give the broker a new certificate"
            case _:
                remedy = (
                    "set kafka.ssl_ca_location to the CA that has signed the brokers' certificates"
                )
        return f"is not trusted: its certificate {why.words if why else 'is not accepted'}", remedy

    def _error(self, what: str, remedy: str) -> FatalError:
        return FatalError(f"contour {self.contour}: Kafka at {what}", remedy=remedy)


def _read(text: str) -> _Refusal | None:
    where = _WHERE.match(text)
    kind = next((kind for pattern, kind in _KINDS if pattern.search(text)), None)
    if where is None or kind is None:
        return None
    return _Refusal(kind, where["v6"] or where["host"], int(where["port"]))


def _speaks_plain(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), PATIENCE) as broker:
        broker.sendall(_PLAIN_QUESTION)
        return broker.recv(8, socket.MSG_WAITALL)[4:] == _PLAIN_ANSWER
    return False
