"""What of the PostgreSQL adapter needs no server: queries, verdicts, order of tables."""

from __future__ import annotations

import io
import json
import sys
from datetime import timedelta

import psycopg
import pytest

from replication_pipeline import logs
from replication_pipeline.domain.errors import FatalError, PoisonError, TransientError
from replication_pipeline.domain.model import BatchResult, WindowTotals
from replication_pipeline.observe import BatchLog, log_window
from replication_pipeline.postgres import failures, queries
from replication_pipeline.postgres.catalog import ForeignKey, Table, parents_first
from replication_pipeline.settings import LoggingSettings

pytestmark = pytest.mark.unit


def test_queries_are_found_by_name() -> None:
    text = "-- a file\n\n-- name: one\n-- why\nselect 1\n\n-- name: two\nselect 2\n"
    assert queries.parse(text) == {"one": "-- why\nselect 1", "two": "select 2"}
    with pytest.raises(ValueError, match="twice"):
        queries.parse("-- name: one\nselect 1\n-- name: one\nselect 2")


@pytest.mark.parametrize("file", ["outbox", "apply", "catalog", "workers", "maintenance"])
def test_every_file_of_queries_parses(file: str) -> None:
    assert all(text.strip() for text in queries.load(file).values())


@pytest.mark.parametrize(
    ("sqlstate", "verdict"),
    [
        ("40P01", "retry"),
        ("40001", "retry"),
        ("55P03", "retry"),
        ("57P01", "retry"),
        ("53100", "retry"),
        ("08006", "retry"),
        ("25006", "retry"),
        ("25P03", "retry"),
        ("25P04", "retry"),
        ("25P02", "halt"),
        ("55000", "halt"),
        ("55006", "retry"),
        ("57014", "retry"),
        ("57000", "retry"),
        ("57P05", "retry"),
        ("58030", "retry"),
        ("58P01", "halt"),
        ("23P01", "park"),
        ("26000", "halt"),
        ("22001", "park"),
        ("23505", "park"),
        ("42703", "park"),
        ("42P01", "halt"),
        ("42501", "halt"),
        ("28P01", "halt"),
        ("XX001", "halt"),
        ("0A000", "halt"),
        ("ZZ999", "park"),
    ],
)
def test_each_sqlstate_has_a_verdict(sqlstate: str, verdict: str) -> None:
    assert failures.verdict(sqlstate) == verdict


def test_no_class_of_postgresql_s_own_is_taken_for_a_user_s() -> None:
    """A state that nobody thought of must halt; only made-up classes refuse an event."""
    states = [
        error.sqlstate
        for error in vars(psycopg.errors).values()
        if isinstance(error, type) and issubclass(error, psycopg.Error) and error.sqlstate
    ]
    assert len(states) > 200
    decided = {state for state in failures.VERDICTS if len(state) == 2}
    assert {state[:2] for state in states} <= decided | set(failures.OWN_CLASSES)


def test_a_refused_login_is_told_in_the_server_s_words() -> None:
    refused = psycopg.OperationalError(
        'connection failed: connection to server at "db", port 5432 failed: '
        'FATAL:  password authentication failed for user "replicator"'
    )
    error = failures.translate(refused, "contour a")
    assert isinstance(error, TransientError)
    assert 'password authentication failed for user "replicator"' in error.message


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (psycopg.errors.DeadlockDetected("x"), TransientError),
        (psycopg.OperationalError("connection refused to secret-host"), TransientError),
        (psycopg.errors.UndefinedTable("x"), FatalError),
        (psycopg.ProgrammingError("our mistake"), FatalError),
    ],
)
def test_errors_are_translated_with_their_cause_kept(
    raised: psycopg.Error, expected: type[Exception]
) -> None:
    with pytest.raises(expected) as error, failures.translating("contour a"):
        raise raised
    assert error.value.__cause__ is raised
    assert "secret-host" not in str(error.value)


@pytest.mark.parametrize(
    "raised", [psycopg.errors.UniqueViolation("canary"), psycopg.DataError("canary")]
)
def test_errors_that_quote_rows_are_not_kept(raised: psycopg.Error) -> None:
    with pytest.raises(PoisonError) as error, failures.translating("contour a"):
        raise raised
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__
    assert "canary" not in str(error.value)


def table(name: str, relation: int, *references: int) -> Table:
    keys = tuple(
        ForeignKey(
            f"{name}_{to}",
            relation,
            ("public", name),
            ("x",),
            to,
            ("public", "p"),
            ("id",),
            "a",
            ("x",),
        )
        for to in references
    )
    return Table(name, relation, "public", name, ("id",), relation, "f", (), keys, ())


def test_parents_stand_before_their_children() -> None:
    tables = [
        table("items", 3, 2),
        table("orders", 2, 1),
        table("customers", 1),
        table("self", 4, 4),
    ]
    assert [t.name for t in parents_first(tables)] == ["customers", "orders", "items", "self"]


def test_circles_are_in_the_order_of_names() -> None:
    assert [t.name for t in parents_first([table("b", 2, 1), table("a", 1, 2)])] == ["a", "b"]


@pytest.fixture
def log_lines(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    lines = io.StringIO()
    monkeypatch.setattr(sys, "stderr", lines)
    logs.configure(LoggingSettings(), contour="a")
    return lines


def test_a_batch_is_one_json_line_with_the_promised_fields(log_lines: io.StringIO) -> None:
    totals = WindowTotals(role="publisher", processed=1523)
    result = BatchResult(
        role="publisher", count=100, processed=100, duration=timedelta(milliseconds=234)
    )
    BatchLog("publisher", "a-1").batch(result, totals)
    line = json.loads(log_lines.getvalue())
    expected = {
        "level": "info",
        "component": "publisher",
        "count": 100,
        "duration_ms": 234,
        "total_processed": 1523,
        "contour": "a",
        "instance": "a-1",
        "lag_ms": 0,
    }
    assert {name: line[name] for name in expected} == expected


def test_every_batch_has_its_line(log_lines: io.StringIO) -> None:
    log = BatchLog("publisher", "a-1")
    for _ in range(500):
        log.batch(BatchResult(role="publisher", count=1), WindowTotals(role="publisher"))
    assert len(log_lines.getvalue().splitlines()) == 500


def test_lines_can_be_bounded_and_no_batch_is_forgotten(log_lines: io.StringIO) -> None:
    log = BatchLog("publisher", "a-1", 10)
    totals = WindowTotals(role="publisher")
    for _ in range(500):
        log.batch(BatchResult(role="publisher", count=1), totals)
    log.batch(BatchResult(role="publisher", count=1, failed=1), totals)
    lines = [json.loads(line) for line in log_lines.getvalue().splitlines()]
    assert len(lines) <= 2 * 10 + 1
    assert lines[-1]["failed"] == 1, "what needs attention is always told"
    assert len(lines) + sum(line.get("batches_not_logged", 0) for line in lines) == 501
    log_window(WindowTotals(role="publisher", processed=500, end="stopped"), "a-1")
    last = json.loads(log_lines.getvalue().splitlines()[-1])
    assert (last["event"], last["total_processed"], last["end"]) == ("window ended", 500, "stopped")
