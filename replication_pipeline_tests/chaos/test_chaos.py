"""A minute of chaos. ``make chaos`` runs it for longer; the report tells what was found."""

from __future__ import annotations

from pathlib import Path

import pytest

from replication_pipeline_tests.chaos.checkers import LATE
from replication_pipeline_tests.chaos.nemeses import NEMESES
from replication_pipeline_tests.chaos.report import markdown
from replication_pipeline_tests.chaos.run import Options, run

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]


def test_three_contours_end_equal_after_a_minute_of_faults(tmp_path: Path) -> None:
    result = run(Options(seconds=60), tmp_path)
    report = markdown(result)
    assert result.broken_harness == []
    # How long it took depends on what else the machine has to do; that it came to an end does not.
    wrong = [
        each for told in result.anomalies.values() for each in told if not each.startswith(LATE)
    ]
    assert wrong == []
    assert result.evidence.recoveries
    assert result.faults.total() > 5
    committed = [one for one in result.evidence.operations if one.outcome == "committed"]
    assert len(committed) > 500, "hardly anything was written"
    assert ("**No anomalies**" in report) == result.good
    assert all(f"| {kind} |" in report for kind in NEMESES)
    assert all(f"| C{number} |" in report for number in range(1, 13))
