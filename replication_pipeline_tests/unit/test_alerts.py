"""When people are told: once for each trouble, however it comes and goes and whoever was away."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication_pipeline.defs import signals
from replication_pipeline.domain.alerts import NEW, Alert, Level, Receiver, Signal, follow, worst
from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.health import ContourStatus
from replication_pipeline.domain.watch import (
    ApplyLag,
    Outcomes,
    Pair,
    Parked,
    QueueHealth,
    Watch,
)
from replication_pipeline.notify import Message, NotificationError
from replication_pipeline.settings import Settings

pytestmark = pytest.mark.unit

CLEAR_AFTER = 30.0
OK: Level | None = "ok"
WARNING: Level | None = "warning"
CRITICAL: Level | None = "critical"
LEVELS: list[Level | None] = [OK, WARNING, CRITICAL, None]
STATUS = ContourStatus(
    contour="a",
    unpublished=0,
    oldest_unpublished_seconds=0.0,
    parked_publish=0,
    held_publish=0,
    parked_apply=0,
    publishers=1,
    appliers=1,
    apply_lag_events=0,
    processed_total=0,
    failed_total=0,
    applied_total=0,
    skipped_total=0,
    conflicts_total=0,
)
HEALTHY = Watch(
    status=STATUS,
    outcomes=Outcomes(1_000, 0, 1_000, 0),
    queue=QueueHealth(0, 8_192, 0.0, "", sees_everybody=True),
    lags=[ApplyLag("users_changes", 0, 3.0), ApplyLag("orders_changes", 0, 3.0)],
    pairs=[Pair("a", "active", 4.0, 12.0, 0.0), Pair("b", "active", 5.0, 14.0, 0.002)],
)


@pytest.fixture
def settings() -> Settings:
    return Settings(
        contour={"name": "a", "id": 1},
        postgres={"dsn": "host=db.invalid"},
        kafka={"bootstrap_servers": "kafka.invalid:1"},
        tables=["users", "orders"],
    )


@dataclass
class Recorder:
    """A receiver that keeps what it is told, while it is there."""

    name: str = "recorder"
    away: bool = False
    told: list[Message] = field(default_factory=list)

    def send(self, message: Message) -> None:
        if self.away:
            raise NotificationError(f"{self.name}: away")
        self.told.append(message)

    @property
    def titles(self) -> list[str]:
        return [f"{message.alert} {message.level}" for message in self.told]


def told(levels: Iterable[Level | None], *, every: float = 5.0, after: float = 0.0) -> list[Level]:
    """The changes of level that come of a look every few seconds."""
    alert, changes = NEW, []
    for number, level in enumerate(levels, start=1):
        followed = follow(
            alert, Signal(level, "", after=after), now=number * every, clear_after=CLEAR_AFTER
        )
        if followed.level != alert.level:
            changes.append(followed.level)
        alert = followed
    return changes


def test_warning_critical_and_over_are_told_once_each() -> None:
    assert told([OK, *[WARNING] * 4, *[CRITICAL] * 50, *[OK] * 20]) == ["warning", "critical", "ok"]


def test_a_lag_that_swings_about_its_threshold_is_one_trouble() -> None:
    assert told([WARNING, OK, OK] * 100) == ["warning"]


def test_from_critical_to_warning_only_when_it_stays_so() -> None:
    assert told([CRITICAL, WARNING, CRITICAL, WARNING, CRITICAL]) == ["critical"]
    assert told([CRITICAL, *[WARNING] * 10]) == ["critical", "warning"]
    assert told([CRITICAL, *([WARNING, OK] * 5)]) == ["critical", "warning"]


def test_what_lasts_less_than_after_is_not_told() -> None:
    assert told([CRITICAL, CRITICAL, OK] * 20, after=15.0) == []
    assert told([CRITICAL] * 4, after=15.0) == ["critical"]
    # The mildest that lasted so long is told; the worse one when that has lasted, too.
    assert told([WARNING, CRITICAL, CRITICAL, CRITICAL], after=15.0) == ["warning"]


def test_what_cannot_be_seen_is_neither_there_nor_over() -> None:
    assert told([CRITICAL, *[None] * 50]) == ["critical"]
    assert told([CRITICAL, *[OK, OK, OK, None] * 10]) == ["critical"]
    assert told([None] * 50) == []


def test_what_keeps_coming_back_must_be_away_longer_each_time() -> None:
    """Half a minute of trouble and 40 s without, for an hour."""
    assert told(([CRITICAL] * 6 + [OK] * 8) * 52) == ["critical", "ok", "critical"]


@given(st.lists(st.sampled_from(LEVELS), max_size=200))
def test_levels_follow_each_other_and_end_where_the_looks_end(looks: list[Level | None]) -> None:
    changes = told([*looks, *[OK] * 120])
    assert all(a != b for a, b in itertools.pairwise(changes))
    assert not changes or changes[-1] == "ok"
    assert len(changes) <= 3 + 3 * len(looks) / 7, "half a minute lies before each way down"


def test_the_worst_level_counts_and_fine_only_if_all_are() -> None:
    assert worst(["ok", "critical", None, "warning"]) == "critical"
    assert worst(["ok", None]) is None
    assert worst(["ok", "ok"]) == "ok"


def ticks(
    settings: Settings, sights: Iterable[Watch | TransientError], *receivers: Recorder
) -> signals.Memory:
    """A look every 5 s, with the memory written and read in between as the sensor does."""
    cursor: str | None = None
    now = 1_000_000.0
    for sight in sights:
        memory, _ = signals.look(sight, signals.Memory.read(cursor), settings, now=now)
        known, _ = signals.tell("a", memory.alerts, memory.receivers, receivers, now=now)
        cursor = replace(memory, receivers=known).write(now=now)
        now += 5.0
    return signals.Memory.read(cursor)


def late(seconds: float) -> Watch:
    status = replace(STATUS, unpublished=7, oldest_unpublished_seconds=seconds)
    return replace(HEALTHY, status=status)


def test_a_healthy_contour_is_silent(settings: Settings) -> None:
    recorder = Recorder()
    memory = ticks(settings, [HEALTHY] * 200, recorder)
    assert recorder.told == []
    assert len(memory.write(now=1.0)) < 600, "it is stored with every tick"


def test_lag_is_told_above_10_and_30_seconds_and_when_it_is_over(settings: Settings) -> None:
    recorder = Recorder()
    ages = [4.0, 9.9, 10.0, 10.1, 25.0, 30.0, 30.1, 500.0, *[0.0] * 10]
    ticks(settings, [late(age) for age in ages], recorder)
    assert recorder.titles == [
        "publish_lag warning", "publish_lag critical", "publish_lag ok",
    ]  # fmt: skip
    first, second, over = recorder.told
    assert "10.1 s" in first.text
    assert "publish run" in first.advice
    assert first.id == second.id == over.id
    assert over.at - over.began == 55.0, (
        "from the fourth look to the one half a minute after the ninth"
    )


def test_no_publisher_is_told_after_a_while_and_that_one_is_back(settings: Settings) -> None:
    recorder = Recorder()
    down = replace(HEALTHY, status=replace(STATUS, publishers=0))
    ticks(settings, [HEALTHY, down, down, HEALTHY], recorder)
    assert recorder.told == [], "between two windows there may be none for a moment"
    ticks(settings, [*[down] * 5, *[HEALTHY] * 10], recorder)
    assert recorder.titles == ["publisher_down critical", "publisher_down ok"]


def test_without_windows_to_keep_an_idle_queue_needs_no_publisher(settings: Settings) -> None:
    few = {"publisher": settings.publisher.model_copy(update={"min_publishers": 0})}
    recorder = Recorder()
    idle = replace(HEALTHY, status=replace(STATUS, publishers=0))
    ticks(settings.model_copy(update=few), [idle] * 10, recorder)
    assert recorder.told == []
    waiting = replace(idle, status=replace(idle.status, unpublished=1))
    ticks(settings.model_copy(update=few), [waiting] * 10, recorder)
    assert recorder.titles == ["publisher_down critical"]


def test_a_database_that_is_away_is_told_and_nothing_else_is_called_over(
    settings: Settings,
) -> None:
    recorder = Recorder()
    away = TransientError("contour a: connection refused")
    ticks(settings, [late(40.0), *[away] * 20], recorder)
    assert recorder.titles == ["publish_lag critical", "contour_unknown critical"]


def test_one_alert_for_all_tables_that_lag(settings: Settings) -> None:
    recorder = Recorder()
    lags = [ApplyLag("users_changes", 20_000, 1.0), ApplyLag("orders_changes", 3, 90.0)]
    ticks(settings, [replace(HEALTHY, lags=lags)] * 5, recorder)
    assert recorder.titles == ["apply_lag warning"]
    assert recorder.told[0].text.startswith("users: 20000 events are still in Kafka. orders: 3")


def test_alerts_that_are_off_are_not_told(settings: Settings) -> None:
    many = replace(HEALTHY, status=replace(STATUS, unpublished=5_000))
    recorder = Recorder()
    ticks(settings, [many] * 5, recorder)
    assert recorder.told == []
    loud = settings.monitoring.model_copy(update={"alerts_off": []})
    ticks(settings.model_copy(update={"monitoring": loud}), [many] * 5, recorder)
    assert recorder.titles == ["unpublished_count warning"]


def test_a_receiver_that_was_away_is_told_what_stands_and_the_others_at_once(
    settings: Settings,
) -> None:
    good, bad = Recorder("good"), Recorder("bad", away=True)

    def sights() -> Iterable[Watch]:
        yield from [late(40.0), *[HEALTHY] * 12]  # comes and goes while `bad` is away
        yield from [late(12.0)] * 2
        bad.away = False
        yield from [late(12.0)] * 80

    ticks(settings, sights(), good, bad)
    assert good.titles == ["publish_lag critical", "publish_lag ok", "publish_lag warning"]
    assert bad.titles == ["publish_lag warning"]


def test_a_receiver_that_comes_back_after_an_hour_is_told_that_it_is_over(
    settings: Settings,
) -> None:
    recorder = Recorder()

    def sights() -> Iterable[Watch]:
        yield late(40.0)
        recorder.away = True
        yield from [HEALTHY] * 720
        recorder.away = False
        yield from [HEALTHY] * 61

    ticks(settings, sights(), recorder)
    assert recorder.titles == ["publish_lag critical", "publish_lag ok"]
    assert recorder.told[0].id == recorder.told[1].id


def test_a_receiver_that_is_away_is_tried_less_and_less(settings: Settings) -> None:
    tries: list[float] = []

    class Away:
        name = "away"

        def send(self, message: Message) -> None:
            tries.append(1)
            raise NotificationError("away")

    ticks(settings, [late(40.0)] * 720, Away())  # type: ignore[arg-type]
    assert 10 < len(tries) < 25, "an hour"


def test_a_lost_memory_repeats_what_stands_and_misses_nothing(settings: Settings) -> None:
    recorder = Recorder()
    for cursor in (None, "", "{}", '{"called_for": 1}', "not json"):
        memory, _ = signals.look(late(40.0), signals.Memory.read(cursor), settings, now=5.0)
        signals.tell("a", memory.alerts, memory.receivers, [recorder], now=5.0)
    assert recorder.titles == ["publish_lag critical"] * 5


def test_the_memory_survives_its_cursor(settings: Settings) -> None:
    memory = signals.Memory(
        verdicts={"publish_lag": ("ok", 3.0)},
        samples=[(1.0, 2, 3)],
        alerts={"publish_lag": Alert("warning", "text", "advice", 1.0, 1.0, "ok", 4.0, 2)},
        receivers={"log": Receiver({"publish_lag": "warning"}, 2, 9.0)},
        deep={"setup": ("warning", "text")},
        deep_at=7.0,
    )
    assert signals.Memory.read(memory.write(now=10.0)) == memory


def test_the_error_rate_is_that_of_the_last_minutes() -> None:
    samples: list[tuple[float, int, int]] = []

    def look(now: float, processed: int, failed: int) -> float | None:
        nonlocal samples
        found, refusals = signals.sampled(
            samples, Outcomes(processed, failed, 0, 0), now=now, window=60.0
        )
        samples = list(found)
        return None if refusals is None else round(refusals.rate, 4)

    assert look(0.0, 1_000_000, 500) is None
    assert look(20.0, 1_000_990, 510) == 0.01
    assert look(60.0, 1_001_980, 510) == 0.005
    assert [look(60.0 + t, 1_002_000 + t, 510) for t in (20, 40, 60, 80)][-1] == 0.0
    assert len(samples) <= 6
    assert look(200.0, 10, 2) is None, "counters of another database are no reason to worry"


@pytest.mark.parametrize(
    ("check", "watch", "verdict", "words"),
    [
        ("error_rate", replace(HEALTHY, outcomes=Outcomes(0, 0, 989, 11)), "warning", "1.10%"),
        ("error_rate", replace(HEALTHY, outcomes=Outcomes(0, 0, 991, 9)), "ok", "0.90%"),
        ("error_rate", replace(HEALTHY, outcomes=Outcomes(0, 0, 0, 0)), "ok", "0 of 0"),
        (
            "parked_events",
            replace(HEALTHY, parked=[Parked("apply", "users", "missing_parent", 3, 20.0)]),
            "ok",
            "3 events wait",
        ),
        (
            "parked_events",
            replace(HEALTHY, parked=[Parked("apply", "users", "missing_parent", 3, 61.0)]),
            "warning",
            "users, missing_parent",
        ),
        (
            "parked_events",
            replace(HEALTHY, parked=[Parked("publish", "users", "refused by Kafka", 1, 0.5)]),
            "warning",
            "refused by Kafka",
        ),
        (
            "heartbeat",
            replace(HEALTHY, pairs=[Pair("b", "active", 61.0, None, None)]),
            "warning",
            "b is silent for 61 s",
        ),
        (
            "heartbeat",
            replace(HEALTHY, pairs=[Pair("b", "fenced", 1e6, None, None)]),
            "error",
            "Fenced: b",
        ),
        ("heartbeat", replace(HEALTHY, pairs=[]), "unknown", "No contour was heard"),
        (
            "queue_health",
            replace(HEALTHY, queue=QueueHealth(2_000_000, 1, 7_300.0, "session 7 of bob", True)),
            "warning",
            "2000000 dead rows; session 7 of bob is open for 2 h",
        ),
        (
            "queue_health",
            replace(HEALTHY, status=replace(STATUS, held_publish=100)),
            "warning",
            "100 events are held",
        ),
        (
            "apply_lag",
            replace(HEALTHY, status=replace(STATUS, appliers=0)),
            "unknown",
            "No applier is alive",
        ),
    ],
)
def test_verdicts(settings: Settings, check: str, watch: Watch, verdict: str, words: str) -> None:
    _, found = signals.look(watch, signals.Memory(), settings, now=1.0)
    finding = next(f for f in found if f.check == check)
    assert (finding.verdict, words in finding.description) == (verdict, True), finding.description


def test_verdicts_on_tables_share_the_pace_of_one(settings: Settings) -> None:
    """Two tables: each is stored every two minutes, so that together they are one row a minute."""
    minute = settings.monitoring.model_copy(update={"check_interval": timedelta(minutes=1)})
    settings = settings.model_copy(update={"monitoring": minute})
    memory = signals.Memory()
    stored = []
    for tick in range(60):
        now = 1_000.0 + 5 * tick
        memory, found = signals.look(HEALTHY, memory, settings, now=now)
        chosen, verdicts = signals.verdicts(found, memory, now=now, settings=settings)
        memory = replace(memory, verdicts=verdicts)
        stored += [finding.id for finding in chosen]
    assert stored.count("error_rate") == stored.count("queue_health") == 5
    assert stored.count("apply_lag:users") == stored.count("apply_lag:orders") == 3
