"""The asset graph of a contour: tables → queue → topics → applied, and what is parked beside it.

All but the queue and the parked events are external: Dagster shows them, and windows and
``console_sensor`` report on them. No single run "makes" them: several windows work at once, all day.
Every contour's location declares the topics it uses, so ``["kafka", topic]`` is declared more than
once; Dagster joins the declarations and draws the lineage of all contours through the topic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import dagster as dg

from replication_pipeline.domain.names import topic_for
from replication_pipeline.settings import Settings

RUNBOOK: Final = "docs/operate.md"


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


def parked_key(contour: str) -> dg.AssetKey:
    """Events that wait for an operator, by side and reason."""
    return dg.AssetKey([contour, "parked_events"])


def assets(settings: Settings) -> Sequence[dg.AssetSpec]:
    """The external assets of one contour, in the order in which a change passes them."""
    contour, owners = settings.contour.name, settings.monitoring.owners
    queue = queue_key(contour)
    specs = [
        dg.AssetSpec(
            table_key(contour, table),
            description=f"Table `{table}` of contour `{contour}`, as applications write it. A "
            "trigger captures every change in the transaction that makes it. The plots show its "
            "size, and how many of its changes wait for Kafka.",
            kinds={"postgres", "table"},
            owners=owners,
            group_name=contour,
            metadata={**table_links(settings, table), **runbook(settings, "add-a-table")},
        )
        for table in settings.tables
    ]
    for table in settings.tables:
        topic = topic_of(settings, table)
        specs.append(
            dg.AssetSpec(
                topic_key(topic),
                deps=[queue],
                description=f"Changes of table `{table}` from every contour, keyed by primary "
                "key, so that changes of one row keep their order.",
                kinds={"kafka"},
                owners=owners,
                group_name="kafka",
                metadata={**topic_links(settings, topic), **runbook(settings, "add-a-table")},
            )
        )
        specs.append(
            dg.AssetSpec(
                applied_key(contour, table),
                deps=[topic_key(topic)],
                description=f"Changes of other contours, applied to `{table}` of contour "
                f"`{contour}` where they are newer. Each apply window reports here when it ends; "
                "in between the plots show how far behind Kafka it is and what is parked.",
                kinds={"postgres", "table"},
                owners=owners,
                group_name=contour,
                metadata={
                    **table_links(settings, table),
                    **topic_links(settings, topic),
                    **runbook(settings, "retry-a-parked-event"),
                },
            )
        )
    return specs


def all_keys(settings: Settings) -> Sequence[dg.AssetKey]:
    """Every asset that this contour's location declares."""
    contour = settings.contour.name
    external = [spec.key for spec in assets(settings)]
    return [*external, queue_key(contour), parked_key(contour)]


def topic_of(settings: Settings, table: str) -> str:
    """The topic of a table."""
    return topic_for(table, prefix=settings.kafka.topic_prefix)


def runbook(settings: Settings, section: str) -> Mapping[str, Any]:
    """Where it says what to do: a link, if the configuration knows the address."""
    address = settings.monitoring.runbook_url
    if address is None:
        return {"runbook": f"{RUNBOOK}#{section}"}
    return {"runbook": dg.MetadataValue.url(f"{address}#{section}")}


def table_links(settings: Settings, table: str) -> Mapping[str, Any]:
    """A table's names, and its page in a console."""
    address = settings.monitoring.table_url
    schema, _, relation = table.rpartition(".")
    return {
        "dagster/table_name": f"{schema or 'public'}.{relation}",
        **({"table": dg.MetadataValue.url(address.format(table=table))} if address else {}),
    }


def topic_links(settings: Settings, topic: str) -> Mapping[str, Any]:
    """A topic's name, and its page in a console."""
    address = settings.monitoring.topic_url
    return {"topic": dg.MetadataValue.url(address.format(topic=topic)) if address else topic}
