"""Histograms are what they would be if every observation were looked at by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication_pipeline.domain.histograms import BOUNDS, LONGEST, SECOND, Histogram, cumulative

pytestmark = pytest.mark.unit

EDGES = [round(bound * SECOND) for bound in BOUNDS]
AGES = st.lists(st.sampled_from([0, -5, *EDGES, *(edge + 1 for edge in EDGES)]) | st.integers(0))


@given(AGES, st.integers(0, 2**62))
def test_many_at_once_are_as_one_by_one(ages: list[int], now: int) -> None:
    seen = Histogram()
    seen.since([now - age for age in ages], now)
    told = cumulative(seen.counts)
    assert [count for _, count in told] == [
        *(sum(age <= edge for age in ages) for edge in EDGES),
        len(ages),
    ]
    assert [float(bound) for bound, _ in told] == [*BOUNDS, float("inf")]
    assert seen.total == sum(min(max(age, 0), LONGEST) for age in ages)


def test_observations_add_up() -> None:
    seen = Histogram()
    for moment in (0, 20_000, 20_000, 10**12):
        seen.since([0], moment)
    assert (sum(seen.counts), seen.total) == (4, 40_000 + 10**12)
    assert (seen.counts[0], seen.counts[2], seen.counts[-1]) == (1, 2, 1)
