"""Verdicts on the queue as asset checks.

The same findings are made in two places: by ``publish_sensor`` on every tick, stored without a run
when the verdict changes and every ``monitoring.check_interval``; and on demand, as the definitions
below, when an operator presses *Execute*. A database that can't be reached is a finding as well: an
old green mark would be a lie.

No postponed annotations here: Dagster compares the type of a step's ``context`` as an object.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

import dagster as dg

from replication_pipeline.defs.assets import queue_key
from replication_pipeline.defs.resources import PostgresResource
from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.health import (
    ContourStatus,
    Verdict,
    lag_verdict,
    unpublished_verdict,
)
from replication_pipeline.settings import MonitoringSettings, Settings

CheckName = Literal["unpublished_count", "publish_lag"]
Look = ContourStatus | TransientError
Stored = Mapping[str, tuple[str, float]]  # per check: the verdict stored last, and when

DESCRIPTIONS: Final[dict[CheckName, str]] = {
    "unpublished_count": "How many captured changes wait for Kafka. When it fails: see that "
    "publish_sensor is on and publish runs are green; if they are and the number still grows, "
    "raise publisher.max_publishers or publisher.batch_size.",
    "publish_lag": "Age of the oldest change that waits for Kafka. When it fails: read the newest "
    "publish run; retries there mean that Kafka or the database is away. A single old event with "
    "an otherwise short queue is one that Kafka refuses: see `replication-pipeline parked list`.",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict of one check, without Dagster's dress."""

    check: CheckName
    verdict: Verdict | Literal["unknown"]
    description: str
    metadata: dict[str, float | str]

    @property
    def passed(self) -> bool:
        """Green or not."""
        return self.verdict == "ok"

    @property
    def severity(self) -> dg.AssetCheckSeverity:
        """ERROR is kept for what needs a person now."""
        error = self.verdict == "error"
        return dg.AssetCheckSeverity.ERROR if error else dg.AssetCheckSeverity.WARN


def findings(look: Look, monitoring: MonitoringSettings) -> tuple[Finding, ...]:
    """Both checks' verdicts on one look at the contour."""
    # As text: numbers would be drawn as plots, and these never move.
    thresholds: dict[CheckName, dict[str, float | str]] = {
        "unpublished_count": {"warning_at": f"{monitoring.unpublished_warning:,}"},
        "publish_lag": {
            "warning_above": f"{monitoring.lag_warning.total_seconds():g} s",
            "critical_above": f"{monitoring.lag_critical.total_seconds():g} s",
        },
    }
    if isinstance(look, TransientError):
        return tuple(
            Finding(check, "unknown", f"Not known: {look.message}", limits)
            for check, limits in thresholds.items()
        )
    age = look.oldest_unpublished_seconds
    figures: dict[str, float | str] = {
        "unpublished": look.unpublished,
        "oldest_unpublished_seconds": round(age, 3),
        "parked": look.parked_publish,
    }
    return (
        Finding(
            "unpublished_count",
            unpublished_verdict(look.unpublished, warning=monitoring.unpublished_warning),
            f"{look.unpublished} events wait for Kafka.",
            figures | thresholds["unpublished_count"],
        ),
        Finding(
            "publish_lag",
            lag_verdict(
                timedelta(seconds=age),
                warning=monitoring.lag_warning,
                critical=monitoring.lag_critical,
            ),
            f"The oldest event has waited for {age:.1f} s."
            if look.unpublished
            else "No event waits.",
            figures | thresholds["publish_lag"],
        ),
    )


def due(
    found: Iterable[Finding], last: Stored, *, now: float, every: timedelta
) -> tuple[Sequence[Finding], Stored]:
    """The findings worth storing now, and what is stored afterwards.

    Runless events are never purged with a run, so an unchanged verdict is stored only so often.
    """
    chosen = []
    stored = dict(last)
    for finding in found:
        verdict, at = last.get(finding.check, ("", 0.0))
        if verdict != finding.verdict or now - at >= every.total_seconds():
            stored[finding.check] = (finding.verdict, now)
            chosen.append(finding)
    return chosen, stored


def evaluation(finding: Finding, contour: str) -> dg.AssetCheckEvaluation:
    """For a sensor's tick, without a run."""
    return dg.AssetCheckEvaluation(
        asset_key=queue_key(contour),
        check_name=finding.check,
        passed=finding.passed,
        severity=finding.severity,
        description=finding.description,
        metadata=finding.metadata,
    )


def queue_checks(settings: Settings) -> dg.AssetChecksDefinition:
    """The checks that an operator can execute; Dagster runs them in one step."""
    key = queue_key(settings.contour.name)

    @dg.multi_asset_check(
        name="queue_checks",
        specs=[
            dg.AssetCheckSpec(check, asset=key, description=description)
            for check, description in DESCRIPTIONS.items()
        ],
        can_subset=True,
    )
    def check_queue(
        context: dg.AssetCheckExecutionContext, postgres: PostgresResource
    ) -> Iterator[dg.AssetCheckResult]:
        selected = {check.name for check in context.selected_asset_check_keys}
        for finding in findings(look_at(postgres), postgres.settings().monitoring):
            if finding.check in selected:
                yield dg.AssetCheckResult(
                    asset_key=key,
                    check_name=finding.check,
                    passed=finding.passed,
                    severity=finding.severity,
                    description=finding.description,
                    metadata=finding.metadata,
                )

    return check_queue


def look_at(postgres: PostgresResource) -> Look:
    """The contour's status, or why there is none now. Fatal errors are raised."""
    try:
        return postgres.status()
    except TransientError as error:
        return error
