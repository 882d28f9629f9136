"""A minute of chaos. ``make chaos`` runs it for longer; the report tells what was found."""

from __future__ import annotations

from pathlib import Path

import pytest

from replication_pipeline_tests.chaos.run import Options, run

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]


def test_three_contours_end_equal_after_a_minute_of_faults(tmp_path: Path) -> None:
    result = run(Options(seconds=60), tmp_path)
    assert result.broken_harness == []
    assert {name: told for name, told in result.anomalies.items() if told} == {}
    assert len(result.evidence.recoveries) > 1
    assert result.faults.total() > 5
