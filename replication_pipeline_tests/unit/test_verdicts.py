"""Each figure of a contour that is not fine has its reason in words; on a healthy one there is none."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from replication_pipeline.domain.verdicts import Thresholds, reasons, worst
from replication_pipeline.domain.watch import ApplyLag, Pair, Parked, QueueHealth
from replication_pipeline_tests.unit.test_alerts import HEALTHY as FINE

pytestmark = pytest.mark.unit

LIMITS = Thresholds(
    unpublished=1000,
    lag_warning=timedelta(seconds=10),
    lag_critical=timedelta(seconds=30),
    parked=timedelta(minutes=1),
    apply_lag=10_000,
    apply_stalled=timedelta(minutes=1),
    silence=timedelta(minutes=1),
    skew=timedelta(milliseconds=500),
    held=100,
    snapshot=timedelta(hours=1),
    dead_rows=1_000_000,
)
DEAD = QueueHealth(10**6, 0, 0.0, "", sees_everybody=True)


def test_each_figure_has_its_reason() -> None:
    assert reasons(FINE, LIMITS) == []
    assert worst([]) == "ok"
    status = FINE.status
    for watch, verdict, about, part in (
        (replace(FINE, status=replace(status, publishers=0)), "error", "publishers", "no publisher"),
        (replace(FINE, status=replace(status, appliers=0)), "error", "appliers", "no applier"),
        (
            replace(FINE, status=replace(status, oldest_unpublished_seconds=31.0)),
            "error", "oldest", "waited for 31 s",
        ),
        (
            replace(FINE, status=replace(status, oldest_unpublished_seconds=11.0)),
            "warning", "oldest", "waited for 11 s",
        ),
        (replace(FINE, status=replace(status, unpublished=1000)), "warning", "unpublished", "1,000"),
        (replace(FINE, status=replace(status, held_publish=100)), "warning", "held", "100 events"),
        (
            replace(FINE, status=replace(status, clock_skew_seconds=0.7)),
            "warning", "contours", "0.700 s apart",
        ),
        (
            replace(FINE, queue=QueueHealth(0, 0, 7200.0, "session 7", sees_everybody=True)),
            "warning", "queue", "session 7 has kept its transaction open for 2 h",
        ),
        (replace(FINE, queue=DEAD), "warning", "queue", "dead rows"),
        (replace(FINE, lags=[ApplyLag("t", 10_000, 0.0)]), "warning", "behind", "10,000 events behind"),
        (replace(FINE, lags=[ApplyLag("t", 1, 90.0)]), "warning", "behind", "none was applied for 90"),
        (
            replace(FINE, parked=[Parked("publish", "t", "too_large", 2, 0.0)]),
            "warning", "parked", "2 events of t",
        ),
        (replace(FINE, parked_space=0.85), "warning", "parked", "take 85% of consumer.max_parked"),
        (
            replace(FINE, pairs=[Pair("b", "active", 61.0, None, None)]),
            "warning", "contours", "b is silent for 61 s",
        ),
        (
            replace(FINE, pairs=[Pair("b", "fenced", 61.0, None, None)]),
            "error", "contours", "contour b is fenced",
        ),
    ):  # fmt: skip
        (reason,) = reasons(watch, LIMITS)
        assert (reason.verdict, reason.about) == (verdict, about)
        assert part in reason.text
    waits = replace(FINE, parked=[Parked("apply", "t", "missing_parent", 2, 5.0)])
    assert reasons(waits, LIMITS) == [], "what is on its way may be waited for"
    both = replace(FINE, status=replace(status, unpublished=1000, appliers=0))
    assert [r.verdict for r in reasons(both, LIMITS)] == ["error", "warning"]
