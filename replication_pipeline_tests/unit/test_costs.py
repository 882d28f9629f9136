"""The baseline of costs: what it allows, and how it is written anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from replication_pipeline_tests.integration import costs

pytestmark = pytest.mark.unit

TEXT = """\
# Why.
[few]
unit = "pages"
seen = 10
more = 0.5
why = "they differ"

[plan]
unit = "nodes"
seen = \"\"\"
Limit
\"\"\"
why = "it is the best"
"""


def test_every_cost_says_what_it_is_and_why() -> None:
    for name, cost in costs.baseline().items():
        assert cost["unit"], name
        assert cost["why"], name
        if isinstance(cost["seen"], str):
            assert cost["seen"].strip(), name
        else:
            assert cost["seen"] <= costs.allowed(cost), name


def test_a_bound_is_never_passed() -> None:
    cost = {"seen": 100, "more": 0.5}
    assert costs.allowed(cost) == 150
    assert costs.allowed(cost | {"plus": 7}) == 157
    assert costs.allowed(cost | {"bound": 120}) == 120


def test_only_what_was_seen_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "costs.toml"
    path.write_text(TEXT)
    costs.rewrite("few", "12", path)
    costs.rewrite("plan", '"""\nSort\n  Limit\n"""', path)
    found = costs.baseline(path)
    assert found["few"] == {"unit": "pages", "seen": 12, "more": 0.5, "why": "they differ"}
    assert found["plan"]["seen"] == "Sort\n  Limit\n"
    assert path.read_text().replace("12", "10").replace("Sort\n  Limit", "Limit") == TEXT
    with pytest.raises(AssertionError, match="add it"):
        costs.rewrite("missing", "1", path)


def test_more_than_the_baseline_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        costs, "baseline", lambda: {"few": {"unit": "pages", "seen": 10, "more": 0.5}}
    )
    costs.costs_no_more("few", 15)
    with pytest.raises(AssertionError, match="few was 10 pages"):
        costs.costs_no_more("few", 15.1)
