"""PostgreSQL's errors as verdicts: one table from SQLSTATE to retry, park or halt.

Only the primary message and names of objects are passed on. DETAIL is never read: it quotes rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

import psycopg

from replication_pipeline.domain.errors import (
    FatalError,
    PoisonError,
    RefusedError,
    ReplicationError,
    TransientError,
)

Verdict = Literal["retry", "park", "halt"]

# Classes whose primary message names servers and objects only. Others may quote values, above all
# those that a user's own function raises.
TOLD_IN_FULL: Final = ("08", "25", "28", "3D", "3F", "40", "42", "53", "55", "57", "58")

# The longest matching prefix decides.
VERDICTS: Final[dict[str, Verdict]] = {
    "08": "retry",  # connection exceptions
    "10": "park",  # an XQuery expression and its content
    "21": "park",  # cardinality violation
    "22": "park",  # data exceptions: a value that does not fit here
    "23": "park",  # integrity constraints
    "25": "halt",  # invalid transaction state: our own mistake
    "25006": "retry",  # read-only transaction: a standby, until the failover is over
    "25P03": "retry",  # idle in transaction too long
    "25P04": "retry",  # transaction timeout
    "28": "halt",  # authorisation
    "3D": "halt",  # no such database
    "3F": "halt",  # no such schema
    "40": "retry",  # rollback: serialization failure, deadlock
    "42501": "halt",  # insufficient privilege
    "42": "halt",  # our own statements are wrong here: parking every event would hide it
    "42703": "park",  # undefined column, 42804 datatype mismatch, 42846 no such cast:
    "42804": "park",  # the shape of the event is not the table's
    "42846": "park",
    "428C9": "park",  # generated always
    "53": "retry",  # insufficient resources: disk, memory, connections
    "54": "park",  # program limit exceeded: a value too large for an index
    "55": "halt",  # a table in no state for this: published without replica identity, for example
    "55006": "retry",  # object in use
    "55P03": "retry",  # lock not available
    "55P04": "retry",  # a value of an enum that is not committed yet
    "57": "retry",  # statement timeout, shutting down, starting up
    "58": "retry",  # system errors
    "58P": "halt",  # a file is missing or there twice: of the data, or of an extension
    "72": "retry",  # snapshot too old
    "P0": "park",  # raised by a user's trigger or check
    "XX": "halt",  # corrupted data
}

# PostgreSQL's own classes that are not in the table: they halt. Any other state was made up by a
# user's function, which refuses the event: park.
OWN_CLASSES: Final = (
    *("00", "01", "02", "03", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "20", "24", "26", "27"),
    *("2B", "2D", "2F", "34", "38", "39", "3B", "44", "F0", "HV"),
)

REMEDIES: Final[dict[str, str]] = {
    "26": "connect to PostgreSQL itself, or through a pool that keeps a session to one connection",
    "28": "check the user, the password and pg_hba.conf",
    "3D": "create the database, or mend postgres.dsn",
    "3F": "install the SQL first: replication-pipeline init",
    "42P01": "install the SQL first: replication-pipeline init",
    "42883": "the installed SQL is older than this program: replication-pipeline init",
    "42501": "grant this role replication_publisher and replication_consumer; "
    "replication-pipeline init grants the rest",
}

_REFUSAL: Final = re.compile(r"failed: FATAL: +(.+)")


def verdict(sqlstate: str) -> Verdict:
    """What to do about an error. PostgreSQL's own that the table doesn't know halt: going on might
    lose something.
    """
    for length in range(5, 1, -1):
        if found := VERDICTS.get(sqlstate[:length]):
            return found
    return "halt" if sqlstate[:2] in OWN_CLASSES else "park"


def translate(error: psycopg.Error, doing: str) -> ReplicationError:
    """The verdict's error for ``error``; ``doing`` says what was attempted, for people."""
    state = error.sqlstate
    if state is None:
        return _translate_client_side(error, doing)
    message = (
        f"{doing}: {(error.diag.message_primary or _kind(error)).strip()} (SQLSTATE {state})"
        if state.startswith(TOLD_IN_FULL)
        else _safe(error, doing)
    )
    remedy = next((REMEDIES[state[:n]] for n in (5, 2) if state[:n] in REMEDIES), None)
    match verdict(state):
        case "retry":
            return TransientError(message, kind=f"PostgreSQL: {_kind(error)}")
        case "park":
            return PoisonError(_safe(error, doing), reason=reason_of(state), remedy=remedy)
        case "halt":
            return FatalError(message, remedy=remedy)


def _translate_client_side(error: psycopg.Error, doing: str) -> ReplicationError:
    """Errors that psycopg raised by itself: of the connection, of a value, or of this program."""
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        # libpq tells no SQLSTATE of a login that was refused, so a wrong password is retried like a
        # server that is starting up. The server's own words say which it is; they name no values.
        refusal = _REFUSAL.search(str(error))
        why = refusal[1] if refusal else _kind(error)
        return TransientError(
            f"{doing}: the connection to PostgreSQL failed ({why})",
            kind="PostgreSQL: connection failed",
        )
    if isinstance(error, psycopg.DataError):
        return PoisonError(f"{doing}: a value that can't be sent", reason="malformed")
    return FatalError(f"{doing}: {_kind(error)}", remedy="this is a bug; please report it")


def reason_of(sqlstate: str) -> str:
    """The reason under which an event with this error is parked."""
    if sqlstate in ("23505", "23P01"):  # an exclusion constraint is a unique one of another kind
        return "unique_conflict"
    if sqlstate == "42703":
        return "unknown_column"
    if sqlstate.startswith(("23", "P0")):
        return "constraint"
    return "bad_value"


@contextmanager
def translating(doing: str) -> Iterator[None]:
    """Turn psycopg's errors inside the block into ours, cause kept out of sight of logs."""
    try:
        yield
    except psycopg.Error as error:
        translated = translate(error, doing)
        if isinstance(translated, PoisonError):
            raise translated from None  # the original quotes row values
        raise translated from error


@contextmanager
def translating_refusals(doing: str) -> Iterator[None]:
    """For statements that an operator runs: whatever is not an outage is refused for good, in the
    words of the database and with its hint as the remedy.
    """
    try:
        yield
    except psycopg.Error as error:
        translated = translate(error, doing)
        if isinstance(translated, TransientError):
            raise translated from error
        message = (error.diag.message_primary or type(error).__name__).strip()
        remedy = error.diag.message_hint or translated.remedy
        raise RefusedError(f"{doing}: {message}", remedy=remedy) from error


def _safe(error: psycopg.Error, doing: str) -> str:
    """Like the primary message, but of data exceptions, which quote values there, only the class."""
    diag = error.diag
    where = ", ".join(
        f"{label} {value}"
        for label, value in (
            ("table", diag.table_name),
            ("column", diag.column_name),
            ("constraint", diag.constraint_name),
        )
        if value
    )
    return f"{doing}: {_kind(error)} (SQLSTATE {error.sqlstate}{', ' + where if where else ''})"


def _kind(error: psycopg.Error) -> str:
    """``UniqueViolation`` → ``unique violation``."""
    name = type(error).__name__
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()
