"""A canary in every place that takes a secret: it shows nowhere, whatever is printed, logged or fails.

Which places there are is asked of the settings themselves, so that a new one without a canary is red.
Searched are standard output and error, log lines, errors with their whole tracebacks, and every byte
that Dagster has stored.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import io
import threading
import traceback
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin
from urllib.parse import quote

import dagster as dg
import psycopg
import pytest
import yaml
from dagster._core.remote_representation.external_data import RepositorySnap
from pydantic import BaseModel, SecretStr

from replication_pipeline import definitions, runtime
from replication_pipeline.domain.errors import ConfigurationError, ReplicationError
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline.embedded.process import free_port
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.kafka.client import admin_client
from replication_pipeline.kafka.producer import KafkaEventProducer
from replication_pipeline.notify import Message, receivers
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.conninfo import conninfo_of
from replication_pipeline.postgres.inbox import PostgresInbox
from replication_pipeline.settings import (
    PostgresSettings,
    Settings,
    load_settings,
    signer_of,
    verifier_of,
)
from replication_pipeline_tests.conftest import Contour
from replication_pipeline_tests.integration.commands import call_with, logging_left_alone

pytestmark = pytest.mark.integration

CANARY: Final = "CaNaRy-7d1f0c-%@:/-aV3ry_secret_w0rd"
HIDDEN: Final = tuple(
    form.lower()
    for form in (
        CANARY,
        quote(CANARY, safe=""),
        base64.b64encode(CANARY.encode()).decode(),
        CANARY[:12],
    )
)


def secrets(of: type[BaseModel], path: str = "") -> Iterator[str]:
    """The paths of all settings that are secrets."""
    for name, field in of.model_fields.items():
        yield from _within(field.annotation, f"{path}{name}")


def _within(annotation: Any, path: str) -> Iterator[str]:
    if annotation is SecretStr:
        yield path
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from secrets(annotation, f"{path}.")
    elif get_origin(annotation) in (Union, UnionType, Annotated, dict, list):
        for part in get_args(annotation):
            yield from _within(part, path)


def content(dsn: str, closed: int) -> dict[str, Any]:
    """A configuration with the canary in every place."""
    url = f"http://127.0.0.1:{closed}/{quote(CANARY, safe='')}"
    server = psycopg.conninfo.make_conninfo(dsn, password=CANARY, sslpassword=CANARY)
    return {
        "contour": {"name": "a", "id": 1},
        "postgres": {"dsn": server, "password": CANARY},
        "kafka": {
            "sasl_password": CANARY,
            "sasl_username": "user",
            "ssl_key_password": CANARY,
            "oauth_client_secret": CANARY,
        },
        "monitoring": {
            "heartbeat_interval": "1s",
            "webhook": {"url": url, "token": CANARY},
            "slack": {"url": url},
            "email": {
                "host": "127.0.0.1",
                "port": closed,
                "user": "u",
                "password": CANARY,
                "sender": "a@example.org",
                "recipients": ["b@example.org"],
            },
        },
        "security": {"hmac": {"key": CANARY, "accept": {"a": [CANARY]}, "required": True}},
        "compare": {"contours": {"b": {"dsn": server, "password": CANARY}}},
    }


MAPS: Final = (".security.hmac.accept", ".compare.contours")  # of which the keys are names


def put(nested: Any, path: str = "") -> Iterator[str]:
    """The paths under which a configuration has the canary."""
    if isinstance(nested, dict):
        for name, value in nested.items():
            yield from put(value, f"{path}." if path in MAPS else f"{path.rstrip('.')}.{name}")
    elif isinstance(nested, list):
        for value in nested:
            yield from put(value, path)
    elif CANARY in str(nested) or quote(CANARY, safe="") in str(nested):
        yield path.strip(".")


def assert_hidden(text: str, where: object) -> None:
    found = [form for form in HIDDEN if form in text.lower()]
    assert not found, f"{where}: {text}"


@contextlib.contextmanager
def told() -> Iterator[io.StringIO]:
    """What is printed, and an error with all that led to it."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            yield output
        except (ReplicationError, psycopg.Error) as error:
            output.write(f"{error!r} {error} ")
            output.write("".join(traceback.format_exception(error)))


def test_every_secret_has_a_canary() -> None:
    assert set(put(content("host=x", 1))) == set(secrets(Settings))


def test_settings_do_not_show_theirs(tmp_path: Path) -> None:
    settings = Settings(
        **content("host=x", 1) | {"kafka": {"bootstrap_servers": "x:1", "sasl_password": CANARY}}
    )
    parts = [settings, *(getattr(settings, name) for name in Settings.model_fields)]
    holders = [
        signer_of(settings),
        verifier_of(settings),
        PostgresInbox(settings, "x"),
        KafkaEventProducer(settings),
    ]
    for part in [*parts, *holders]:
        shown = [repr(part), str(part), f"{part}"]
        if isinstance(part, BaseModel):
            shown += [
                str(part.model_dump()),
                part.model_dump_json(),
                str(part.model_dump(mode="json")),
            ]
            shown += [str(type(part).model_json_schema())]
        for text in shown:
            assert_hidden(text, type(part))


BROKEN: Final[dict[str, str | dict[str, Any]]] = {
    "no YAML": f"postgres:\n  dsn: 'x password={CANARY}\n\tfoo",
    "no mapping": f"- {CANARY}",
    "a key that is not there": {"postgres": {"pasword": CANARY, "host": "x"}},
    "a value of another type": {"postgres": {"host": "x", "password": [CANARY]}},
    "a section that is a text": {"postgres": CANARY, "kafka": CANARY},
    "a secret for a number": {"postgres": {"host": "x", "port": CANARY}},
    "a secret for a choice": {"kafka": {"sasl_mechanism": CANARY, "security_protocol": CANARY}},
    "an address that is none": {"monitoring": {"webhook": {"url": CANARY}, "slack": {"url": CANARY}}},
    "a key that is too short": {"security": {"hmac": {"key": CANARY[:14]}}},
    "two passwords": {"postgres": {"host": "x", "password": CANARY, "password_file": "/x"}},
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_configuration_with_mistakes_is_refused_without_its_secrets(
    broken: str | dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(broken if isinstance(broken, str) else yaml.safe_dump(broken), encoding="utf-8")
    with pytest.raises(ConfigurationError) as refused:
        load_settings(path)
    assert_hidden("".join(traceback.format_exception(refused.value)), broken)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REPLICATION__POSTGRES", '{"dsn": "' + CANARY),
        ("REPLICATION__SECURITY__HMAC__ACCEPT", CANARY),
        ("REPLICATION__POSTGRES__PORT", CANARY),
        ("REPLICATION__POSTGRESS__PASSWORD", CANARY),
    ],
)
def test_a_variable_with_mistakes_is_refused_without_its_value(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    assert_hidden("".join(traceback.format_exception(refused.value)), name)


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://user:{CANARY}@127.0.0.1:1/db",  # @, : and / as they are
        f"postgresql://user:x@{CANARY}@127.0.0.1/db",
        "postgresql://user:x@CaNaRy-7d1f0c@127.0.0.1/db",
        "postgresql://user:CaNaRy-7d1f0c/x@127.0.0.1/db",
        "postgresql://user:CaNaRy-7d1f0c@:x@127.0.0.1:/db",
        f"host=127.0.0.1 port=1 password={CANARY} x y",
        f"host=127.0.0.1 port=1 password='{CANARY}",
        f"host=127.0.0.1 port=1 pasword={CANARY}",
        f"postgresql://user:x@127.0.0.1:1/db?pasword={CANARY}",
        "postgresql://user:%zzCaNaRy-7d1f0c@127.0.0.1/db",
    ],
)
def test_a_connection_string_that_can_not_be_read_is_not_quoted(dsn: str) -> None:
    with told() as output:
        settings = PostgresSettings(dsn=dsn)
        with psycopg.connect(conninfo_of(settings), connect_timeout=2):
            pass
    assert "Error" in output.getvalue()
    assert_hidden(output.getvalue(), dsn)


@pytest.fixture
def armed(
    users: list[Contour], kafka: EmbeddedKafka, tmp_path: Path
) -> tuple[Contour, dict[str, Any]]:
    """A contour, and a configuration of it with all canaries, which works where it matters."""
    sections = content(users[0].dsn, free_port())
    kept = users[0].settings.kafka
    sections["kafka"] |= {
        "bootstrap_servers": kept.bootstrap_servers,
        "topic_prefix": kept.topic_prefix,
        "partitions": kept.partitions,
    }
    del sections["contour"]
    return users[0], sections


COMMANDS: Final[list[tuple[object, ...]]] = [
    ("init",), ("setup-table",), ("publish", "--until-empty"), ("apply", "--until-caught-up"),
    ("status",), ("status", "--json"), ("doctor",), ("doctor", "--json", "--verbose"), ("cleanup",),
    ("parked", "list"), ("contours", "list"), ("offsets", "list"), ("conflicts", "list"),
    ("trace", "users", "1"), ("compare",), ("republish", "--all"), ("replay", "--from-offset", 0),
]  # fmt: skip
AWAY: Final[list[tuple[object, ...]]] = [
    ("status",),
    ("doctor",),
    ("init",),
    ("setup-table",),
    ("compare",),
]


def test_no_command_shows_a_secret(armed: tuple[Contour, dict[str, Any]], tmp_path: Path) -> None:
    contour, sections = armed
    contour.run("insert into users (id) values (1)")
    sections["logging"] = {"level": "debug"}
    for words in COMMANDS:
        done = call_with(contour, tmp_path, *words, **sections)
        assert done.exit_code in (0, 1), (words, done.output, done.exception)
        assert_hidden(f"{done.output} {done.stderr} {done.exception!r}", words)


def test_no_error_of_a_server_that_is_away_or_refuses_shows_a_secret(
    armed: tuple[Contour, dict[str, Any]], postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    contour, sections = armed
    closed = free_port()
    away = {
        "dsn": f"host=127.0.0.1 port={closed} user=u dbname=x",
        "password": CANARY,
        "connect_timeout": 2,
    }
    nowhere = sections["kafka"] | {"bootstrap_servers": f"127.0.0.1:{closed}"}
    not_expected = sections["kafka"] | {
        "security_protocol": "sasl_plaintext",
        "sasl_mechanism": "PLAIN",
    }
    broken: list[dict[str, Any]] = [{"postgres": away}, {"kafka": nowhere}, {"kafka": not_expected}]
    with wrong_password(contour, postgres) as refusing:
        broken.append({"postgres": refusing})
        for trouble in broken:
            config = sections | trouble
            with told() as output, logging_left_alone():
                full = Settings(
                    **config | {"contour": {"name": contour.name, "id": 1}, "tables": ["users"]}
                )
                output.write(repr(admin_client(full)))
                connect(full, application_name="test").close()
            assert_hidden(output.getvalue(), trouble)
            for words in AWAY if "postgres" in trouble else [("status",)]:
                done = call_with(contour, tmp_path, *words, **config)
                assert_hidden(f"{done.output} {done.stderr} {done.exception!r}", words)


@contextlib.contextmanager
def wrong_password(contour: Contour, postgres: EmbeddedPostgres) -> Iterator[dict[str, Any]]:
    """A login that PostgreSQL refuses for its password."""
    file = postgres.data_directory / "pg_hba.conf"
    former = file.read_bytes()
    contour.run("create role guarded login password 'another one'")
    try:
        file.write_bytes(b"host all guarded 127.0.0.1/32 scram-sha-256\n" + former)
        contour.run("select pg_reload_conf()")
        yield {"dsn": contour.dsn, "user": "guarded", "password": CANARY}
    finally:
        file.write_bytes(former)
        contour.run("select pg_reload_conf()")
        contour.run("drop role guarded")


class Unkind(http.server.BaseHTTPRequestHandler):
    """Answers with what it was sent, as an error or a redirection."""

    def do_POST(self) -> None:
        body = f"{self.path} {self.headers}".encode()
        self.send_response(302 if "again" in self.server.kind else 500)  # type: ignore[attr-defined]
        self.send_header("Location", self.path + "/again")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def test_no_receiver_of_alerts_shows_its_address(armed: tuple[Contour, dict[str, Any]]) -> None:
    """Away, answering with an error that quotes what it got, and redirecting."""
    _, sections = armed
    for kind in ("away", "error", "again"):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Unkind)
        server.kind = kind  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            monitoring = dict(sections["monitoring"])
            if kind != "away":
                url = f"http://127.0.0.1:{server.server_port}/{quote(CANARY, safe='')}"
                monitoring |= {"webhook": {"url": url, "token": CANARY}, "slack": {"url": url}}
            settings = Settings(
                contour={"name": "a", "id": 1},
                postgres={"host": "x"},
                kafka={"bootstrap_servers": "x:1"},
                monitoring=monitoring,
            )
            message = Message("a", "publish_lag", "critical", "text", "advice")
            for receiver in receivers(settings.monitoring):
                with told() as output:
                    receiver.send(message)
                output.write(repr(receiver))
                assert_hidden(output.getvalue(), (kind, receiver.name))
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10)


@pytest.mark.parametrize("trouble", ["none", "PostgreSQL away"])
def test_dagster_stores_no_secret(
    armed: tuple[Contour, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
) -> None:
    """Run configuration, tags, event log, definitions: every byte of a real instance's storage."""
    contour, sections = armed
    contour.run("insert into users (id) values (1)")
    if trouble != "none":
        sections["postgres"] = {
            "dsn": f"host=127.0.0.1 port={free_port()} user=u",
            "password": CANARY,
            "connect_timeout": 2,
        }
    path = tmp_path / "a.yaml"
    whole = sections | {"contour": {"name": contour.name, "id": 1}, "tables": ["users"]}
    path.write_text(yaml.safe_dump(whole), encoding="utf-8")
    monkeypatch.setenv("REPLICATION_CONFIG", str(path))
    home = tmp_path / "dagster"
    home.mkdir()
    shown: list[str] = []
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        defs = definitions.build(load_settings())
        for job, op in (("publish", "publish_batches"), ("doctor", None)):
            given = {"ops": {op: {"config": {"window_seconds": 1}}}} if op else None
            result = defs.resolve_job_def(job).execute_in_process(
                instance=instance, run_config=given, raise_on_error=False
            )
            run = instance.get_run_by_id(result.run_id)
            assert run is not None
            shown += [str(run), str(run.run_config), str(run.tags)]
            shown += [str(entry) for entry in instance.all_logs(result.run_id)]
        assert len(shown) > 20
        # What the UI is told of the definitions.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            shown.append(dg.serialize_value(RepositorySnap.from_def(defs.get_repository_def())))
    shown += [file.read_bytes().decode("latin-1") for file in home.rglob("*") if file.is_file()]
    assert any("publish_batches" in text for text in shown)
    for text in shown:
        assert_hidden(text, "Dagster")


def test_a_window_logs_no_secret(
    armed: tuple[Contour, dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    """librdkafka writes by itself if nobody stops it, so the file descriptors are looked at."""
    contour, sections = armed
    contour.run("insert into users (id) values (1)")
    settings = Settings(
        **sections | {"contour": {"name": contour.name, "id": 1}, "tables": ["users"]}
    )
    runtime.publish(settings, stop=StopToken(), length=timedelta(seconds=1))
    runtime.apply(settings, stop=StopToken(), length=timedelta(seconds=1))
    out, err = capfd.readouterr()
    assert_hidden(out + err, "window")
