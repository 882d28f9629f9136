"""On backlog parents are read before their children, which would else wait parked for them."""

from __future__ import annotations

import pytest

from replication_pipeline_tests.conftest import MakeContours, same_rows

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("kafka")]

FAMILY = """
create table parents (id bigint primary key);
create table children (id bigint primary key, parent bigint not null references parents);
create table leaves (id bigint primary key, child bigint not null references children)
"""
ROWS = 6_000  # of each table


def test_a_backlog_of_parents_and_children_is_hardly_ever_parked(
    make_contours: MakeContours,
) -> None:
    contours = a, b = make_contours(FAMILY, ["parents", "children", "leaves"])
    # Row by row, as events travel in the order of their capture.
    a.run(f"insert into parents select generate_series(1, {ROWS})")
    a.run(f"insert into children select g, g from generate_series(1, {ROWS}) g")
    a.run(f"insert into leaves select g, g from generate_series(1, {ROWS}) g")
    a.publish()
    totals = b.apply()
    assert totals.end == "drained"
    for table in ("parents", "children", "leaves"):
        assert same_rows(contours, table)
    assert b.value("select count(*) from parked_events") == 0
    # Nothing is known of the logs' ends before the first events are here.
    assert totals.parked <= ROWS / 10
