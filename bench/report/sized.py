"""The computed part of docs/sizing.md: tables of what ``bench.sizing`` makes of the newest results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bench.report.markdown import paragraph, table
from bench.report.runs import Run
from bench.report.summary import number
from bench.sizing import (
    BROKER,
    BUSY,
    CALIBRATED,
    DATABASE,
    MICRO,
    PARTITIONS,
    Costs,
    Load,
    NotMeasuredError,
    calibrated,
    costs_of,
    knobs,
    many_tables,
    most,
    nearest_end,
    need,
    pace,
    tables_touched,
)
from replication_pipeline.settings import Settings

BEGIN: Final = (
    "<!-- Computed by bench/sizing.py from bench/results: python -m bench report --write -->"
)
END: Final = "<!-- End of what is computed. -->"

TABLES: Final = 100
FULL_BATCH: Final = 5000
LOADS: Final = (
    Load(what="2 contours, 1,000 each", contours=2, events=1_000),
    Load(what="2 contours, 10,000 each", contours=2, events=10_000),
    Load(what="10 contours, 1,000 each", contours=10, events=1_000),
    Load(what="10 contours, 10,000 each", contours=10, events=10_000),
    Load(what="2 contours, 100,000 each", contours=2, events=100_000),
    Load(what="10 contours, 100,000 each: a million", contours=10, events=100_000),
)
RATES: Final = (50.0, 200.0, 1000.0, 3000.0, 10_000.0)
CONTOURS: Final = (2, 3, 10)
CORES: Final = (4, 16, 64)


def section(runs: Sequence[Run]) -> str:
    """The computed part of docs/sizing.md."""
    try:
        costs = costs_of(runs)
    except NotMeasuredError as missing:
        return f"Not computed: there is no result of {missing}.\n"
    return _limits(costs) + _steady(costs) + _scale(costs) + _tables(costs)


def replaced(text: str, computed: str) -> str:
    """``text`` with what is between the marks replaced. Raises ``ValueError`` without marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs/sizing.md has lost its marks: {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{computed.strip()}\n\n{END}{after}"


def _of(value: float | None) -> str:
    return number(value, group=",")


def _limits(costs: Costs) -> str:
    def alone(*microseconds: float) -> str:
        return _of(MICRO / max(microseconds))

    def shares(process: float, backends: float, broker: float) -> str:
        return f"its process {_of(process)}, its backends {_of(backends)}, the broker {_of(broker)}"

    rows = [
        (
            "one publisher",
            _of(costs.publisher_speed),
            alone(costs.publisher, costs.publisher_backend),
            shares(costs.publisher, costs.publisher_backend, costs.publishing_broker),
        ),
        (
            "one applier, and so one partition",
            _of(costs.applier_speed),
            alone(costs.applier, costs.applier_backend),
            shares(costs.applier, costs.applier_backend, costs.applying_broker),
        ),
        (
            "a core of the PostgreSQL that is written to",
            "",
            alone(costs.source),
            f"capture {_of(costs.capture)}, publisher's backends {_of(costs.publisher_backend)}",
        ),
        (
            "a core of a PostgreSQL that applies",
            "",
            alone(costs.applier_backend),
            f"applier's backends {_of(costs.applier_backend)}",
        ),
        (
            "a core of the broker",
            "",
            alone(costs.publishing_broker + costs.applying_broker),
            f"written {_of(costs.publishing_broker)}, read once {_of(costs.applying_broker)}",
        ),
    ]
    return (
        "### What one of each can do\n\n"
        + paragraph(
            "Events a second with full batches: measured on two shared cores, and computed for",
            "processes that have a core each. Microseconds are processor time an event.",
        )
        + table(("", "measured, events/s", "at most, events/s", "µs/event"), rows)
        + paragraph(
            f"WAL: {_of(costs.capture_wal)} bytes a row captured, {_of(costs.publish_wal)} an event",
            f"published, {_of(costs.apply_wal)} an event applied.",
        )
    )


def _steady(costs: Costs) -> str:
    turns = calibrated(costs)
    rows = []
    for rate in sorted({*RATES, *costs.steady}):
        found = pace(rate, turns, costs.whole / MICRO)
        note = "" if costs.kept.get(rate, True) else " (the writer fell behind)"
        rows.append(
            (
                f"{rate:,g}",
                f"{found.events_a_turn:,.1f}",
                number(found.cores),
                number(costs.steady.get(rate)) + note,
                f"{found.p50:,.1f}",
                number(costs.steady_p50.get(rate)) + note,
            )
        )
    measured = ("cores, measured", "p50, ms", "p50, ms, measured")
    return (
        "### Single-row transactions at a steady pace\n\n"
        + paragraph(
            "The more events come, the more of them share a turn of publisher and applier. What a turn",
            f"costs beside its events is taken from what was measured at {CALIBRATED:g} a second:",
            f"{1000 * turns.cpu:.1f} ms of processor time and {1000 * turns.wait:.1f} ms of waiting,",
            "publisher and applier together. All else is simulated, for one publisher and one applier",
            "with cores to spare; measured figures beside it are a check. Cores are those of all that",
            "replicates, both databases' part and the broker's included.",
        )
        + table(("transactions/s", "events a turn", "cores", *measured), rows)
    )


def _scale(costs: Costs) -> str:
    return (
        "### Many contours, many events\n\n"
        + paragraph(
            "Every contour applies what all others write, and all events are of one table. Cores are",
            f"{BUSY:.0%} busy, batches are full, a PostgreSQL has up to {DATABASE} cores, a broker",
            f"{BROKER}. All but the brokers is of each contour.",
        )
        + table(
            (
                *("events/s", "publishers", "appliers", "their memory, GiB", "their cores"),
                *("PostgreSQL's cores", "WAL, MB/s", "all brokers' cores", "knobs to turn"),
                "nearest end",
            ),
            [_scaled(load, costs) for load in LOADS],
        )
        + paragraph(
            "The most that each contour can write, by the cores of its PostgreSQL, in events a second:"
        )
        + table(
            ("contours", *(f"{cores} cores" for cores in CORES)),
            [
                (str(contours), *(f"{most(contours, cores, costs):,.0f}" for cores in CORES))
                for contours in CONTOURS
            ],
        )
        + paragraph(
            "So the databases end first: each row is written in every contour, and no number",
            "of publishers, partitions or brokers changes that. Past it, what must be equal",
            "everywhere has to become less: tables that only some contours need go to a pair",
            "of databases of their own, and a table that is too hot is split by key over",
            "several databases, each with a pipeline of its own. Kafka is not an end:",
            "partitions of such topics are on brokers of their own.",
        )
    )


def _scaled(load: Load, costs: Costs) -> tuple[str, ...]:
    needed = need(load, costs)
    end, share = nearest_end(load, needed)
    return (
        load.what,
        str(needed.publishers),
        str(needed.appliers),
        f"{needed.memory:,.1f}",
        number(needed.pipeline_cores),
        number(needed.database_cores),
        f"{needed.wal:,.1f}",
        number(needed.broker_cores),
        ", ".join(knobs(needed)) or "none",
        f"{end}, {share:.0%} taken" if share <= 1 else f"**beyond** {end}: {share:.0%}",
    )


def _tables(costs: Costs) -> str:
    turns = calibrated(costs)
    alone = many_tables(FULL_BATCH, 1, turns, costs)
    spread = many_tables(FULL_BATCH, TABLES, turns, costs)
    appliers = Settings.model_fields["consumer"].default.max_appliers
    return f"### {TABLES} tables\n\n" + paragraph(
        f"{TABLES} topics with {PARTITIONS} partitions each are {TABLES * PARTITIONS} partitions,",
        f"shared by up to {appliers} appliers of a contour. A batch of {FULL_BATCH:,} events then has",
        f"rows of {tables_touched(FULL_BATCH, TABLES):.0f} tables, and each table has statements of",
        f"its own: an event's applying takes at most {spread:,.0f} µs of processor time instead of",
        f"{alone:,.0f}, as if each table's part were a turn by itself. Publishing and capture don't",
        "depend on the number of tables.",
    )
