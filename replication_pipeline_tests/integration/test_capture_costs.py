"""What capture costs those who write, in what can be counted: WAL, pages, dead rows. Never time.

What is allowed stands in ``costs.toml``. WAL is all that the writer's session writes, the row itself
included; the least of several goes counts, as a checkpoint makes the next one write whole pages.
"""

from __future__ import annotations

import psycopg
import pytest

from bench import plans
from bench.database import with_database
from bench.users import TABLE, insert
from replication_pipeline.embedded import EmbeddedPostgres
from replication_pipeline_tests.conftest import Contour, MakeContours
from replication_pipeline_tests.integration.costs import costs_no_more, wal_bytes

pytestmark = [pytest.mark.integration, pytest.mark.costs]

ROWS = 2000  # of a bulk statement
GOES = 4
SINGLE = 100  # transactions
WARM_UP = 10  # transactions: plans are kept from the sixth on
QUEUE = """
select sum(n_live_tup)::bigint, sum(n_dead_tup)::bigint from pg_stat_user_tables
 where schemaname = 'replication' and relname like 'replication_queue%'
"""


@pytest.fixture
def contour(make_contours: MakeContours) -> Contour:
    (contour,) = make_contours(TABLE, ["users"], count=1)
    return contour


def written(session: psycopg.Connection, *statements: str) -> int:
    """Bytes of WAL by these, each a transaction."""
    before = wal_bytes(session)
    for statement in statements:
        session.execute(statement)
        session.commit()
    return wal_bytes(session) - before


def test_a_row_of_a_bulk_statement_writes_little_wal(contour: Contour) -> None:
    session = contour.session()
    found: dict[str, list[int]] = {"insert": [], "update": [], "delete": []}
    for go in range(GOES):
        first, last = go * ROWS + 1, (go + 1) * ROWS
        between = f"where id between {first} and {last}"
        for name, statement in {
            "insert": insert(first, last),
            "update": f"update users set balance = balance + 1 {between}",
            "delete": f"delete from users {between}",
        }.items():
            found[name].append(written(session, statement))
    for name, bytes_ in found.items():
        costs_no_more(f"capture_{name}_wal", min(bytes_) / ROWS)
    contour.run("select pg_stat_force_next_flush()")
    ((live, dead),) = contour.run(QUEUE)
    assert live == GOES * ROWS * 3
    costs_no_more("capture_dead_rows", dead / live)


def test_a_single_row_writes_little_wal(contour: Contour) -> None:
    session = contour.session()
    written(session, *(insert(-number, -number) for number in range(1, WARM_UP + 1)))
    inserts, updates = [], []
    for go in range(GOES):
        ids = range(go * SINGLE + 1, (go + 1) * SINGLE + 1)
        inserts.append(written(session, *(insert(id_, id_) for id_ in ids)))
        updates.append(
            written(
                session,
                *(f"update users set balance = balance + 1 where id = {id_}" for id_ in ids),
            )
        )
    costs_no_more("capture_single_insert_wal", min(inserts) / SINGLE)
    costs_no_more("capture_single_update_wal", min(updates) / SINGLE)


def test_a_single_row_touches_few_pages(contour: Contour, postgres: EmbeddedPostgres) -> None:
    """Statements within the triggers included."""
    nested = plans.LOGGED + " -c auto_explain.log_nested_statements=on"
    with psycopg.connect(with_database(contour.dsn, options=nested), autocommit=True) as session:
        for number in range(1, WARM_UP + 1):
            session.execute(insert(-number, -number))
        offset = postgres.log_file.stat().st_size
        session.execute(insert(1, 1))
        session.execute("select 1")
        found = plans.parse(plans.read_from(postgres.log_file, offset), {})
    assert any("users" in line for plan in found for line in plan.nodes)
    assert sum("replication_queue" in line for plan in found for line in plan.nodes) >= 1
    costs_no_more("capture_single_insert_pages", sum(plan.blocks for plan in found))
    assert not [
        line for plan in found for line in plan.nodes if line.strip().startswith("Seq Scan")
    ]
