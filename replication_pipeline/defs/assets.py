"""External assets: tables → queue → topics → applied. Dagster shows them; windows report on them.

They are external because no single run "makes" them: several windows work on the queue at once, all
day. Every contour's location declares the topics it uses, so ``["kafka", topic]`` is declared more
than once; Dagster joins the declarations and draws the lineage of all contours through the topic.
"""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from replication_pipeline.domain.names import topic_for
from replication_pipeline.settings import Settings


def table_key(contour: str, table: str) -> dg.AssetKey:
    """A replicated table as applications write it."""
    return dg.AssetKey([contour, "tables", table])


def queue_key(contour: str) -> dg.AssetKey:
    """The contour's queue of captured changes."""
    return dg.AssetKey([contour, "replication_queue"])


def topic_key(topic: str) -> dg.AssetKey:
    """A Kafka topic, shared by all contours."""
    return dg.AssetKey(["kafka", topic])


def applied_key(contour: str, table: str) -> dg.AssetKey:
    """What arrived in a table from other contours."""
    return dg.AssetKey([contour, "applied", table])


def assets(settings: Settings) -> Sequence[dg.AssetSpec]:
    """The assets of one contour, in the order in which a change passes them."""
    contour = settings.contour.name
    queue = queue_key(contour)
    specs = [
        dg.AssetSpec(
            table_key(contour, table),
            description=f"Table `{table}` of contour `{contour}`, as applications write it. A "
            "trigger captures every change in the transaction that makes it.",
            kinds={"postgres", "table"},
            group_name=contour,
        )
        for table in settings.tables
    ]
    specs.append(
        dg.AssetSpec(
            queue,
            deps=[table_key(contour, table) for table in settings.tables],
            description="Captured changes that wait for Kafka. Each publish window reports here "
            "when it ends, even with no events: events, speed, lag, failures. The checks say "
            "whether events leave faster than they arrive.",
            kinds={"postgres"},
            group_name=contour,
        )
    )
    for table in settings.tables:
        topic = topic_for(table, prefix=settings.kafka.topic_prefix)
        specs.append(
            dg.AssetSpec(
                topic_key(topic),
                deps=[queue],
                description=f"Changes of table `{table}` from every contour, keyed by primary "
                "key, so that changes of one row keep their order.",
                kinds={"kafka"},
                group_name="kafka",
            )
        )
        specs.append(
            dg.AssetSpec(
                applied_key(contour, table),
                deps=[topic_key(topic)],
                description=f"Changes of other contours, applied to `{table}` of contour "
                f"`{contour}` where they are newer. Each apply window reports here when it ends.",
                kinds={"postgres", "table"},
                group_name=contour,
            )
        )
    return specs
