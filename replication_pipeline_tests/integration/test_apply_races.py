"""A local writer gets in between two statements of an apply transaction: the moments for which it takes
locks, guards its writes and looks at tombstones once more.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from replication_pipeline.embedded.process import wait_until
from replication_pipeline.postgres import few_events
from replication_pipeline_tests.conftest import MakeContours
from replication_pipeline_tests.integration.place import Carried, Place

pytestmark = pytest.mark.integration

DDL = """
create table parent (id int primary key, value text);
create table child (id int primary key, parent_id int not null references parent on delete cascade)
"""


@pytest.fixture(autouse=True, params=["at once", "in steps"])
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A few events go in one round trip, but here also as a large batch would."""
    if request.param == "in steps":
        monkeypatch.setattr(few_events, "MOST_EVENTS", 0)
    return bool(request.param == "at once")


@pytest.fixture
def places(make_contours: MakeContours) -> Iterator[tuple[Place, Place]]:
    """Contour a, and contour b, whose clock is ahead: what is written there is newer."""
    a, b = (Place(contour) for contour in make_contours(DDL, ["parent", "child"]))
    b.set_clock(30)
    yield a, b
    a.close()
    b.close()


@contextmanager
def delivering(place: Place, carried: list[Carried]) -> Iterator[list[Carried]]:
    """Applied in a thread, which waits for a local writer in the block. What has to come again."""
    left: list[Carried] = []
    applier = threading.Thread(target=lambda: left.extend(place.deliver(carried)), daemon=True)
    applier.start()
    waiting = (
        "select exists (select from pg_stat_activity where datname = current_database() "
        "and application_name = 'replicator_consumer' and wait_event_type = 'Lock')"
    )
    wait_until(lambda: bool(place.contour.value(waiting)), timeout=20, what="the applier to wait")
    yield left
    applier.join(20)
    assert not applier.is_alive()


def writer(place: Place) -> psycopg.Connection[Any]:
    """A local transaction that is left open."""
    return place.contour.session()


def test_a_newer_insert_that_commits_meanwhile_is_not_overwritten(
    places: tuple[Place, Place],
) -> None:
    a, b = places
    a.contour.run("insert into parent values (1, 'older')")
    local = writer(b)
    local.execute("insert into parent values (1, 'newer')")
    with delivering(b, a.publish()) as left:
        local.commit()
    assert left == []
    assert b.contour.run("select value from parent") == [("newer",)]


def test_a_row_deleted_meanwhile_does_not_come_back(
    places: tuple[Place, Place], at_once: bool
) -> None:
    a, b = places
    a.contour.run("insert into parent values (1, 'older')")
    carried = a.publish()
    local = writer(b)
    local.execute("insert into parent values (1, 'newer')")
    with delivering(b, carried) as left:
        local.execute("delete from parent")
        local.commit()
    assert left == ([] if at_once else carried)  # it is decided again, at once or the next time
    assert b.deliver(left) == []
    assert b.contour.run("select value from parent") == []


def test_a_child_waits_for_a_parent_that_is_being_deleted(places: tuple[Place, Place]) -> None:
    a, b = places
    a.contour.run("insert into parent values (1, 'parent')")
    b.deliver(a.publish())
    a.contour.run("insert into child values (1, 1)")
    local = writer(b)
    local.execute("delete from parent")
    with delivering(b, a.publish()):
        local.commit()
    assert b.contour.run("select id from child") == []


def test_a_parent_is_not_deleted_under_a_child_that_commits_meanwhile(
    places: tuple[Place, Place],
) -> None:
    a, b = places
    a.contour.run("insert into parent values (1, 'parent')")
    b.deliver(a.publish())
    a.contour.run("delete from parent")
    local = writer(b)
    local.execute("insert into child values (1, 1)")
    with delivering(b, a.publish()):
        local.commit()
    orphans = "select id from child where parent_id not in (select id from parent)"
    assert b.contour.run(orphans) == []
