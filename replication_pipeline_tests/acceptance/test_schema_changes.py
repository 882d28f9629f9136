"""A table's columns and name change in two contours while both write: nothing stops, nothing is lost.

The steps are those of docs/schema-changes.md, one contour after the other, with writes in between.
"""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psycopg
import pytest

from replication_pipeline.domain.errors import RefusedError
from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.kafka.client import admin_client
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.watch import pairs_of
from replication_pipeline_tests.applying import applying
from replication_pipeline_tests.conftest import Contour, MakeContours, same_rows, settle
from replication_pipeline_tests.integration.commands import call
from replication_pipeline_tests.publishing import publishing, until

pytestmark = pytest.mark.acceptance

ITEMS = "create table items (id bigint primary key, note text, amount int)"
OPTIONS = {
    "monitoring": {"heartbeat_interval": "200ms"},
    "consumer": {"poll_interval": "50ms", "retry_parked": "200ms"},
    "publisher": {"poll_interval": "50ms"},
}
HOT = 5  # rows that both write
BIG = 2**40
Release = Literal["old", "both", "new", "wide"]


@dataclass
class Application:
    """Writes rows of its own contour, which nobody else writes, and those that both do."""

    contour: Contour
    table: str = "items"
    release: Release = "old"
    writes: int = 0
    own: dict[int, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        chance = random.Random(self.contour.settings.contour.id)
        keys = itertools.count(1000 + self.contour.settings.contour.id, 2)
        with self.contour.session(autocommit=True) as session:
            while not self._stop.wait(0.02):
                hot = chance.random() < 0.3
                new = not self.own or chance.random() < 0.3
                if hot:
                    key = chance.randrange(HOT)
                else:
                    key = next(keys) if new else chance.choice(list(self.own))
                text = f"{self.contour.name} {self.writes}"
                try:
                    self._write(session, key, text, insert=new and not hot)
                except psycopg.errors.UndefinedTable:
                    continue  # renamed this moment: the next write knows the new name
                except psycopg.Error as error:
                    self.failures.append(repr(error))
                    return
                if not hot:
                    self.own[key] = text
                self.writes += 1

    def _write(
        self, session: psycopg.Connection[object], key: int, text: str, *, insert: bool
    ) -> None:
        columns: dict[Release, list[str]] = {
            "old": ["note"],
            "both": ["note", "words"],
            "new": ["words"],
            "wide": ["words", "amount"],
        }
        values: dict[str, object] = {"note": text, "words": text, "amount": BIG + self.writes}
        names = columns[self.release]
        chosen = [values[name] for name in names]
        if insert:
            places = ", ".join(["%s"] * (len(names) + 1))
            statement = f"insert into {self.table} (id, {', '.join(names)}) values ({places})"
            session.execute(statement, [key, *chosen])
        else:
            changes = ", ".join(f"{name} = %s" for name in names)
            session.execute(f"update {self.table} set {changes} where id = %s", [*chosen, key])

    def goes_on(self, count: int = 5) -> None:
        """Until it has written some more."""
        goal = self.writes + count
        until(lambda: self.writes >= goal or bool(self.failures), "an application to write")
        assert not self.failures, self.failures


@contextmanager
def writing(contours: list[Contour]) -> Iterator[list[Application]]:
    applications = [Application(contour) for contour in contours]
    threads = [threading.Thread(target=each.run) for each in applications]
    for thread in threads:
        thread.start()
    try:
        yield applications
    finally:
        for each in applications:
            each._stop.set()
        for thread in threads:
            thread.join()


def arrived(contours: list[Contour]) -> None:
    """Until what was written before now has arrived everywhere, and nothing is parked."""
    start = time.monotonic()

    def done() -> bool:
        for contour in contours:
            with connect(contour.settings, application_name="test") as connection:
                pairs = pairs_of(connection, contour.settings)
                waiting = connection.execute("select count(*) from replication.parked_events")
                if waiting.fetchone() != (0,):
                    return False
            ages = [p.arrived for p in pairs if p.contour != contour.name]
            elapsed = time.monotonic() - start
            if len(ages) != len(contours) - 1 or any(a is None or a > elapsed for a in ages):
                return False
        return True

    until(done, "everything to arrive")


def test_expand_write_contract_under_load(
    make_contours: MakeContours, kafka: EmbeddedKafka
) -> None:
    contours = make_contours(ITEMS, ["items"], **OPTIONS)
    a, _ = contours
    a.run("insert into items select n, 'hot', 1 from generate_series(0, %s) n", HOT - 1)
    with ExitStack() as windows:
        for contour in contours:
            windows.enter_context(publishing(contour.settings))
            windows.enter_context(applying(contour.settings))
        with writing(contours) as applications:
            change_everything(contours, applications)
        arrived(contours)
    assert same_rows(contours, "things")
    assert a.run("select distinct table_name from replication_queue") == [("items",)]
    own = {key: text for each in applications for key, text in each.own.items()}
    assert len(own) > 50
    for contour in contours:
        kept = dict(contour.run("select id, words from things where id >= 1000"))
        assert kept == own, "each row is as it was last written"
        assert contour.value("select max(amount) from things") > BIG


def change_everything(contours: list[Contour], applications: list[Application]) -> None:
    a, _ = contours

    def everywhere(change: str, then: Callable[[Application], None] = lambda _: None) -> None:
        """One contour after the other, and all write in between."""
        for application in applications:
            with application.contour.app.transaction():
                application.contour.run(change)
            then(application)
            for each in applications:
                each.goes_on()

    def release(name: Release) -> None:
        for application in applications:
            application.release = name
            application.goes_on()

    # note becomes words: the new column everywhere; then both are written, and it is filled in.
    everywhere("alter table items add column words text")
    release("both")
    arrived(contours)
    a.run("update items set words = note where words is distinct from note")
    arrived(contours)
    for contour in contours:
        assert contour.run("select id from items where words is distinct from note") == []
    release("new")
    # The former column travels no more, and goes when no event that has it is under way.
    everywhere(
        "select remove_table_from_replication('items'); "
        "select setup_table_for_replication('items', exclude => '{note}')"
    )
    arrived(contours)
    everywhere("alter table items drop column note")
    # A wider type, made use of as soon as the first contour has it.
    everywhere(
        "alter table items alter amount type bigint", lambda each: setattr(each, "release", "wide")
    )
    # The table's name. Events, topic and configuration keep the former one.
    everywhere("alter table items rename to things", lambda each: setattr(each, "table", "things"))


def test_a_renamed_table_keeps_its_name_in_commands(
    make_contours: MakeContours, kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    (a,) = make_contours(ITEMS, ["items"], count=1)
    a.run("alter table items rename to things; insert into things (id) values (1)")
    assert "items: captured" in call(a, tmp_path, "setup-table", "items").stdout
    told = call(a, tmp_path, "setup-table", "things").exception
    assert isinstance(told, RefusedError)
    assert "table things was renamed: it is items in events" in told.message
    assert "things_changes" not in " ".join(admin_client(a.settings).list_topics().topics)
    assert json.loads(call(a, tmp_path, "trace", "items", 1, "--json").stdout)["seen"]
    assert call(a, tmp_path, "remove-table", "items").exit_code == 0
    a.run("update things set note = 'x'; drop table things")
    a.run(ITEMS)
    assert "items: captured" in call(a, tmp_path, "setup-table", "items").stdout


def test_columns_are_renamed_while_applications_rest(
    make_contours: MakeContours, kafka: EmbeddedKafka
) -> None:
    """The key as well, of which events have another text then; and a wider key is used at once."""
    contours = make_contours(ITEMS.replace("bigint", "int"), ["items"])
    a, b = contours
    a.run("insert into items values (1, 'x', 1), (2, 'x', 1), (3, 'x', 1)")
    settle(contours, rounds=1)
    for contour in contours:
        contour.run("alter table items rename column note to words")
        contour.run("alter table items rename column id to number")
        contour.run("alter table items alter number type bigint")
    a.run("update items set words = 'y' where number = 1; delete from items where number = 2")
    b.run("insert into items values (%s, 'z', 1)", BIG)
    settle(contours, rounds=1)
    assert a.run("select number, words from items order by 1") == [(1, "y"), (3, "x"), (BIG, "z")]
    assert same_rows(contours, "items")
    for contour in contours:
        assert contour.run("select * from replication.parked_events") == []
