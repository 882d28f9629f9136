"""librdkafka options from settings, and its errors as verdicts."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from replication_pipeline.domain.errors import ConfigurationError, FatalError
from replication_pipeline.domain.names import consumer_group
from replication_pipeline.settings import KafkaSettings, read_secret

# librdkafka writes to this logger instead of standard error; outages are told by the cycles, once.
QUIET: Final = logging.getLogger("replication_pipeline.librdkafka")
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False

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
        "bootstrap.servers": settings.bootstrap_servers,
        "security.protocol": settings.security_protocol,
        "ssl.ca.location": _text(settings.ssl_ca_location),
        "ssl.certificate.location": _text(settings.ssl_certificate_location),
        "ssl.key.location": _text(settings.ssl_key_location),
        "ssl.key.password": settings.ssl_key_password
        and settings.ssl_key_password.get_secret_value(),
        "sasl.mechanism": settings.sasl_mechanism,
        "sasl.username": settings.sasl_username,
        "sasl.password": _sasl_password(settings),
        "allow.auto.create.topics": False,
        # Back within a second after an outage, however long it was.
        "reconnect.backoff.ms": 100,
        "reconnect.backoff.max.ms": 1000,
        "socket.keepalive.enable": True,
        # A batch is a round trip: never wait for a fuller packet.
        "socket.nagle.disable": True,
        "log_level": 3,
    }
    return {name: value for name, value in options.items() if value is not None}


def admin_client(settings: KafkaSettings) -> AdminClient:
    """A client for topics and offsets."""
    try:
        return AdminClient(client_options(settings), logger=QUIET)
    except (KafkaException, ValueError, TypeError) as error:
        raise refuse_bad_options(error) from None


@dataclass(slots=True)
class Admin:
    """An admin client that is made anew after a question without an answer. One that has lost its
    brokers never finds them again, and one asks with the leader's epoch that it learned first, and is
    refused for ever after the partition has got a new leader, or the same one anew.
    """

    settings: KafkaSettings
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


def _sasl_password(settings: KafkaSettings) -> str | None:
    if settings.sasl_password is not None:
        return settings.sasl_password.get_secret_value()
    if settings.sasl_password_file is not None:
        return read_secret(settings.sasl_password_file, "kafka.sasl_password_file")
    return None


def _text(value: object | None) -> str | None:
    return None if value is None else str(value)
