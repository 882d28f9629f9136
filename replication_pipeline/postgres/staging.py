"""Events of one table → rows of its stage, ready for COPY.

An event is decoded here rather than by PostgreSQL: its JSON is read once, and the server gets each
column as text, which its own input function reads. Values keep what the wire form keeps
(docs/events.md): integers and floats are exact in Python, numerics and all else travel as strings.

What an event is worth is not decided here, but for what it says of itself: columns that this table
doesn't have, a fenced contour, a date too far ahead. One that is no event at all, whose origin can't
be, or that nobody has signed who may, gets no row: it is noted, to be parked as it came. So garbage
costs less than events, however much comes. Nothing of what an event says is part of a statement.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from json.encoder import encode_basestring
from typing import Any, Final, Literal, NamedTuple

import msgspec

from replication_pipeline.domain.errors import PoisonError
from replication_pipeline.domain.model import Message
from replication_pipeline.domain.origins import Origins, readable
from replication_pipeline.domain.signatures import Verifier
from replication_pipeline.domain.version import MAX_CONTOUR_ID, contour_id_of, pack
from replication_pipeline.postgres.catalog import Column, Table

NEWEST: Final = 2**63 - 1  # no version is above it
LONGEST: Final = 20  # more digits than it has

Values = dict[str, Any]
Row = tuple[object, ...]


class _Source(msgspec.Struct):
    event_id: str
    contour: str
    row_version: int | str
    base_version: int | str | None = None
    snapshot: str | None = None
    to: str | None = None


class _Event(msgspec.Struct):
    op: Literal["c", "u", "d", "r"]
    source: _Source
    before: Values | None = None
    after: Values | None = None


DECODER: Final = msgspec.json.Decoder(_Event)
ANYBODY: Final = Origins()
NOT_OURS: Final = "not an event of replication_pipeline"


class Unfit(NamedTuple):
    """A message that got no row: its number, and why."""

    seq: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Judge:
    """By what an event is judged before anything is looked up. ``me``: whose events are left out, empty
    for nobody's. ``here``: what a snapshot sends to another contour is passed by, but for own events.
    ``newest_clock``: in µs since 1970, later ones are held. ``verifier``: what comes from Kafka has to
    be signed.
    """

    me: str
    here: str
    fenced: frozenset[str]
    newest_clock: int
    origins: Origins = ANYBODY
    verifier: Verifier | None = None


@dataclass(slots=True)
class Incoming:
    """What was noticed of a batch on the way. ``changes`` are the versions of changes: the age of a
    snapshot's rows does not tell how long they took.
    """

    rows: int = 0
    own: int = 0
    elsewhere: int = 0  # sent to another contour
    changes: list[int] = field(default_factory=list)
    deletes: int = 0
    lacking: bool = False  # an event lacks columns
    rivals: bool = False  # a key has several events
    unfit: list[Unfit] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the events of ``table``."""

    table: Table
    _names: frozenset[str]
    _columns: tuple[tuple[str, Callable[[Any], str | None], bool], ...]  # and whether text stays
    _key_names: frozenset[str]
    _keys: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, table: Table) -> Reader:
        return cls(
            table,
            frozenset(c.name for c in table.columns),
            tuple((c.name, _writer(c), _writer(c) is not _bytea) for c in table.columns),
            frozenset(table.keys),
            tuple(
                (key, f"{',' if n else '{'}{encode_basestring(key)}:")
                for n, key in enumerate(table.keys)
            ),
        )

    def read(self, messages: Sequence[Message], judge: Judge, found: Incoming) -> Iterator[Row]:
        """Rows in the order of ``create_stage`` up to the columns; ``seq`` counts messages from 1.

        One by one, so that the server reads the first ones while others are decoded; ``found`` is
        filled in at the end.
        """
        me, here, verifier, merges = judge.me, judge.here, judge.verifier, self.table.merges
        own, elsewhere, changes = 0, 0, found.changes
        newest = pack(judge.newest_clock, MAX_CONTOUR_ID)
        keys: set[object] = set()
        for seq, message in enumerate(messages, 1):
            try:
                event, version = _decode(message, judge.origins)
                if merges:  # PostgreSQL reads all of it: what is passed by here has to be text, too
                    (message.value or b"").decode()
                source = event.source
                if source.contour == me:
                    own += 1
                    continue
                if verifier is not None:
                    _verify(message, source.contour, verifier)
                if source.to is not None and here not in (source.to, source.contour):
                    elsewhere += 1
                    continue
                row = self._row(seq, event, version, newest, judge)
            except PoisonError as error:
                found.unfit.append(Unfit(seq, error.reason, error.message))
                continue
            except (msgspec.MsgspecError, RecursionError, ValueError):
                found.unfit.append(Unfit(seq, "malformed", NOT_OURS))
                continue
            found.deletes += event.op == "d"
            found.lacking |= row[7] is not None
            if source.snapshot is None and event.op != "r":
                changes.append(version)
            keys.add(row[6])
            yield row
        found.rows = len(messages) - own - elsewhere - len(found.unfit)
        found.own, found.elsewhere = own, elsewhere
        found.rivals = len(keys) < found.rows

    def _row(self, seq: int, event: _Event, version: int, newest: int, judge: Judge) -> Row:
        source, gone, base = event.source, event.op == "d", event.source.base_version
        values = event.before if gone else event.after
        # Only a snapshot brings rows that were there before their table was set up: version 0.
        if values is None or version < (event.op != "r") or not self._key_names <= values.keys():
            raise PoisonError(NOT_OURS, reason="malformed")
        missing = unknown = reason = None
        if not gone and values.keys() != self._names:
            missing, unknown = self._drift(values)
        if source.contour in judge.fenced:
            reason = "fenced_contour"
        elif unknown:
            reason = "unknown_column"
        elif version > newest:
            reason = "clock_skew"
        if gone and source.snapshot is not None:
            base = NEWEST  # long ago, and sent by somebody who has written nothing: no conflict
        return (
            seq,
            source.event_id,
            source.contour,
            version,
            base if base is None else _version(base),
            event.op,
            self._record_key(values),
            missing,
            "park" if reason else "apply",
            reason,
            unknown or "",
            *[
                value if type(value := values.get(name)) is str and plain else write(value)
                for name, write, plain in self._columns
            ],
        )

    def _drift(self, values: Values) -> tuple[str | None, str | None]:
        """Columns that the event lacks, as an array, and those that the table lacks, for people."""
        missing = sorted(self._names - values.keys())
        unknown = sorted(values.keys() - self._names)
        return _array(missing) if missing else None, readable(", ".join(unknown)) or None

    def _record_key(self, values: Values) -> str:
        """The canonical key, as ``replication.key_expression`` writes it at the source."""
        if len(self._keys) == 1:
            ((key, head),) = self._keys
            value = values[key]
            return f"{head}{value if type(value) is int else _as_jsonb(value)}}}"
        return "".join([head + _as_jsonb(values[key]) for key, head in self._keys]) + "}"


def _decode(message: Message, origins: Origins) -> tuple[_Event, int]:
    """An event and its version, if both may be its contour's."""
    event = DECODER.decode(message.value or b"")
    source = event.source
    version = _version(source.row_version)
    # What is of a snapshot carries the version of whoever wrote it, else one's own.
    mine = source.snapshot is None and event.op != "r"
    suspicion = origins.suspect(source.contour, contour_id_of(version) if mine else None)
    if suspicion is not None:
        raise PoisonError(suspicion.detail, reason=suspicion.reason)
    return event, version


def _verify(message: Message, contour: str, verifier: Verifier) -> None:
    """What has no seal has been verified, or never left home."""
    if message.seal is None:
        return
    objection = verifier.objection(contour, message.topic, message.seal, message.value or b"")
    if objection is not None:
        raise PoisonError(objection, reason="bad_signature")


def _version(told: int | str) -> int:
    """As PostgreSQL writes a bigint; Python would take more: signs, spaces, other scripts' digits."""
    if isinstance(told, int) or (told.isdigit() and told.isascii() and len(told) < LONGEST):
        version = int(told)
        if 0 <= version <= NEWEST:
            return version
    raise PoisonError("a version that is no number, or none of ours", reason="malformed")


def _as_jsonb(value: Any) -> str:
    """JSON as PostgreSQL prints jsonb: numbers without exponents, a space after each comma."""
    match value:
        case str():
            return encode_basestring(value)
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case None:
            return "null"
        case float():
            return format(Decimal(repr(value)), "f")
        case list():
            return "[" + ", ".join(_as_jsonb(each) for each in value) + "]"
        case _:
            raise PoisonError("a key of an unknown form", reason="malformed")


def _writer(column: Column) -> Callable[[Any], str | None]:
    if column.base_type == "bytea":
        return _bytea
    return _text if column.delimiter is None else partial(_array_or_text, column.delimiter)


def _text(value: Any) -> str | None:
    """A JSON value as PostgreSQL's input function takes it."""
    if value is None or type(value) is str:
        return value
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return msgspec.json.encode(value).decode()


def _bytea(value: Any) -> str | None:
    if value is None:
        return None
    try:
        return "\\x" + binascii.a2b_base64(value, strict_mode=True).hex()
    except (binascii.Error, ValueError, TypeError):
        raise PoisonError("a binary value that is not in base64", reason="bad_value") from None


def _array_or_text(delimiter: str, value: Any) -> str | None:
    """One-dimensional arrays travel as JSON's, others as text."""
    return _array(value, delimiter) if isinstance(value, list) else _text(value)


def _array(values: Iterable[Any], delimiter: str = ",") -> str:
    return "{" + delimiter.join([_element(value, delimiter) for value in values]) + "}"


def _element(value: Any, delimiter: str) -> str:
    if isinstance(value, list):
        return _array(value, delimiter)
    text = _text(value)
    if text is None:
        return "NULL"
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
