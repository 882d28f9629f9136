"""Scenario ``queue-health``: a queue that is deep, and one that vacuum can't clean.

``depth``: how long a claim of one batch takes with so many events waiting; then once more after 20,000
were published below them beside a session whose REPEATABLE READ snapshot keeps vacuum from removing
anything. ``snapshot``: an hour of changes is captured and published, once by itself and once beside
such a session; claims, polls of the empty queue and marks are timed at the beginning, half-way and at
the end.

Everything goes through the publisher's own ``PostgresOutbox``; "published" means claimed and marked,
there is no Kafka. A claim that is only timed is committed unsettled, which gives its rows back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import ClassVar, Final

import psycopg
from rich.console import Console

from bench import plans, users
from bench.contestants.ours import Ours, contour_settings
from bench.database import copy_of, make_template, settle_down, sizes, with_database
from bench.measure import rotated, warm_up
from bench.results import Recorder, Result, recorder
from replication_pipeline.domain.model import BatchResult
from replication_pipeline.embedded import EmbeddedPostgres
from replication_pipeline.postgres.outbox import SQL, PostgresOutbox

# An hour of events passes in about a minute, so the autovacuum launcher comes by each second.
SERVER: Final[Mapping[str, str]] = {"autovacuum": "on", "autovacuum_naptime": "1s"}
FILL_AT_ONCE: Final = 1000  # rows a transaction while filling
CAPTURED_AT_ONCE: Final = 1000  # rows a transaction during the hour: what 500/s make in 2 s
CLAIMS: Final = 20  # timed for one value, the median of them
WARM_UP_CLAIMS: Final = 3
SHARE: Final = 0.05  # of the hour that "begin", "half" and "end" each stand for
ALONE, HELD = "alone", "snapshot held"
PUBLISHED_BELOW: Final = 20_000  # events, at each depth, while the snapshot is held
AIM: Final = 1.5  # a claim at any depth, by one at the least
BY_DEPTH: Final = "claim by depth"
SETTLING: Final = ("mark_published", "count_published")


def outbox_of(dsn: str) -> PostgresOutbox:
    return PostgresOutbox(contour_settings(dsn), instance="bench")


def milliseconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def claim_only(outbox: PostgresOutbox, batch: int) -> float:
    """Milliseconds of a claim whose rows are then given back, on the same connection."""
    spent = milliseconds(lambda: outbox.claim(batch))
    outbox.commit(())
    return spent


def explained(server: EmbeddedPostgres, dsn: str, batch: int) -> list[plans.Plan]:
    """What a claim's statements did, by a publisher whose plans are logged."""
    with closing(outbox_of(with_database(dsn, options=plans.LOGGED))) as outbox:
        for _ in range(WARM_UP_CLAIMS):
            claim_only(outbox, batch)
        offset = server.log_file.stat().st_size
        claim_only(outbox, batch)  # a plan is logged when the next statement comes
    found = plans.parse(plans.read_from(server.log_file, offset), SQL)
    return [plan for plan in found if plan.name in SQL and plan.name not in SETTLING]


def print_plans(console: Console, title: str, found: list[plans.Plan]) -> None:
    console.print(f"[bold]{title}[/]", highlight=False)
    for plan in found:
        console.print(
            f"  {plan.name}: {plan.milliseconds:.2f} ms, {plan.blocks} blocks", highlight=False
        )
        for line in plan.nodes:
            console.print("    " + line, highlight=False, markup=False, soft_wrap=True)


@dataclass(slots=True)
class Hour:
    """Times in milliseconds as the hour goes on, each with the share of it that had passed."""

    claims: list[tuple[float, float]] = field(default_factory=list)
    polls: list[tuple[float, float]] = field(default_factory=list)
    marks: list[tuple[float, float]] = field(default_factory=list)

    def at(self, samples: list[tuple[float, float]]) -> dict[str, float]:
        """Medians around the beginning, the middle and the end."""
        windows = {
            "begin": (0.0, SHARE),
            "half": (0.5 - SHARE / 2, 0.5 + SHARE / 2),
            "end": (1.0 - SHARE, 1.0),
        }
        found = {
            name: [spent for passed, spent in samples if low <= passed <= high]
            for name, (low, high) in windows.items()
        }
        return {name: median(values) for name, values in found.items() if values}


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueHealth:
    server: ClassVar[Mapping[str, str]] = SERVER
    depths: tuple[int, ...] = (1_000, 100_000, 1_000_000, 5_000_000)
    """The least one first."""
    events: int = 200_000
    """Captured and published in the "hour"; 1.8 million are one of 500 events/s."""
    batch: int = 500
    rounds: int = 2

    def run(self, server: EmbeddedPostgres, console: Console) -> list[Result]:
        template = make_template(server, Ours())
        waiting = {depth: f"{depth:,} waiting".replace(",", " ") for depth in self.depths}
        hours = [f"{kind}, {when}" for kind in (ALONE, HELD) for when in ("begin", "half", "end")]
        results = recorder(
            "queue-health",
            server,
            contestants=[*waiting.values(), *map(held, waiting.values()), *hours],
            published_below=PUBLISHED_BELOW,
            aim_of_claims_by_depth=f"{AIM} times that of {self.depths[0]} waiting",
            events=self.events,
            batch=self.batch,
            rounds=self.rounds,
            captured_at_once=CAPTURED_AT_ONCE,
            claims_per_value=CLAIMS,
            warm_up=f"{WARM_UP_CLAIMS} claims; 1000 rows published before each hour",
        )
        self._depths(server, console, template, waiting, results)
        for turn in range(1, self.rounds + 1):
            for kind in rotated([ALONE, HELD], turn):
                console.print(f"round {turn} of {self.rounds}: an hour, {kind}", highlight=False)
                self._hour(server, console, template, results, kind=kind, turn=turn)
        return results.results

    def _depths(
        self,
        server: EmbeddedPostgres,
        console: Console,
        template: str,
        waiting: Mapping[int, str],
        results: Recorder,
    ) -> None:
        with ExitStack() as open_until_done:
            outboxes: dict[str, PostgresOutbox] = {}
            databases: dict[str, str] = {}
            for depth, name in waiting.items():
                console.print(f"filling: {name}", highlight=False)
                dsn = open_until_done.enter_context(copy_of(server, template, f"depth {depth}"))
                fill(dsn, 1, depth)
                databases[name] = dsn
                outboxes[name] = open_until_done.enter_context(closing(outbox_of(dsn)))
            least = self._claims(server, console, databases, outboxes, results)
            for depth, name in waiting.items():
                console.print(f"publishing with a snapshot held: {name}", highlight=False)
                dsn, outbox = databases.pop(name), outboxes.pop(name)
                open_until_done.enter_context(snapshot(dsn))
                fill(dsn, depth + 1, depth + PUBLISHED_BELOW)
                publish(outbox, self.batch, PUBLISHED_BELOW)
                databases[held(name)], outboxes[held(name)] = dsn, outbox
            self._claims(server, console, databases, outboxes, results, least=least)

    def _claims(
        self,
        server: EmbeddedPostgres,
        console: Console,
        databases: Mapping[str, str],
        outboxes: Mapping[str, PostgresOutbox],
        results: Recorder,
        *,
        least: Mapping[int, float] = {},
    ) -> dict[int, float]:
        """Times of the first one by round; all are compared with ``least``, or else with them."""
        for name, outbox in outboxes.items():
            found = explained(server, databases[name], self.batch)
            print_plans(console, f"claim with {name}", found)
            blocks = sum(plan.blocks for plan in found)
            results.add(name, f"{BY_DEPTH}, blocks", blocks, "blocks", run=1)
            for _ in range(WARM_UP_CLAIMS):
                claim_only(outbox, self.batch)
        first: dict[int, float] = {}
        for turn in range(1, self.rounds + 1):
            spent = {
                name: median(claim_only(outbox, self.batch) for _ in range(CLAIMS))
                for name, outbox in rotated([*outboxes.items()], turn)
            }
            first[turn] = spent[next(iter(outboxes))]
            for name, of_one in spent.items():
                results.add(name, BY_DEPTH, of_one, "ms", run=turn)
                ratio = of_one / (least or first)[turn]
                results.add(name, f"{BY_DEPTH}, by that of the least", ratio, "times", run=turn)
        return first

    def _hour(
        self,
        server: EmbeddedPostgres,
        console: Console,
        template: str,
        results: Recorder,
        *,
        kind: str,
        turn: int,
    ) -> None:
        with copy_of(server, template) as dsn, closing(outbox_of(dsn)) as outbox:
            hour = Hour()
            with psycopg.connect(dsn, autocommit=True) as application:
                warm_up(application)
                drain(outbox, self.batch)
                with snapshot(dsn) if kind == HELD else nullcontext():
                    for first in range(1, self.events + 1, CAPTURED_AT_ONCE):
                        last = min(first + CAPTURED_AT_ONCE - 1, self.events)
                        application.execute(users.insert(first, last))
                        drain(outbox, self.batch, hour, passed=last / self.events)
                    # One more batch, so that there is something to claim.
                    application.execute(users.insert(self.events + 1, self.events + self.batch))
                    found = explained(server, dsn, self.batch)
                tables, indexes = sizes(application)
            for metric, samples in (
                ("claim", hour.claims),
                ("poll of the empty queue", hour.polls),
                ("mark as published", hour.marks),
            ):
                for when, spent in hour.at(samples).items():
                    results.add(f"{kind}, {when}", metric, spent, "ms", run=turn)
            end = f"{kind}, end"
            blocks = sum(plan.blocks for plan in found)
            results.add(end, "claim, blocks", blocks, "blocks", run=turn)
            results.add(end, "queue", (tables + indexes) / self.events, "bytes/event", run=turn)
            if turn == 1:
                print_plans(console, f"claim after the hour, {kind}", found)


def held(name: str) -> str:
    return f"{name}, {HELD}"


def fill(dsn: str, first: int, last: int) -> None:
    """Capture rows that nobody publishes, one event each."""
    with psycopg.connect(dsn, autocommit=True) as application:
        for start in range(first, last + 1, FILL_AT_ONCE):
            application.execute(users.insert(start, min(start + FILL_AT_ONCE - 1, last)))
        settle_down(application)


def publish(outbox: PostgresOutbox, batch: int, events: int) -> None:
    """The oldest ones, a multiple of ``batch`` at least; more must be there."""
    published = 0
    while published < events:
        claim = outbox.claim(batch)
        assert claim is not None
        count = len(claim.events)
        outbox.settle(claim.events)
        outbox.commit([BatchResult(role="publisher", count=count, processed=count)])
        published += count


def drain(
    outbox: PostgresOutbox, batch: int, hour: Hour | None = None, *, passed: float = 0.0
) -> None:
    """Publish until nothing waits; note the times."""
    times = hour or Hour()
    while True:
        began = time.perf_counter()
        claim = outbox.claim(batch)
        spent = (time.perf_counter() - began) * 1000
        if claim is None:
            times.polls.append((passed, spent))
            return
        times.claims.append((passed, spent))
        count = len(claim.events)
        done = BatchResult(role="publisher", count=count, processed=count)
        began = time.perf_counter()
        outbox.settle(claim.events)
        outbox.commit([done])
        times.marks.append((passed, (time.perf_counter() - began) * 1000))


def snapshot(dsn: str) -> psycopg.Connection:
    """A session that has looked at the queue in REPEATABLE READ, and stays in its transaction."""
    connection = psycopg.connect(dsn)
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.execute("select count(*) from replication.replication_queue")
    return connection
