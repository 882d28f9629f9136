"""A claim costs what it takes, not what waits: pages and plans at two depths. Never time.

What is allowed stands in ``costs.toml``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pydantic import SecretStr

from bench import plans
from bench.database import with_database
from replication_pipeline.embedded import EmbeddedPostgres
from replication_pipeline.postgres.outbox import SQL, PostgresOutbox
from replication_pipeline_tests.conftest import Contour, MakeContours
from replication_pipeline_tests.integration.costs import costs_no_more, goes_as
from replication_pipeline_tests.integration.outbox import publisher
from replication_pipeline_tests.publishing import with_settings

pytestmark = [pytest.mark.integration, pytest.mark.costs]

ITEMS = "create table items (id bigint primary key, name text)"
SHALLOW, DEEP = 1000, 100_000
BATCH = 500
OF_A_SHARD = 100  # below `BATCH`: a turn of few events has statements of its own
WARM_UP = 3  # claims
INDEX = re.compile(r"^(?:Bitmap )?Index (?:Only )?Scan .*?by ")
CLAIMING = ("anything_waiting", "claim")


@contextmanager
def explained(contour: Contour) -> Iterator[PostgresOutbox]:
    """A publisher whose plans are logged."""
    dsn = SecretStr(with_database(contour.dsn, options=plans.LOGGED))
    postgres = contour.settings.postgres.model_copy(update={"dsn": dsn})
    settings = contour.settings.model_copy(update={"postgres": postgres})
    with publisher(with_settings(settings, publisher={"batch_size": OF_A_SHARD})) as outbox:
        yield outbox


def claimed(server: EmbeddedPostgres, contour: Contour) -> dict[str, plans.Plan]:
    """What a claim's statements did; its rows are given back."""
    with explained(contour) as outbox:
        for number in range(WARM_UP + 1):
            if number == WARM_UP:
                offset = server.log_file.stat().st_size
            claim = outbox.claim(BATCH)
            assert claim is not None
            assert claim.events
            outbox.commit(())
    found = plans.parse(plans.read_from(server.log_file, offset), SQL)
    return {plan.name: plan for plan in found if plan.name in CLAIMING}


def shape(plan: plans.Plan) -> str:
    """Its nodes without what was counted. Whether an index is read by way of a bitmap is left open:
    that follows the number of rows, and the index is what matters.
    """
    nodes = [line.partition(":")[0].strip() for line in plan.nodes]
    return "\n".join(
        INDEX.sub("Index Scan by ", node)
        for node in nodes
        if not node.startswith("Bitmap Heap Scan")
    )


def test_a_deep_queue_is_claimed_like_a_shallow_one(
    make_contours: MakeContours, postgres: EmbeddedPostgres
) -> None:
    (contour,) = make_contours(ITEMS, ["items"], count=1)
    contour.run("insert into items (id) select generate_series(1, %s)", SHALLOW)
    shallow = claimed(postgres, contour)
    contour.run("insert into items (id) select generate_series(%s::int, %s)", SHALLOW + 1, DEEP)
    unanalyzed = claimed(postgres, contour)
    contour.run("analyze replication_queue")
    deep = claimed(postgres, contour)
    for name in CLAIMING:
        assert shape(shallow[name]) == shape(unanalyzed[name]) == shape(deep[name])
        goes_as(f"claim_plan_of_{name}", shape(deep[name]))
    for depth, found in ((SHALLOW, shallow), (DEEP, deep)):
        costs_no_more(f"claim_pages_of_{depth}", sum(plan.blocks for plan in found.values()))
