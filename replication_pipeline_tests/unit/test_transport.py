"""Options that may be passed on, and what profile production refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from psycopg.conninfo import conninfo_to_dict

from replication_pipeline.domain import transport
from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.kafka.client import QUIET, client_options
from replication_pipeline.kafka.producer import producer_options
from replication_pipeline.kafka.reading import consumer_options
from replication_pipeline.postgres.conninfo import conninfo_of
from replication_pipeline.postgres.queries import sql_directory
from replication_pipeline.settings import KafkaSettings, PostgresSettings, Settings, load_settings

pytestmark = pytest.mark.unit

CONTOUR = {"name": "a", "id": 1}
POSTGRES = {"dsn": "host=db dbname=app", "sslmode": "verify-full"}
KAFKA = {"bootstrap_servers": "kafka:9093", "security_protocol": "ssl"}


def settings(**sections: Any) -> Settings:
    given: dict[str, Any] = {"contour": CONTOUR, "postgres": POSTGRES, "kafka": KAFKA}
    return Settings(**(given | sections))


def load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path)


def known_to_librdkafka(name: str) -> bool:
    """An option with an odd value is refused for its value, if at all."""
    for client in (Producer, Consumer):
        try:
            client({name: "?", "group.id": "g", "log_level": 0}, logger=QUIET)
        except KafkaException as error:
            if "No such configuration property" in error.args[0].str():
                return False
        except (ValueError, TypeError):  # what the Python client takes for itself
            continue
    return True


def test_lists_name_what_librdkafka_has() -> None:
    listed = {*transport.LIBRDKAFKA, *transport.LIBRDKAFKA_REFUSED} - {"interceptors"}
    assert [name for name in sorted(listed) if not known_to_librdkafka(name)] == []
    assert not known_to_librdkafka("no.such.option")


def test_the_lists_are_documented() -> None:
    text = (sql_directory().parent / "docs" / "security.md").read_text(encoding="utf-8")
    for name in (*transport.LIBRDKAFKA, *transport.LIBPQ, *transport.SESSION):
        assert f"`{name}`" in text, name


def test_nothing_that_the_pipeline_sets_may_be_set() -> None:
    made = settings(kafka=KAFKA | {"oauth_token_url": "https://x", "sasl_mechanism": "OAUTHBEARER"}
                    | {"security_protocol": "sasl_ssl"})  # fmt: skip
    ours = {
        *producer_options(made), *consumer_options(made), *client_options(made.kafka),
        "sasl.username", "sasl.password", "ssl.key.password",
    }  # fmt: skip
    assert ours & transport.LIBRDKAFKA == {"sasl.oauthbearer.method"}


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("enable.idempotence", "no event may be lost"),
        ("acks", "no event may be lost"),
        ("enable.auto.commit", "positions are kept in the contour's database"),
        ("isolation.level", "positions are kept in the contour's database"),
        ("group.id", "positions are kept in the contour's database"),
        ("plugin.library.paths", "loads code"),
        ("ssl.engine.location", "loads code"),
        ("sasl.kerberos.kinit.cmd", "runs a command"),
        ("error_cb", "loads code"),
        ("debug", "writes traffic to the log"),
        ("sasl.password", "set kafka.sasl_password_file"),
        ("no.such.option", "not one of those in docs/security.md"),
    ],
)
def test_dangerous_options_of_librdkafka_are_refused(option: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"{option} can't be set here: .*{why}"):
        KafkaSettings(bootstrap_servers="kafka:9093", options={option: "1"})


def test_allowed_options_are_passed_on_as_texts() -> None:
    kafka = KafkaSettings(
        bootstrap_servers="k:1", options={"ssl.crl.location": "/crl", "enable.metrics.push": False}
    )
    passed = client_options(kafka)
    assert (passed["ssl.crl.location"], passed["enable.metrics.push"]) == ("/crl", "false")


@pytest.mark.parametrize(
    ("dsn", "why"),
    [
        ("options='-c search_path=evil'", "search_path changes the session"),
        (
            "options='-c work_mem=8MB --session-replication-role=replica'",
            "session_replication_role",
        ),
        ("options='-csession_replication_role=replica'", "session_replication_role changes"),
        ("options='-c replication.x=1'", "replication.x changes the session"),
        ("options=-f", "it may change the session"),
        ("service=elsewhere", "another file would decide"),
        ("replication=database", "can't run statements"),
        ("sslkeylogfile=/tmp/keys", "writes the keys of encrypted connections"),
        ("target_session_attrs=standby", "the pipeline writes"),
        ("oauth_issuer=https://x", "not one of those in docs/security.md"),
    ],
)
def test_dangerous_options_of_libpq_are_refused(dsn: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as refused:
        conninfo_of(PostgresSettings(dsn=f"host=db {dsn}"))
    assert refused.value.remedy == f"take {dsn.split('=', maxsplit=1)[0]} out"


def test_harmless_options_of_libpq_are_kept() -> None:
    given = "host=db1,db2 target_session_attrs=read-write options='-c work_mem=8MB -c a.b=x\\\\ y'"
    kept = conninfo_to_dict(conninfo_of(PostgresSettings(dsn=given)))
    assert kept["options"] == "-c work_mem=8MB -c a.b=x\\ y"
    assert kept["target_session_attrs"] == "read-write"


@pytest.mark.parametrize("variable", ["PGOPTIONS", "PGSERVICE"])
def test_variables_of_libpq_count_as_well(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "-c search_path=evil")
    with pytest.raises(ConfigurationError, match=f"environment variable {variable}"):
        conninfo_of(PostgresSettings(dsn="host=db"))


def test_system_means_the_cas_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cas = tmp_path / "cas.pem"
    cas.touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(cas))
    made = conninfo_to_dict(conninfo_of(PostgresSettings(dsn="host=db sslrootcert=system")))
    assert (made["sslrootcert"], made["sslmode"]) == (str(cas), "verify-full")
    with pytest.raises(ConfigurationError, match="too weak for sslrootcert system"):
        conninfo_of(PostgresSettings(dsn="host=db", sslrootcert="system", sslmode="require"))


def test_secrets_come_from_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n", encoding="utf-8")
    postgres = PostgresSettings(dsn="host=db", sslpassword_file=secret)
    assert conninfo_to_dict(conninfo_of(postgres))["sslpassword"] == "s3cret"
    kafka = KafkaSettings(
        bootstrap_servers="k:1",
        security_protocol="sasl_ssl",
        sasl_mechanism="OAUTHBEARER",
        oauth_token_url="https://idp/token",
        oauth_client_id="a",
        oauth_client_secret_file=secret,
        ssl_key_password_file=secret,
    )
    passed = client_options(kafka)
    assert passed["sasl.oauthbearer.client.secret"] == passed["ssl.key.password"] == "s3cret"
    assert passed["sasl.oauthbearer.method"] == "oidc"


@pytest.mark.parametrize(
    ("kafka", "what"),
    [
        ({"security_protocol": "plaintext"}, "kafka.security_protocol: plaintext sends rows in"),
        (
            {"security_protocol": "sasl_plaintext", "sasl_mechanism": "PLAIN"},
            "sasl_plaintext sends rows with the password in the clear; set sasl_ssl",
        ),
        (
            {"options": {"enable.ssl.certificate.verification": False}},
            "enable.ssl.certificate.verification: anybody could play the broker",
        ),
        (
            {"options": {"ssl.endpoint.identification.algorithm": "none"}},
            "ssl.endpoint.identification.algorithm",
        ),
        (
            {
                "security_protocol": "sasl_ssl",
                "sasl_mechanism": "OAUTHBEARER",
                "oauth_token_url": "http://idp/token",
            },
            "kafka.oauth_token_url: the client's secret travels in the clear; use https",
        ),
        (
            {
                "security_protocol": "sasl_ssl",
                "sasl_mechanism": "OAUTHBEARER",
                "options": {"enable.sasl.oauthbearer.unsecure.jwt": True},
            },
            "anybody could make such a token",
        ),
    ],
)
def test_production_refuses_a_weak_kafka(kafka: dict[str, Any], what: str) -> None:
    weak = {"contour": CONTOUR, "kafka": KAFKA | kafka}
    settings(**weak)
    settings(**weak, profile="production", insecure=True)
    with pytest.raises(ValueError, match=f"profile production refuses .*{what}") as refused:
        settings(**weak, profile="production")
    assert "or write insecure: true" in str(refused.value)


@pytest.mark.parametrize(
    ("postgres", "what"),
    [
        (
            {"sslmode": None},
            "sslmode prefer: rows and the password's proof may travel in the clear",
        ),
        ({"sslmode": "disable"}, "in the clear"),
        ({"sslmode": "require"}, "anybody could play the server"),
        (
            {"sslmode": None, "dsn": "postgresql://db/app?sslmode=verify-ca"},
            "of this CA could play",
        ),
        ({"sslmode": None, "dsn": "host=/run/postgresql,db"}, "in the clear"),
    ],
)
def test_production_refuses_a_weak_postgresql(postgres: dict[str, Any], what: str) -> None:
    weak = PostgresSettings(**(POSTGRES | postgres))
    conninfo_of(weak)
    with pytest.raises(ConfigurationError, match=what) as refused:
        conninfo_of(weak, strict=True)
    assert (
        refused.value.remedy
        == "set sslmode: verify-full, and sslrootcert (or write insecure: true)"
    )


def test_production_takes_what_is_strong() -> None:
    for postgres in (POSTGRES, {"host": "/run/postgresql"}):
        made = settings(profile="production", postgres=postgres)
        assert made.strict
        assert "gssencmode=disable" in conninfo_of(made.postgres, strict=made.strict)
    assert not settings(profile="production", insecure=True).strict


@pytest.mark.parametrize(
    ("written", "key", "file"),
    [
        ("postgres: {host: db, password: canary}", "postgres.password", "postgres.password_file"),
        ("postgres: {dsn: 'host=db password=canary'}", "postgres.dsn", "postgres.password_file"),
        ("postgres: {dsn: 'postgresql://u:canary@db/a'}", "postgres.dsn", "postgres.password_file"),
        ("kafka: {sasl_password: canary}", "kafka.sasl_password", "kafka.sasl_password_file"),
        (
            "monitoring: {slack: {url: 'https://hooks/canary'}}",
            "monitoring.slack.url",
            "monitoring.slack.url_file",
        ),
        (
            "compare: {contours: {b: {host: db2, password: canary}}}",
            "compare.contours.b.password",
            "compare.contours.b.password_file",
        ),
    ],
)
def test_production_takes_no_secrets_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, key: str, file: str
) -> None:
    monkeypatch.setenv("REPLICATION__KAFKA__BOOTSTRAP_SERVERS", "kafka:9093")
    monkeypatch.setenv("REPLICATION__KAFKA__SECURITY_PROTOCOL", "ssl")
    monkeypatch.setenv("REPLICATION__POSTGRES__SSLMODE", "verify-full")
    text = "contour: {name: a, id: 1}\n" + written + "\n"
    if not written.startswith("postgres"):
        text += "postgres: {host: db}\n"
    load(tmp_path, text)
    load(tmp_path, text + "profile: production\ninsecure: true\n")
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path, text + "profile: production\n")
    assert f"{key}: profile production takes no secrets from this file" in refused.value.message
    assert refused.value.remedy is not None
    assert f"set {file}, or REPLICATION__{key.replace('.', '__').upper()}" in refused.value.remedy
    assert "canary" not in str(refused.value)


def test_production_takes_secrets_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICATION__POSTGRES__PASSWORD", "canary")
    made = load(
        tmp_path,
        "profile: production\ncontour: {name: a, id: 1}\n"
        "postgres: {host: db, sslmode: verify-full}\n"
        "kafka: {bootstrap_servers: 'k:1', security_protocol: ssl}\n",
    )
    assert made.strict
    assert "password=canary" in conninfo_of(made.postgres)


@pytest.mark.parametrize(
    ("kafka", "what"),
    [
        ({"sasl_mechanism": "PLAIN"}, "sasl_mechanism without SASL"),
        ({"ssl_key_location": "/key"}, "go together"),
        ({"oauth_token_url": "https://x"}, "oauth_token_url without sasl_mechanism"),
        (
            {"security_protocol": "sasl_ssl", "sasl_mechanism": "OAUTHBEARER"},
            "OAUTHBEARER needs a token: set kafka.oauth_token_url",
        ),
        (
            {"ssl_key_password": "x", "ssl_key_password_file": "/x"},
            "ssl_key_password and ssl_key_password_file exclude each other",
        ),
    ],
)
def test_halves_are_refused(kafka: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        KafkaSettings(**(KAFKA | kafka))
