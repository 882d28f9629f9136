"""Which options of libpq and librdkafka people may set, why not the others, and what is too weak.

Options that this product's promises rest on are its own: order and at-least-once (acknowledgements,
idempotence), positions (groups, offsets, isolation), and the session that applying relies on. Others
load code, run commands, or write keys and traffic to files. What is in neither list is refused as
well: an option that nobody has thought about is no option.

Names and texts in, texts out; it knows no client and opens nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

LIBRDKAFKA: Final = frozenset(
    {
        # TLS
        *("ssl.ca.pem", "ssl.certificate.pem", "ssl.crl.location", "ssl.cipher.suites"),
        *("ssl.curves.list", "ssl.sigalgs.list", "https.ca.location", "https.ca.pem"),
        *("enable.ssl.certificate.verification", "ssl.endpoint.identification.algorithm"),
        # OAUTHBEARER
        *("sasl.oauthbearer.method", "sasl.oauthbearer.scope", "sasl.oauthbearer.extensions"),
        *("sasl.oauthbearer.grant.type", "sasl.oauthbearer.config"),
        *("sasl.oauthbearer.assertion.algorithm", "sasl.oauthbearer.assertion.private.key.file"),
        *("sasl.oauthbearer.assertion.file", "sasl.oauthbearer.assertion.claim.aud"),
        *("sasl.oauthbearer.assertion.claim.exp.seconds", "sasl.oauthbearer.assertion.claim.iss"),
        *("sasl.oauthbearer.assertion.claim.jti.include", "sasl.oauthbearer.assertion.claim.sub"),
        *("sasl.oauthbearer.assertion.claim.nbf.seconds",),
        *("sasl.oauthbearer.assertion.jwt.template.file",),
        *("sasl.oauthbearer.metadata.authentication.type",),
        *("enable.sasl.oauthbearer.unsecure.jwt",),
        # Network and memory
        *("client.rack", "client.dns.lookup", "broker.address.family", "broker.address.ttl"),
        *("connections.max.idle.ms", "socket.connection.setup.timeout.ms", "socket.timeout.ms"),
        *("socket.send.buffer.bytes", "socket.receive.buffer.bytes", "enable.metrics.push"),
        *("request.timeout.ms", "retry.backoff.ms", "retry.backoff.max.ms"),
        *("batch.num.messages", "batch.size", "queue.buffering.max.kbytes"),
        *("fetch.max.bytes", "fetch.queue.backoff.ms", "queued.min.messages"),
        *("receive.message.max.bytes",),
    }
)

_ORDER: Final = "no event may be lost, doubled or overtaken on its way to Kafka"
_POSITIONS: Final = "positions are kept in the contour's database, and nothing may be skipped"
_CODE: Final = "it loads code into this process, or runs a command"
_LOGS: Final = "it writes traffic to the log"
_OURS: Final = "the pipeline sets it itself"

LIBRDKAFKA_REFUSED: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            *("enable.idempotence", "acks", "request.required.acks", "retries"),
            *("message.send.max.retries", "max.in.flight", "enable.gapless.guarantee"),
            *("max.in.flight.requests.per.connection", "transactional.id", "partitioner"),
            *("transaction.timeout.ms", "queuing.strategy", "compression.codec"),
        ),
        _ORDER,
    ),
    **dict.fromkeys(
        (
            *("enable.auto.commit", "auto.commit.interval.ms", "enable.auto.offset.store"),
            *("auto.offset.reset", "isolation.level", "group.id", "group.instance.id"),
            *("group.protocol", "group.protocol.type", "group.remote.assignor"),
            *("partition.assignment.strategy", "enable.partition.eof", "check.crcs"),
            *("topic.blacklist", "offset.store.method"),
        ),
        _POSITIONS,
    ),
    **dict.fromkeys(
        (
            *("plugin.library.paths", "ssl.engine.location", "ssl.engine.id", "ssl.providers"),
            *("sasl.kerberos.kinit.cmd", "interceptors"),
        ),
        _CODE,
    ),
    **dict.fromkeys(("debug", "log_level", "log.queue", "log.thread.name"), _LOGS),
    **dict.fromkeys(
        (
            *("client.id", "allow.auto.create.topics", "statistics.interval.ms", "enabled_events"),
            *("reconnect.backoff.ms", "reconnect.backoff.max.ms", "api.version.request"),
            *("metadata.recovery.strategy", "topic.metadata.refresh.interval.ms"),
            *("max.poll.interval.ms", "heartbeat.interval.ms", "fetch.wait.max.ms"),
        ),
        _OURS,
    ),
    **{
        option: f"set kafka.{key}"
        for option, key in {
            "bootstrap.servers": "bootstrap_servers",
            "metadata.broker.list": "bootstrap_servers",
            "security.protocol": "security_protocol",
            "ssl.ca.location": "ssl_ca_location",
            "ssl.certificate.location": "ssl_certificate_location",
            "ssl.key.location": "ssl_key_location",
            "ssl.key.pem": "ssl_key_location",
            "ssl.key.password": "ssl_key_password_file",
            "ssl.keystore.location": "ssl_certificate_location and ssl_key_location (PEM)",
            "ssl.keystore.password": "ssl_key_password_file",
            "sasl.mechanism": "sasl_mechanism",
            "sasl.mechanisms": "sasl_mechanism",
            "sasl.username": "sasl_username",
            "sasl.password": "sasl_password_file",
            "sasl.oauthbearer.client.id": "oauth_client_id",
            "sasl.oauthbearer.client.secret": "oauth_client_secret_file",
            "sasl.oauthbearer.token.endpoint.url": "oauth_token_url",
            "compression.type": "compression",
            "linger.ms": "linger",
            "queue.buffering.max.ms": "linger",
            "message.timeout.ms": "delivery_timeout",
            "delivery.timeout.ms": "delivery_timeout",
            "message.max.bytes": "max_message_bytes",
        }.items()
    },
    "session.timeout.ms": "set consumer.session_timeout",
}

LIBPQ: Final = frozenset(
    {
        *("host", "hostaddr", "port", "dbname", "user", "password", "passfile"),
        *("sslmode", "sslnegotiation", "sslrootcert", "sslcert", "sslkey", "sslpassword"),
        *("sslcertmode", "sslcrl", "sslcrldir", "sslsni", "requirepeer", "require_auth"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version", "channel_binding"),
        *("min_protocol_version", "max_protocol_version"),
        *("gssencmode", "gsslib", "krbsrvname", "gssdelegation"),
        *("connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval"),
        *("keepalives_count", "tcp_user_timeout", "load_balance_hosts", "target_session_attrs"),
        # Without effect: the pipeline's own win.
        *("application_name", "fallback_application_name", "client_encoding"),
    }
)
LIBPQ_REFUSED: Final[Mapping[str, str]] = {
    "service": "another file would decide which server is meant, and how it is checked",
    "servicefile": "another file would decide which server is meant, and how it is checked",
    "replication": "it makes a replication connection, which can't run statements",
    "sslkeylogfile": "it writes the keys of encrypted connections to a file",
    "sslcompression": "compressed TLS gives away what is in it",
    "authtype": "libpq does nothing with it",
}
# Of libpq's ``options``: settings of extensions, and these.
SESSION: Final = frozenset(
    {
        *("work_mem", "maintenance_work_mem", "temp_buffers", "jit", "session_preload_libraries"),
        *("log_statement", "log_min_duration_statement", "log_duration", "log_lock_waits"),
        *("max_parallel_workers_per_gather", "max_parallel_maintenance_workers"),
    }
)
_SESSION_OPTION: Final = re.compile(r"\s*(?:-c\s*|--)([\w.-]+)=(?:\\.|[^\s\\])*(?=\s|$)", re.ASCII)
WRITABLE: Final = ("any", "read-write", "primary")
_PASSWORD: Final = re.compile(r"(?:^|[\s?&])(?:ssl)?password\s*=")


@dataclass(frozen=True, slots=True)
class Weakness:
    """A setting that profile production does not take."""

    key: str
    why: str
    remedy: str


def why_not_librdkafka(name: str) -> str | None:
    """Why ``kafka.options`` may not have this option; ``None`` when it may."""
    if name in LIBRDKAFKA:
        return None
    if name.endswith("_cb"):
        return _CODE
    return LIBRDKAFKA_REFUSED.get(name, "it is not one of those in docs/security.md")


def why_not_libpq(name: str, value: str) -> str | None:
    """Why a connection string may not have this option; ``None`` when it may."""
    if name == "target_session_attrs" and value not in WRITABLE:
        return f"the pipeline writes; one of {', '.join(WRITABLE)}"
    if name == "options":
        return _why_not_session(value)
    if name in LIBPQ:
        return None
    return LIBPQ_REFUSED.get(name, "it is not one of those in docs/security.md")


def why_weak_kafka(
    protocol: str, mechanism: str | None, token_url: str | None, options: Mapping[str, str]
) -> Iterator[Weakness]:
    """Where others could read along, or play the broker."""
    if protocol not in ("ssl", "sasl_ssl"):
        password = " with the password" if mechanism == "PLAIN" else ""
        yield Weakness(
            "kafka.security_protocol",
            f"{protocol} sends rows{password} in the clear",
            f"set {'sasl_ssl' if mechanism else 'ssl or sasl_ssl'}",
        )
    if options.get("enable.ssl.certificate.verification", "true") not in ("true", "t", "1"):
        yield Weakness(
            "kafka.options.enable.ssl.certificate.verification",
            "anybody could play the broker",
            "take it out, and set kafka.ssl_ca_location",
        )
    if options.get("ssl.endpoint.identification.algorithm", "https") != "https":
        yield Weakness(
            "kafka.options.ssl.endpoint.identification.algorithm",
            "whoever has any certificate of this CA could play the broker",
            "take it out, and give brokers certificates with their names",
        )
    if options.get("enable.sasl.oauthbearer.unsecure.jwt", "false") not in ("false", "f", "0"):
        yield Weakness(
            "kafka.options.enable.sasl.oauthbearer.unsecure.jwt",
            "anybody could make such a token",
            "take it out, and set kafka.oauth_token_url",
        )
    if token_url is not None and not token_url.lower().startswith("https://"):
        yield Weakness(
            "kafka.oauth_token_url", "the client's secret travels in the clear", "use https://"
        )


def why_weak_postgres(options: Mapping[str, str]) -> Weakness | None:
    """What is too weak about a connection. A Unix socket leaves no machine."""
    hosts = options.get("host", "").split(",")
    if all(host.startswith(("/", "@")) for host in hosts) and "hostaddr" not in options:
        return None
    mode = options.get("sslmode", "prefer")
    if mode == "verify-full":
        return None
    why = {
        "verify-ca": "whoever has any certificate of this CA could play the server",
        "require": "anybody could play the server",
    }.get(mode, "rows and the password's proof may travel in the clear")
    return Weakness("sslmode", f"{mode}: {why}", "set sslmode: verify-full, and sslrootcert")


def has_password(dsn: str) -> bool:
    """Whether a connection string has a password written into it."""
    if _PASSWORD.search(dsn):
        return True
    try:
        return "://" in dsn and urlsplit(dsn).password is not None
    except ValueError:  # no URI that Python understands, and libpq may
        return "@" in dsn


def _why_not_session(options: str) -> str | None:
    """``-c name=value …``, as a server takes it when a session begins."""
    at = 0
    while options[at:].strip():
        found = _SESSION_OPTION.match(options, at)
        name = found[1].lower().replace("-", "_") if found else ""
        extension = "." in name and not name.startswith("replication.")
        if found is None or not (extension or name in SESSION):
            what = f"{name} changes" if name else "it may change"
            return (
                f"{what} the session that capture and applying rely on; "
                "use ALTER ROLE … SET for what must be"
            )
        at = found.end()
    return None
