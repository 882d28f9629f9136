"""Configuration: every mistake is refused with its key and a remedy; the environment wins."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.postgres.conninfo import conninfo_of
from replication_pipeline.postgres.queries import sql_directory
from replication_pipeline.settings import Settings, load_settings, read_secret

pytestmark = pytest.mark.unit

MINIMAL = """
contour: {name: a, id: 1}
postgres: {dsn: "host=db dbname=app"}
kafka: {bootstrap_servers: "kafka:9092"}
"""


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPLICATION_CONFIG", raising=False)


def load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path)


def test_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path, MINIMAL)
    assert settings.publisher.window == timedelta(minutes=10)
    assert settings.publisher.batch_size == 500
    assert settings.cleanup.published == timedelta(days=7)
    assert settings.tables == {}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("2s", 2), ("10min", 600), ("1.5h", 5400), ("7d", 604800), ("3", 3), ("0", 0)],
)
def test_durations(tmp_path: Path, text: str, seconds: float) -> None:
    settings = load(tmp_path, MINIMAL + f"publisher: {{window: {text}}}")
    assert settings.publisher.window == timedelta(seconds=seconds)


def test_tables_as_a_list_or_with_options(tmp_path: Path) -> None:
    plain = load(tmp_path, MINIMAL + "tables: [users, shop.orders]")
    assert list(plain.tables) == ["users", "shop.orders"]
    rich = load(tmp_path, MINIMAL + "tables: {users: {partitions: 12}, orders: }")
    assert rich.tables["users"].partitions == 12
    assert rich.tables["orders"].partitions is None


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATION__PUBLISHER__BATCH_SIZE", "77")
    monkeypatch.setenv("REPLICATION__KAFKA__BOOTSTRAP_SERVERS", "other:9092")
    settings = load(tmp_path, MINIMAL + "publisher: {batch_size: 5, poll_interval: 1s}")
    assert settings.publisher.batch_size == 77
    assert settings.publisher.poll_interval == timedelta(seconds=1)
    assert settings.kafka.bootstrap_servers == "other:9092"


def test_the_environment_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATION__CONTOUR__NAME", "a")
    monkeypatch.setenv("REPLICATION__CONTOUR__ID", "1")
    monkeypatch.setenv("REPLICATION__POSTGRES__DSN", "host=db")
    monkeypatch.setenv("REPLICATION__KAFKA__BOOTSTRAP_SERVERS", "kafka:9092")
    assert load_settings().contour.name == "a"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "contour: is missing; set it in the file or as REPLICATION__CONTOUR"),
        (MINIMAL + "tabels: []", "tabels: no such key"),
        (MINIMAL + "publisher: {batch: 5}", "publisher.batch: no such key"),
        (
            MINIMAL + "publisher: {batch_size: many}",
            "publisher.batch_size: input should be a valid",
        ),
        (MINIMAL + "publisher: {batch_size: 0}", "publisher.batch_size: input should be greater"),
        (MINIMAL + "publisher: {window: soon}", "publisher.window: not a duration"),
        (MINIMAL + "publisher: {window: -5s}", "publisher.window: a duration can't be negative"),
        (MINIMAL + "publisher: {min_publishers: 9}", "publisher: min_publishers is greater"),
        (
            MINIMAL.replace("id: 1", "id: 1024"),
            "contour.id: input should be less than or equal to 1023",
        ),
        (MINIMAL.replace("name: a", "name: A b"), "contour.name: string should match"),
        (MINIMAL.replace("dsn", "dsm"), "postgres.dsm: no such key"),
        (MINIMAL + "tables: {users: {partition: 1}}", "tables.users.partition: no such key"),
        (MINIMAL + "tables: {t: {merge: row, delta_columns: [n]}}", "leave merge out"),
        (MINIMAL + "tables: {t: {merge: columns, displace: true}}", "exclude include, exclude"),
        (MINIMAL + f"tables: [{'x' * 250}]", "Kafka allows 249"),
        (MINIMAL + "logging: {level: loud}", "logging.level"),
        ("- a list", "the top level is not a mapping"),
        ("a: [", "not valid YAML"),
    ],
)
def test_mistakes_name_their_key_and_the_remedy(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        load(tmp_path, text)
    assert expected in error.value.message
    assert error.value.remedy


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as error:
        load(tmp_path, "contour: {name: A, id: 0}\nkafka: {bootstrap_servers: ''}\n")
    for key in ("contour.name", "contour.id", "postgres", "kafka.bootstrap_servers"):
        assert key in error.value.message


def test_a_misspelt_variable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATION__PUBLISHERS__BATCH_SIZE", "5")
    with pytest.raises(ConfigurationError, match="REPLICATION__PUBLISHERS__BATCH_SIZE"):
        load(tmp_path, MINIMAL)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml can't be read"):
        load_settings(tmp_path / "nowhere.yaml")


def test_secrets_do_not_show(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        MINIMAL.replace('"host=db dbname=app"', '"host=db password=canary1", password: canary2')
        + "\n",
    )
    assert "canary" not in repr(settings) + str(settings) + settings.model_dump_json()
    assert "password=canary2" in conninfo_of(settings.postgres)


def test_a_password_may_come_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n", encoding="utf-8")
    settings = load(tmp_path, MINIMAL.replace("}", f', password_file: "{secret}"}}', 2).replace(
        f', password_file: "{secret}"', "", 1))  # fmt: skip
    assert "password=s3cret" in conninfo_of(settings.postgres)
    with pytest.raises(ConfigurationError, match="can't be read"):
        read_secret(tmp_path / "none", "postgres.password_file")


def test_a_broken_dsn_is_refused_without_showing_it(tmp_path: Path) -> None:
    settings = load(tmp_path, MINIMAL.replace("host=db dbname=app", "canary host db"))
    with pytest.raises(ConfigurationError) as error:
        conninfo_of(settings.postgres)
    assert "canary" not in str(error.value)


def test_a_server_that_vanishes_is_noticed_unless_the_dsn_says_otherwise(tmp_path: Path) -> None:
    settings = load(
        tmp_path, MINIMAL.replace("host=db dbname=app", "host=db tcp_user_timeout=5000")
    )
    made = conninfo_of(settings.postgres)
    assert "keepalives_idle=10" in made
    assert "tcp_user_timeout=5000" in made
    assert "30000" not in made


def test_the_example_documents_every_key() -> None:
    example = sql_directory().parent / "config.example.yaml"
    text = example.read_text(encoding="utf-8")
    for section, field in Settings.model_fields.items():
        assert f"{section}:" in text
        if section != "tables":
            for key in getattr(field.annotation, "model_fields", ()):
                assert f"{key}:" in text, f"{section}.{key} is not in config.example.yaml"
    assert load_settings(example).contour.name == "a"
