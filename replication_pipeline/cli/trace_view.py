"""One row's story on a terminal and as JSON.

Whatever came from a row or from Kafka is text to be shown, never markup or control characters.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from replication_pipeline.cli.common import printable
from replication_pipeline.domain.story import Event
from replication_pipeline.domain.storytelling import standing
from replication_pipeline.tracing import Story


def show(console: Console, story: Story) -> None:
    """What stands now, the timeline, and what is still open."""
    console.print(Text(printable(f"{story.table} {story.key}"), style="bold"))
    for name, why in story.unreached.items():
        console.print(
            Text(printable(f"! not asked: {name}: {why}"), style="yellow"), soft_wrap=True
        )
    if not story.seen:
        console.print("was never seen: no row, no delete and no event of it is left anywhere")
        _tell_of_search(console, story)
        return
    console.print("\n[bold]now[/]")
    console.print(_now(story))
    console.print("\n[bold]what happened[/]")
    console.print(_timeline(story))
    open_ = [
        (event, contour, text)
        for event in story.events
        for contour, text in story.decisions[event.event_id].items()
        if text.startswith(("not read", "has not reached", "parked"))
    ]
    waiting = [e for e in story.events if e.queued is not None and e.queued.state != "published"]
    if open_ or waiting:
        console.print("\n[bold]still open[/]")
        lines = [(e, e.contour, f"{e.queued.state} in the queue") for e in waiting if e.queued]
        console.print(_lines([*lines, *open_], _numbers(story)))
    _tell_of_search(console, story)


def _tell_of_search(console: Console, story: Story) -> None:
    found = story.search
    if found is None:
        return
    if found.partition is None:
        console.print(f"[yellow]Kafka has no topic {story.topic}[/]")
        return
    missing = [e for e in story.events if e.queued and e.queued.published_at and not e.records]
    if found.left:
        console.print(
            f"[yellow]{found.left:,} messages of {story.topic} were not read: --kafka-seconds "
            "gives more time[/]",
            soft_wrap=True,
        )
    elif missing and found.cut:
        console.print(
            f"[yellow]{len(missing)} published events are no longer in Kafka: it has removed the "
            f"beginning of {story.topic}[/]",
            soft_wrap=True,
        )
    elif missing:
        console.print(
            f"[bold red]{len(missing)} published events are not in {story.topic} "
            f"\\[{found.partition}]: was the topic made anew?[/]",
            soft_wrap=True,
        )


def _now(story: Story) -> Table:
    table = _grid()
    for trail in story.trails:
        cells = (trail.contour, standing(trail, story.names), trail.values or "")
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _timeline(story: Story) -> Table:
    table = _grid()
    values = {e.event_id: v for e in story.events if (v := _values(e))}
    numbers = _numbers(story)
    shown: set[str] = set()
    for moment in story.timeline:
        id_ = moment.event_id or ""
        first = f", event {id_}: {values.get(id_, '')}" if id_ and id_ not in shown else ""
        shown.add(id_)
        cells = (
            f"{moment.at:%Y-%m-%d %H:%M:%S.%f}"[:-3],
            moment.where,
            numbers.get(id_, ""),
            moment.what + first.removesuffix(": "),
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _numbers(story: Story) -> dict[str, str]:
    """Events by their place in the order of versions; ids of one moment look alike."""
    return {event.event_id: f"#{n}" for n, event in enumerate(story.events, start=1)}


def _values(event: Event) -> str:
    if event.queued is not None and event.queued.values:
        return event.queued.values
    return next((r.values for r in event.records if r.values), "")


def _lines(lines: list[tuple[Event, str, str]], numbers: dict[str, str]) -> Table:
    table = _grid()
    for event, contour, text in lines:
        cells = (contour, numbers[event.event_id], f"{event.operation}: {text}")
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _grid() -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for _ in range(4):
        table.add_column(overflow="fold")
    return table


def plain(story: Story) -> dict[str, Any]:
    """For JSON; versions exceed 2^53, so they are strings there as in events."""
    return {
        "table": story.table,
        "key": story.key,
        "topic": story.topic,
        "seen": story.seen,
        "unreached": story.unreached,
        "now": [
            {
                "contour": trail.contour,
                "version": _text(trail.version),
                "deleted_by": _text(trail.buried[0] if trail.buried else None),
                "displaced": trail.displaced is not None,
                "parked": len(trail.parked),
                "conflicts": len(trail.conflicts),
                "values": trail.values,
            }
            for trail in story.trails
        ],
        "events": [
            {
                "event_id": event.event_id,
                "contour": event.contour,
                "operation": event.operation,
                "version": _text(event.version),
                "base_version": _text(event.base_version),
                "state": event.queued.state if event.queued else None,
                "captured_at": event.queued.created_at if event.queued else None,
                "published_at": event.queued.published_at if event.queued else None,
                "last_error": event.queued.last_error if event.queued else None,
                "kafka": [
                    {"partition": r.partition, "offset": r.offset, "at": r.at}
                    for r in event.records
                ],
                "contours": story.decisions[event.event_id],
                "values": _values(event) or None,
            }
            for event in story.events
        ],
        "timeline": [
            {
                "at": moment.at,
                "where": moment.where,
                "what": moment.what,
                "event_id": moment.event_id,
                "version": _text(moment.version),
            }
            for moment in story.timeline
        ],
        "kafka": None
        if story.search is None
        else {
            "since": story.since,
            "partition": story.search.partition,
            "unread": story.search.left,
            "beginning_removed": story.search.cut,
        },
    }


def _text(version: int | None) -> str | None:
    return None if version is None else str(version)
