"""Parked events on a terminal: the list, and one event with its image.

Whatever came from a row or from Kafka is text to be shown, never markup or control characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from replication_pipeline.cli.common import printable
from replication_pipeline.domain.parked import HINTS
from replication_pipeline.postgres.parked import BackingOff, ParkedEvent

KEY_SHOWN: Final = 60  # characters of a key in the list
LINES_SHOWN: Final = 40  # of an image
LINE_SHOWN: Final = 400  # characters of one of them


def plain(event: ParkedEvent) -> dict[str, Any]:
    """For JSON; a version exceeds 2^53, so it is a string there as in events."""
    return asdict(event) | {"version": None if event.version is None else str(event.version)}


def listing(events: Sequence[ParkedEvent]) -> Table:
    """A line an event, without values of rows."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    when = "since" if events[0].parked_at else "next attempt"
    for name in ("side", "id", when, "table", "key", "tries", "behind", "reason"):
        numeric = name in ("id", "tries", "behind")
        table.add_column(
            name, justify="right" if numeric else "left", no_wrap=name not in ("key", "table")
        )
    table.add_column("detail", overflow="fold")
    for event in events:
        time = event.parked_at or event.retry_at
        cells = (
            event.side,
            str(event.id),
            f"{time:%m-%d %H:%M:%S}" if time else "",
            event.table_name or "?",
            _cut(event.record_key or "?", KEY_SHOWN),
            str(event.attempts),
            "-" if event.behind is None else f"{event.behind:,}",
            event.reason,
            event.detail,
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def back_off_line(backing_off: BackingOff) -> str:
    """What a list of parked events leaves out."""
    due = backing_off.next_attempt or 0
    count = backing_off.count
    return (
        f"{events_(count)} in back-off: refused, to be tried again, next attempt "
        f"{f'in {due:.0f} s' if due >= 1 else 'now'} (parked list --backing-off)"
    )


Shapes = tuple[str | None, str | None] | None


def fact_sheet(event: ParkedEvent, size: int | None, shapes: Shapes = None) -> Table:
    """Everything about one event but its image. ``shapes``: fingerprints there and here that differ."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    facts = {
        "event": f"{event.side} {event.id}, id {event.event_id or 'unknown'}",
        "table": event.table_name or "unknown",
        "key": event.record_key or "unknown",
        "operation": event.operation or "",
        "version": "unknown" if event.version is None else str(event.version),
        "reason": event.reason,
        "detail": event.detail,
        "blocked by": event.blocked_by or "",
        "hint": HINTS.get(event.reason, ""),
        "attempts": f"{event.attempts:,}",
    }
    if shapes:
        facts["columns"] = f"differ: {shapes[0]} where it was written, {shapes[1] or 'none'} here"
    if event.parked_at:
        facts["parked"] = f"{event.parked_at:%Y-%m-%d %H:%M:%S %Z}, {_ago(event.parked_at)} ago"
    if event.retry_at and not event.parked_at:
        facts["next attempt"] = f"{event.retry_at:%Y-%m-%d %H:%M:%S %Z}"
    if event.behind is not None:
        facts["behind it"] = f"{events_(event.behind)} of its key"
    facts["size"] = "no image" if size is None else f"{size:,} bytes"
    for label, value in facts.items():
        if value:
            table.add_row(label, Text(printable(value)))
    return table


def image_lines(image: bytes, size: int, *, full: bool) -> Iterator[str]:
    """The image, one value a line; cut unless ``full``."""
    text = image.decode(errors="replace")
    lines = pretty(text) if text.lstrip()[:1] in ("{", "[") else iter(text.splitlines())
    for number, line in enumerate(lines):
        if not full and number == LINES_SHOWN:
            yield f"… {size:,} bytes in all; --full shows them"
            return
        yield printable(line if full else _cut(line, LINE_SHOWN))
    if not full and len(image) < size:
        yield f"… {size:,} bytes in all; --full shows them"


def pretty(text: str) -> Iterator[str]:
    """Lines of indented JSON. Works on the text as it is: numbers keep their digits, and a text that
    was cut off is shown as far as it goes.
    """
    depth, line, quoted, escaped = 0, "", False, False
    for character in text:
        if quoted:
            line += character
            quoted = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character in "{[":
            yield line + character
            depth += 1
            line = "  " * depth
        elif character in "}]":
            if line.strip():
                yield line
            depth -= 1
            line = "  " * depth + character
        elif character == ",":
            yield line + character
            line = "  " * depth
        elif not character.isspace():
            line += ": " if character == ":" else character
            quoted = character == '"'
    if line.strip():
        yield line


def as_json(event: ParkedEvent, image: tuple[bytes, int] | None, shapes: Shapes = None) -> str:
    """One document; the event stands in it with its own digits, or as a string if it is not JSON."""
    facts = plain(event) | {
        "hint": HINTS.get(event.reason),
        "size": image[1] if image else None,
        "fingerprints": shapes and {"there": shapes[0], "here": shapes[1]},
    }
    head = json.dumps(facts, default=str)[:-1]
    return f'{head}, "event": {_json_value(image[0]) if image else "null"}}}'


def _json_value(image: bytes) -> str:
    try:
        text = image.decode()
        json.loads(text)
    except ValueError:
        return json.dumps(image.decode(errors="replace"))
    return text


def events_(count: int) -> str:
    """``1 event``, ``2 events``."""
    return f"{count:,} event{'' if count == 1 else 's'}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _ago(time: datetime) -> str:
    seconds = max(0.0, (datetime.now(UTC) - time).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
