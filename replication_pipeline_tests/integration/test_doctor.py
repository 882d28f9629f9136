"""``doctor`` names what is missing, and what it says to do is enough."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from replication_pipeline.domain.errors import FatalError
from replication_pipeline.domain.findings import Finding
from replication_pipeline.embedded import EmbeddedPostgres
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.doctor import examine
from replication_pipeline.settings import Settings
from replication_pipeline_tests.conftest import Contour, MakeContours
from replication_pipeline_tests.integration.wire import wire_between
from replication_pipeline_tests.publishing import with_settings

pytestmark = pytest.mark.integration

# `notes` is not replicated; deleting a parent has to look at it.
TABLES = """
create schema shop;
create table shop.parents (id bigint primary key, name text);
create table shop.children (id bigint primary key, parent bigint references shop.parents);
create table notes (id bigint primary key, parent bigint references shop.parents)
"""
ROLE = "doctor_test"


@contextmanager
def role_in(contour: Contour) -> Iterator[Settings]:
    """A login role without any right, and the contour's settings for it."""
    contour.run(f"create role {ROLE} login")
    try:
        yield with_settings(contour.settings, postgres={"user": ROLE})
    finally:
        contour.run(f"drop owned by {ROLE}; drop role {ROLE}")


def look(settings: Settings) -> list[Finding]:
    with connect(settings, application_name="test", check=False) as connection:
        return examine(connection, settings)


def to_mend(settings: Settings) -> list[Finding]:
    return [finding for finding in look(settings) if finding.severity == "mend"]


def test_following_its_remedies_is_enough_to_replicate(make_contours: MakeContours) -> None:
    a, b = make_contours(TABLES, ["shop.parents", "shop.children"])
    # As where the installing role is no superuser, so that nothing refuses it.
    b.run("alter event trigger replication_follow_ddl disable")
    b.run("alter table shop.children enable row level security")
    b.run("revoke insert on shop.children from replication_consumer")
    b.run("revoke usage on schema shop from replication_consumer")
    with role_in(b) as settings:
        seen: list[str] = []
        while wrong := to_mend(settings):
            remedy = wrong[0].remedy
            assert remedy not in seen, wrong
            seen.append(remedy)
            b.run(remedy)
        assert seen == [
            f"grant replication_publisher, replication_consumer to {ROLE};",
            "grant usage on schema shop to replication_consumer;",
            "grant select on notes to replication_consumer;",
            "grant insert on shop.children to replication_consumer;",
            f"alter role {ROLE} bypassrls;",
        ]
        b.settings = settings
        a.run("insert into shop.parents values (1), (2); insert into shop.children values (7, 1)")
        with wire_between([a, b], seed=1) as wire:
            wire.run_dry()
            a.run("delete from shop.parents where id = 2; update shop.children set id = 8")
            wire.run_dry()
        assert b.run("select id, parent from shop.children") == [(8, 1)]
        assert b.run("select id from shop.parents") == [(1,)]


def test_a_database_without_an_installation_says_so(postgres: EmbeddedPostgres) -> None:
    dsn = postgres.create_database("doctor_empty")
    settings = Settings(
        contour={"name": "a", "id": 1},
        postgres={"dsn": dsn},
        kafka={"bootstrap_servers": "unused:1"},
        tables=["users"],
    )
    with pytest.raises(FatalError) as error:
        look(settings)
    assert error.value.remedy == "install the SQL first: replication-pipeline init"
