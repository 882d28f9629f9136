"""A lane is one kind of window of one contour, publish or apply: its figures and run tags.

Jobs, ops and sensors take these from here, so a run can be found and judged by its tags alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

from replication_pipeline.domain.model import Role
from replication_pipeline.settings import Settings

CONTOUR_TAG: Final = "contour"
ROLE_TAG: Final = "role"
LANE_TAG: Final = "lane"
WINDOW_TAG: Final = "window"
INSTANCE_TAG: Final = "instance"
PROCESS_TAG: Final = "process"
REASON_TAG: Final = "requested_because"
VERDICT_TAG: Final = "verdict"  # of a run that fails on purpose, as that alone shows red
MAX_RUNTIME_TAG: Final = "dagster/max_runtime"

# A window ends by itself; Dagster's limit only clears away the record of a run whose host died.
# It must never hit a live one, which may finish a batch that waits for every timeout there is.
LEAST_MARGIN: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Lane:
    """``minimum`` windows of length ``window``, and one more per ``per_window`` events, up to
    ``maximum``; these last for ``extra_window``. One more, too, when the oldest event waits for longer
    than ``late`` (``None``: its age is not known).
    """

    contour: str
    job: Literal["publish", "apply"]
    role: Role
    op: str
    window: timedelta
    extra_window: timedelta
    margin: timedelta
    minimum: int
    maximum: int
    per_window: int
    late: timedelta | None = None

    @property
    def identity(self) -> dict[str, str]:
        """The tags by which the sensor finds this lane's runs, whoever launched them."""
        return {
            CONTOUR_TAG: self.contour,
            ROLE_TAG: self.role,
            LANE_TAG: f"{self.contour}/{self.job}",
        }

    @property
    def tags(self) -> dict[str, str]:
        """Tags of every run of this lane."""
        return {
            **self.identity,
            **self.time_tags(self.window),
            # The sensor replaces a window that failed; a retry by Dagster would double it.
            "dagster/max_retries": "0",
            "dagster/priority": "10",
        }

    def time_tags(self, window: timedelta) -> dict[str, str]:
        """Tags that say how long a run means to last, and when Dagster may call it dead."""
        return {
            WINDOW_TAG: f"{window.total_seconds():g}s",
            MAX_RUNTIME_TAG: f"{(window + self.margin).total_seconds():.0f}",
        }


def length_in(tags: Mapping[str, str]) -> timedelta | None:
    """How long a run with these tags means to last, if they say so."""
    try:
        return timedelta(seconds=float(tags[WINDOW_TAG].removesuffix("s")))
    except (KeyError, ValueError):
        return None


def publish_lane(settings: Settings) -> Lane:
    """Queue → Kafka."""
    publisher = settings.publisher
    return Lane(
        contour=settings.contour.name,
        job="publish",
        role="publisher",
        op="publish_batches",
        window=publisher.window,
        extra_window=min(publisher.window, publisher.extra_window),
        margin=_margin(settings),
        minimum=publisher.min_publishers,
        maximum=publisher.max_publishers,
        per_window=publisher.scale_up_backlog,
        late=settings.monitoring.lag_warning,
    )


def apply_lane(settings: Settings) -> Lane:
    """Kafka → tables."""
    consumer = settings.consumer
    return Lane(
        contour=settings.contour.name,
        job="apply",
        role="applier",
        op="apply_batches",
        window=consumer.window,
        extra_window=min(consumer.window, consumer.extra_window),
        margin=_margin(settings),
        minimum=consumer.min_appliers,
        maximum=consumer.max_appliers,
        per_window=consumer.scale_up_lag,
    )


def _margin(settings: Settings) -> timedelta:
    longest_batch = settings.postgres.statement_timeout + settings.kafka.delivery_timeout
    return max(LEAST_MARGIN, 3 * longest_batch)
