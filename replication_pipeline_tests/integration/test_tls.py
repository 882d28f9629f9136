"""Connections that are encrypted and checked: what is right gets through, what is wrong is told.

Certificates are made here; servers are real. What time does not heal is fatal, and told in seconds.
"""

from __future__ import annotations

import itertools
import socketserver
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest
from psycopg.conninfo import conninfo_to_dict

from replication_pipeline import doctor, runtime
from replication_pipeline.domain.errors import ConfigurationError, FatalError, TransientError
from replication_pipeline.domain.model import ClaimedEvent, Message
from replication_pipeline.domain.names import Topic
from replication_pipeline.embedded import EmbeddedPostgres
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.kafka import client
from replication_pipeline.kafka.consumer import KafkaEventConsumer
from replication_pipeline.kafka.producer import KafkaEventProducer
from replication_pipeline.kafka.topics import ensure_topics
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.doctor import examine
from replication_pipeline.settings import Settings
from replication_pipeline_tests.conftest import contour_maker, make_templates
from replication_pipeline_tests.publishing import until
from replication_pipeline_tests.secured import PASSWORD, USER, Secured, secured

pytestmark = pytest.mark.integration

QUICKLY = 15.0  # seconds, on a machine that is busy; it takes less than one
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured(tmp_path_factory.mktemp("secured")) as place:
        yield place


class Change(Protocol):
    """What a test changes of settings that are right, given the place."""

    def __call__(self, place: Secured, /) -> dict[str, Any]: ...


def kafka_settings(place: Secured, **changes: Any) -> Settings:
    """TLS, and what a test changes of it."""
    return Settings(
        contour={"name": "a", "id": 1},
        postgres={"dsn": "host=unused"},
        kafka={
            "bootstrap_servers": place.broker("TLS"),
            "topic_prefix": f"t{next(_numbers)}.",
            "security_protocol": "ssl",
            "ssl_ca_location": place.ours.ca,
            "partitions": 1,
        }
        | changes,
        tables=["things"],
    )


def login(place: Secured, mechanism: str, password: str = PASSWORD) -> dict[str, Any]:
    return {
        "bootstrap_servers": place.broker("SASL"),
        "security_protocol": "sasl_ssl",
        "sasl_mechanism": mechanism,
        "sasl_username": USER,
        "sasl_password": password,
    }


def token(place: Secured, url: str = "", secret: str = PASSWORD) -> dict[str, Any]:
    return {
        "bootstrap_servers": place.broker("SASL"),
        "security_protocol": "sasl_ssl",
        "sasl_mechanism": "OAUTHBEARER",
        "oauth_token_url": url or place.token_url,
        "oauth_client_id": USER,
        "oauth_client_secret": secret,
    }


class Start:
    """Positions of an applier that has read nothing yet."""

    def offsets(self, partitions: Iterable[Any]) -> dict[Any, int]:
        return {}

    def learn_topics(self, ids: Any) -> dict[Topic, str]:
        return dict(ids)

    def parents(self) -> dict[Topic, set[Topic]]:
        return {}


EVENT = ClaimedEvent(
    id=1, shard=0, slot=0, place="", table="things", key=b'{"id":1}', created=0, fenced=False,
    size=1, value=b"{}",
)  # fmt: skip


def by_admin(settings: Settings) -> None:
    ensure_topics(settings, ["things"])


def by_producer(settings: Settings) -> None:
    producer = KafkaEventProducer(settings)
    try:
        assert not producer.send([EVENT], StopToken()).wait(StopToken()).refused
    finally:
        producer.close()


def by_consumer(settings: Settings) -> None:
    consumer, got = KafkaEventConsumer(settings, Start()), list[Message]()

    def arrived() -> bool:
        consumed = consumer.poll(10, timedelta(milliseconds=100))
        got.extend(consumed.messages if consumed else ())
        return bool(got)

    try:
        until(arrived, "an event")
    finally:
        consumer.close()
    assert [message.value for message in got] == [b"{}"]


CLIENTS: tuple[Callable[[Settings], None], ...] = (by_admin, by_producer, by_consumer)


def certified(identity: Any, key: Path | None = None) -> dict[str, Any]:
    return {
        "ssl_certificate_location": identity.certificate,
        "ssl_key_location": key or identity.key,
    }


@pytest.mark.parametrize(
    "right",
    [
        pytest.param(lambda _: {}, id="tls"),
        pytest.param(
            lambda p: {"bootstrap_servers": p.broker("MTLS")} | certified(p.client), id="mutual tls"
        ),
        pytest.param(
            lambda p: (
                {"bootstrap_servers": p.broker("MTLS"), "ssl_key_password": PASSWORD}
                | certified(p.client, p.client.locked_key)
            ),
            id="key with a password",
        ),
        pytest.param(lambda p: login(p, "SCRAM-SHA-256"), id="scram 256"),
        pytest.param(lambda p: login(p, "SCRAM-SHA-512"), id="scram 512"),
        pytest.param(lambda p: login(p, "PLAIN"), id="plain"),
        pytest.param(token, id="oidc"),
        pytest.param(
            lambda p: {"bootstrap_servers": f"{p.broker('OLD')},{p.broker('TLS')}"},
            id="one of two brokers has an expired certificate",
        ),
    ],
)
def test_all_clients_of_kafka_get_in(place: Secured, right: Change) -> None:
    settings = kafka_settings(place, **right(place))
    for client_of_kafka in CLIENTS:
        client_of_kafka(settings)


WRONG: dict[str, tuple[Change, str, str]] = {
    "authority": (
        lambda p: {"ssl_ca_location": p.other.ca},
        "is not trusted: its certificate is not signed by a CA that is trusted here",
        "set kafka.ssl_ca_location to the CA",
    ),
    "system's authorities": (
        lambda _: {"ssl_ca_location": None},
        "is not trusted: its certificate is not signed by a CA that is trusted here",
        "set kafka.ssl_ca_location to the CA",
    ),
    "host": (
        lambda p: {"bootstrap_servers": p.broker("TLS", "127.0.0.1")},
        "is not trusted: its certificate is for another host than 127.0.0.1",
        "write the names that their certificates have",
    ),
    "expired": (
        lambda p: {"bootstrap_servers": p.broker("OLD")},
        "is not trusted: its certificate has expired",
        "give the broker a new certificate",
    ),
    "plain server": (
        lambda p: {"bootstrap_servers": p.kafka.bootstrap_servers},
        "speaks plain text, and we were told to speak TLS",
        "name the port of the brokers' TLS listener",
    ),
    "plain client": (
        lambda _: {"security_protocol": "plaintext"},
        "speaks TLS, and we were told to speak plain text",
        "set kafka.security_protocol: ssl",
    ),
    "no certificate": (
        lambda p: {"bootstrap_servers": p.broker("MTLS")},
        "asks for a client certificate, and we have none",
        "set kafka.ssl_certificate_location",
    ),
    "stranger's certificate": (
        lambda p: {"bootstrap_servers": p.broker("MTLS")} | certified(p.stranger),
        "asks for a client certificate, and does not accept ours",
        "of a CA that the brokers trust",
    ),
    "password": (
        lambda p: login(p, "SCRAM-SHA-512", "wrong"),
        "refuses our login by SCRAM-SHA-512",
        "check the user",
    ),
    "mechanism": (
        lambda p: login(p, "PLAIN") | {"bootstrap_servers": p.broker("TLS")},
        "does not offer kafka.sasl_mechanism PLAIN",
        "sasl.enabled.mechanisms",
    ),
}


@pytest.mark.parametrize(
    ("wrong", "client_of_kafka"),
    [
        (wrong, client_of_kafka)
        for wrong in WRONG
        for client_of_kafka in CLIENTS
        # Where nobody is asked who they are, an admin client is not let in before it is used.
        if (wrong, client_of_kafka) != ("plain client", by_admin)
    ],
)
def test_what_is_wrong_ends_each_client_of_kafka_in_seconds(
    place: Secured, wrong: str, client_of_kafka: Callable[[Settings], None]
) -> None:
    change, what, remedy = WRONG[wrong]
    settings = kafka_settings(place, **change(place))
    began = time.monotonic()
    with pytest.raises(FatalError) as told:
        client_of_kafka(settings)
    assert time.monotonic() - began < QUICKLY
    server = settings.kafka.bootstrap_servers
    assert told.value.message == f"contour a: Kafka at {server} {what}"
    assert remedy in (told.value.remedy or "")
    assert PASSWORD not in str(told.value)


@pytest.mark.parametrize(
    "away", [{"url": "http://127.0.0.1:1/token"}, {"secret": "wrong"}], ids=["away", "secret"]
)
def test_who_gives_out_tokens_may_come_back(
    place: Secured, away: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PATIENCE", 1.5)
    settings = kafka_settings(place, **token(place, **away))
    with pytest.raises(TransientError, match=r"lets us in .*OAUTHBEARER token") as told:
        by_admin(settings)
    assert PASSWORD not in str(told.value)


def test_who_hangs_up_may_be_on_its_way_down(
    place: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a balancer without a broker behind it does: not every closed door speaks plain text."""

    class Balancer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65_536)

    monkeypatch.setattr(client, "PATIENCE", 0.5)
    with socketserver.TCPServer(("127.0.0.1", 0), Balancer) as balancer:
        thread = threading.Thread(target=balancer.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        settings = kafka_settings(
            place, bootstrap_servers=f"localhost:{balancer.server_address[1]}"
        )

        def takes_it_for_plain_text() -> bool:
            """librdkafka guesses so of some closed doors; never is it more than an outage."""
            with pytest.raises(TransientError, match="lets us in") as told:
                by_admin(settings)
            return "PLAINTEXT" in str(told.value)

        until(takes_it_for_plain_text, "librdkafka to guess")
        balancer.shutdown()
        thread.join()


def test_a_producer_tells_why_kafka_is_away(place: Secured) -> None:
    settings = kafka_settings(
        place, bootstrap_servers="localhost:1", delivery_timeout=timedelta(seconds=2)
    )
    with pytest.raises(TransientError, match=r"Kafka is away: .*localhost:1.*Connection refused"):
        by_producer(settings)


def test_windows_end_with_the_remedy_though_nothing_is_to_do(
    place: Secured, postgres: EmbeddedPostgres, templates: dict[str, str]
) -> None:
    """Without an event to send or read it is the heartbeat that finds out."""
    wrong = kafka_settings(place, bootstrap_servers=place.broker("OLD")).kafka
    with contour_maker(postgres, templates, None) as make:
        (a,) = make(
            "create table things (id bigint primary key)",
            ["things"],
            count=1,
            monitoring={"heartbeat_interval": 1},
        )
        settings = a.settings.model_copy(update={"kafka": wrong})
        for window in (runtime.publish, runtime.apply):
            began = time.monotonic()
            with pytest.raises(FatalError, match="certificate has expired"):
                window(settings, stop=StopToken(), length=timedelta(seconds=60))
            assert time.monotonic() - began < QUICKLY + 3
        (found,) = [
            f for f in doctor.examine(settings) if f.group == "kafka" and "expired" in f.message
        ]
        assert found.severity == "mend"


def postgres_settings(place: Secured, **changes: Any) -> Settings:
    """TLS with a password; and what a test changes of it."""
    return Settings(
        contour={"name": "a", "id": 1},
        postgres={
            "host": "localhost",
            "port": place.postgres.port,
            "dbname": "postgres",
            "user": "by_password",
            "password": PASSWORD,
            "sslmode": "verify-full",
            "sslrootcert": str(place.ours.ca),
        }
        | changes,
        kafka={"bootstrap_servers": "unused:1", "security_protocol": "ssl"},
        profile="production",
        insecure=changes.get("sslmode", "verify-full") != "verify-full",
    )


def by_certificate(identity: Any, **more: Any) -> dict[str, Any]:
    return {
        "user": USER,
        "password": None,
        "sslcert": identity.certificate,
        "sslkey": identity.key,
    } | more


@pytest.mark.parametrize(
    "right",
    [
        pytest.param(lambda _: {}, id="password"),
        pytest.param(lambda _: {"channel_binding": "require"}, id="channel binding"),
        pytest.param(lambda p: by_certificate(p.client), id="certificate"),
        pytest.param(lambda _: {"dsn": "sslnegotiation=direct"}, id="direct"),
        pytest.param(lambda _: {"sslrootcert": "system"}, id="system's authorities"),
        pytest.param(lambda _: {"dsn": "require_auth=scram-sha-256"}, id="required proof"),
    ],
)
def test_postgresql_lets_us_in(
    place: Secured, right: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(place.ours.ca))  # as if the system trusted it
    settings = postgres_settings(place, **right(place))
    with connect(settings, application_name="test", check=False) as connection:
        assert connection.pgconn.ssl_in_use


def test_a_client_s_key_may_have_a_password(place: Secured, tmp_path: Path) -> None:
    def of(password: str) -> Settings:
        (tmp_path / password).write_text(password)
        locked = {"sslkey": place.client.locked_key, "sslpassword_file": tmp_path / password}
        return postgres_settings(place, **by_certificate(place.client, **locked))

    connect(of(PASSWORD), application_name="test", check=False).close()
    with pytest.raises(FatalError, match="certificate can't be used: could not load private key"):
        connect(of("wrong"), application_name="test", check=False)


@pytest.mark.parametrize(
    ("wrong", "what", "remedy"),
    [
        pytest.param(
            lambda p: {"sslrootcert": str(p.other.ca)},
            "localhost is not trusted: its certificate is not signed by a CA that is trusted here",
            "set postgres.sslrootcert to the CA",
            id="authority",
        ),
        pytest.param(
            lambda _: {"sslrootcert": "system"},
            "its certificate is not signed by a CA that is trusted here",
            "set postgres.sslrootcert to the CA",
            id="system's authorities",
        ),
        pytest.param(
            lambda _: {"sslrootcert": "/nowhere.pem"},
            "postgres.sslrootcert: there is no file /nowhere.pem",
            "put the CA's certificate there",
            id="no file",
        ),
        pytest.param(
            lambda _: {"host": "127.0.0.1"},
            "the server is not trusted: its certificate is for another host than 127.0.0.1",
            "write the name that its certificate has into postgres.host",
            id="host",
        ),
        pytest.param(
            lambda _: {"user": USER, "password": None},
            "does not accept our client certificate",
            "set postgres.sslcert and sslkey",
            id="no certificate",
        ),
        pytest.param(
            lambda p: by_certificate(p.stranger),
            "does not accept our client certificate",
            "set postgres.sslcert and sslkey",
            id="stranger's certificate",
        ),
        pytest.param(
            lambda p: by_certificate(p.client, user="somebody"),
            "does not accept our client certificate",
            "a valid certificate of this role",
            id="somebody else's certificate",
        ),
        pytest.param(
            lambda _: {"sslmode": "disable", "sslrootcert": None},
            "the server lets this role in over TLS only",
            "set postgres.sslmode: verify-full",
            id="plain client",
        ),
        pytest.param(
            lambda _: {"channel_binding": "require", "user": "postgres"},
            "the server does not tie the login to this TLS connection",
            "scram-sha-256 over TLS",
            id="no channel to bind to",
        ),
        pytest.param(
            lambda _: {"dsn": "require_auth=scram-sha-256", "user": "postgres"},
            "another kind of login than require_auth",
            "pg_hba.conf",
            id="no proof",
        ),
    ],
)
def test_postgresql_is_not_trusted_or_does_not_trust_us(
    place: Secured, wrong: Change, what: str, remedy: str
) -> None:
    settings = postgres_settings(place, **wrong(place))
    began = time.monotonic()
    with pytest.raises(FatalError) as told:
        connect(settings, application_name="test", check=False)
    assert time.monotonic() - began < QUICKLY
    assert told.value.message.startswith("contour a: PostgreSQL: ")
    assert what in told.value.message
    assert remedy in (told.value.remedy or "")


def test_an_expired_certificate_of_postgresql_is_told_and_a_new_one_heals(place: Secured) -> None:
    settings = postgres_settings(place)

    def told() -> str:
        try:
            connect(settings, application_name="test", check=False).close()
        except FatalError as error:
            return str(error)
        return ""

    place.postgres.show(place.old.served(place.ours.ca))
    until(lambda: bool(told()), "the expired certificate")
    assert "localhost is not trusted: its certificate has expired" in told()
    assert "give the server a new certificate" in told()
    place.postgres.show(place.server.served(place.ours.ca))
    until(lambda: not told(), "the new certificate")


def test_production_never_connects_without_a_check(place: Secured) -> None:
    weak = postgres_settings(place, sslmode="require")
    connect(weak, application_name="test", check=False).close()
    weak = weak.model_copy(update={"insecure": False})
    with pytest.raises(ConfigurationError, match="anybody could play the server"):
        connect(weak, application_name="test", check=False)


def test_a_plain_postgresql_is_refused(place: Secured, postgres: EmbeddedPostgres) -> None:
    settings = postgres_settings(place, port=postgres.port, user="postgres")
    with pytest.raises(FatalError, match=r"speaks no TLS, and postgres\.sslmode asks"):
        connect(settings, application_name="test", check=False)


def test_of_several_servers_another_one_may_come_back(place: Secured) -> None:
    several = postgres_settings(place, host="127.0.0.1,localhost", port=None, dsn="port=1,1")
    with pytest.raises(TransientError):
        connect(several, application_name="test", check=False)
    port = str(place.postgres.port)
    distrusted = postgres_settings(
        place, host="127.0.0.1,127.0.0.1", port=None, dsn=f"port={port},{port}"
    )
    with pytest.raises(TransientError, match=r"is for another host than 127\.0\.0\.1"):
        connect(distrusted, application_name="test", check=False)


def test_rows_travel_between_contours_that_trust_nobody(place: Secured) -> None:
    """Profile production, certificates and channel binding, from one table to the other."""
    kafka = kafka_settings(place, **login(place, "SCRAM-SHA-512")).kafka
    with contour_maker(place.postgres, make_templates(place.postgres), None) as make:
        contours = make("create table things (id bigint primary key)", ["things"])
        for contour in contours:
            dbname = str(conninfo_to_dict(contour.dsn)["dbname"])
            contour.settings = contour.settings.model_copy(
                update={
                    "profile": "production",
                    "postgres": postgres_settings(
                        place, dbname=dbname, channel_binding="require"
                    ).postgres,
                    "kafka": kafka,
                }
            )
            assert contour.settings.strict
        a, b = contours
        ensure_topics(a.settings, ["things"])
        a.run("insert into things select generate_series(1, 100)")
        assert a.publish().processed == 100
        b.apply()
        assert b.value("select count(*) from things") == 100
        assert profile(a.settings) == [("good", "")]
        needless = a.settings.model_copy(update={"insecure": True})
        assert profile(needless) == [
            ("notice", "take insecure out; secrets in the configuration file are refused then")
        ]


def profile(settings: Settings) -> list[tuple[str, str]]:
    """What ``doctor`` says of it."""
    with connect(settings, application_name="test") as connection:
        found = examine(connection, settings)
    return [(f.severity, f.remedy) for f in found if f.check == "profile"]
