"""librdkafka options from settings, and its errors as verdicts."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from replication_pipeline.domain.errors import ConfigurationError, FatalError, TransientError
from replication_pipeline.domain.names import Topic, consumer_group, heartbeat_topic
from replication_pipeline.kafka.handshakes import Handshakes
from replication_pipeline.settings import KafkaSettings, Settings, secret_in

Headers = list[tuple[str, str | bytes | None]]

# librdkafka writes to this logger instead of standard error; outages are told by the cycles, once.
QUIET: Final = logging.getLogger("replication_pipeline.librdkafka")
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False

PATIENCE: Final = 5.0  # seconds until some broker must have let a client in

# A broker refuses a packet of events as a whole, so these say little about each of them.
REFUSALS_OF_PACKETS: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
    }
)

# Refusals that lie in the event or its topic: other events get through. Anything else is an outage,
# which never counts against an event: the batch is rolled back and comes again.
REFUSALS: Final = REFUSALS_OF_PACKETS | frozenset(
    {
        KafkaError.POLICY_VIOLATION,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """What every client needs. Holds secrets: never log it."""
    options: dict[str, Any] = {
        **settings.options,
        "bootstrap.servers": settings.bootstrap_servers,
        "security.protocol": settings.security_protocol,
        "ssl.ca.location": _text(settings.ssl_ca_location),
        "ssl.certificate.location": _text(settings.ssl_certificate_location),
        "ssl.key.location": _text(settings.ssl_key_location),
        "ssl.key.password": secret_in(
            settings.ssl_key_password, settings.ssl_key_password_file, "kafka.ssl_key_password_file"
        ),
        "sasl.mechanism": settings.sasl_mechanism,
        "sasl.username": settings.sasl_username,
        "sasl.password": secret_in(
            settings.sasl_password, settings.sasl_password_file, "kafka.sasl_password_file"
        ),
        "sasl.oauthbearer.client.id": settings.oauth_client_id,
        "sasl.oauthbearer.client.secret": secret_in(
            settings.oauth_client_secret,
            settings.oauth_client_secret_file,
            "kafka.oauth_client_secret_file",
        ),
        "allow.auto.create.topics": False,
        # Back within a second after an outage, however long it was.
        "reconnect.backoff.ms": 100,
        "reconnect.backoff.max.ms": 1000,
        "socket.keepalive.enable": True,
        # A batch is a round trip: never wait for a fuller packet.
        "socket.nagle.disable": True,
        "log_level": 3,
    }
    if settings.oauth_token_url is not None:
        options["sasl.oauthbearer.method"] = "oidc"
        options["sasl.oauthbearer.token.endpoint.url"] = settings.oauth_token_url
    return {name: value for name, value in options.items() if value is not None}


def admin_client(settings: Settings) -> AdminClient:
    """A client for topics and offsets. Where brokers ask who we are it is let in before it is handed
    over: what is asked of it would only get no answer in time. ``FatalError`` when that can't be.
    """
    handshakes = Handshakes(settings.kafka, settings.contour.name)
    try:
        client = AdminClient(client_options(settings.kafka) | handshakes.options, logger=QUIET)
    except (KafkaException, ValueError, TypeError) as error:
        raise refuse_bad_options(error) from None
    if settings.kafka.security_protocol != "plaintext":
        _knock(client, handshakes, heartbeat_topic(prefix=settings.kafka.topic_prefix))
    return client


def _knock(client: AdminClient, handshakes: Handshakes, topic: Topic) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and not handshakes.unreachable:
        client.poll(0.02)
        handshakes.check()
        with contextlib.suppress(KafkaException):
            client.list_topics(topic, timeout=0.2)
            return
    raise TransientError(
        f"contour {handshakes.contour}: no Kafka broker lets us in "
        f"({handshakes.last or 'no answer in time'})",
        remedy="look at the brokers, and at kafka in the configuration",
        kind="Kafka: away",
    )


@dataclass(slots=True)
class Admin:
    """An admin client that is made anew after a question without an answer. One that has lost its
    brokers never finds them again, and one asks with the leader's epoch that it learned first, and is
    refused for ever after the partition has got a new leader, or the same one anew.
    """

    settings: Settings
    _client: AdminClient | None = field(default=None)

    @contextlib.contextmanager
    def asking(self) -> Iterator[AdminClient]:
        """The client, for as long as answers are waited for."""
        try:
            if self._client is None:
                self._client = admin_client(self.settings)
            yield self._client
        except BaseException:
            self._client = None
            raise

    def close(self) -> None:
        """Disconnect; the next question connects again."""
        self._client = None


def refuse_bad_options(error: Exception) -> ConfigurationError:
    """Librdkafka's complaint about its options, without their values."""
    return ConfigurationError(
        f"kafka: the client can't be made ({type(error).__name__}): {_first_line(error)}",
        remedy="check the kafka section: paths of certificates, mechanism and protocol",
    )


def not_allowed(contour: str, topic: str | None) -> FatalError:
    """Reading a topic was refused."""
    return FatalError(
        f"contour {contour}: Kafka does not let us read {topic}",
        remedy=f"allow READ on the topics and on group {consumer_group(contour)}",
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else "no details"


def _text(value: object | None) -> str | None:
    return None if value is None else str(value)
