"""docs/benchmarks.md and the computed part of docs/sizing.md are what the committed results give."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from bench import results
from bench.report import plots
from bench.report.aims import AIMS, Aim, is_peer
from bench.report.markdown import paragraph, slug, table
from bench.report.page import IMAGES, image_of, page, questions_of
from bench.report.runs import Run, newest, runs_of, titles
from bench.report.verdicts import ahead, judge
from bench.report.writing import DOCS, committed, images, pages, write
from bench.results import Result

pytestmark = pytest.mark.unit

ANEW = "python -m bench report --write"
SPEED = Aim(
    name="speed", scenario="publish", metric="speed", unit="events/s", bound=100.0, better="more"
)
LATE = Aim(
    name="late", scenario="end-to-end", metric="p50 at 200/s", unit="ms", bound=6.0, better="less"
)


def run(
    scenario: str,
    measured: Mapping[str, Mapping[str, float]],
    *,
    day: int = 1,
    unit: str = "events/s",
    postgresql: str = "18.6",
    **settings: Any,
) -> list[Result]:
    """Two rounds, the second one a tenth higher; ``measured`` is by metric and contestant."""
    contestants = list(dict.fromkeys(name for by in measured.values() for name in by))
    return [
        Result(
            scenario=scenario,
            contestant=contestant,
            metric=metric,
            value=value * (1 + (turn - 1) / 10),
            unit=unit,
            run=turn,
            settings={"contestants": contestants, **settings},
            versions={"postgresql": postgresql},
            machine={"cpus": 2},
            commit="abc",
            date=f"2026-01-{day:02}T00:00:00+00:00",
            command=f"python -m bench run {scenario}",
        )
        for metric, by in measured.items()
        for contestant, value in by.items()
        for turn in (1, 2)
    ]


def test_the_pages_are_what_the_committed_results_give() -> None:
    for path, text in pages(committed()).items():
        assert text == (DOCS / path).read_text(encoding="utf-8"), ANEW


def test_the_plots_are_what_the_committed_results_give() -> None:
    drawn = images(committed())
    assert {DOCS / path for path in drawn} == set((DOCS / IMAGES).glob("*.svg")), ANEW
    assert sum(map(len, drawn.values())) < 2_000_000
    mine = f"Matplotlib v{mpl.__version__}".encode()
    for path, content in drawn.items():
        there = (DOCS / path).read_bytes()
        if mine in there:  # another version draws other bytes
            assert content == there, ANEW


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "sizing.md").write_text((DOCS / "sizing.md").read_text(encoding="utf-8"))
    stale = tmp_path / IMAGES / "gone.svg"
    stale.parent.mkdir(parents=True)
    stale.touch()
    lines = [one.line() for one in run("publish", {"speed": {"ours": 1.0, "floor": 2.0}})]
    (tmp_path / "publish-1.jsonl").write_text("\n".join(lines))
    assert stale in write(tmp_path, tmp_path)
    assert not stale.exists()
    assert write(tmp_path, tmp_path) == []


def test_the_figures_of_the_readme_are_on_the_page() -> None:
    text = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    lines = [line for line in readme.splitlines() if "benchmarks.md" in line]
    assert lines
    for figure in re.findall(r"(?<![\w.#])\d[\d,.]*\d|(?<![\w.#])\d(?![\w.])", "\n".join(lines)):
        assert re.search(rf"(?<![\d,.]){re.escape(figure)}(?![\d,.]*\d)", text), figure


def test_every_aim_has_a_page_that_is_there() -> None:
    for aim in AIMS:
        assert aim.profile is None or (DOCS / aim.profile).exists()


def test_a_newer_run_that_asks_the_same_replaces_an_older_one() -> None:
    speed = {"speed": {"floor": 2.0, "ours": 1.0}}
    old, new = run("publish", speed, rounds=2), run("publish", speed, day=2, rounds=5)
    (kept,) = newest([*old, *new])
    assert kept.date == new[0].date


@pytest.mark.parametrize(
    "older",
    [
        run("compare", {"speed": {"ours": 1.0}}, rows=10),
        run("compare", {"speed": {"ours": 1.0, "another": 1.0}}, rows=5),
        run("compare", {"speed": {"ours": 1.0}}, rows=5, rates=[200, 3000]),
        run("compare", {"speed": {"ours": 1.0}}, rows=5, postgresql="15.18"),
        run("another", {"speed": {"ours": 1.0}}, rows=5),
    ],
    ids=["another size", "more contestants", "more rates", "another PostgreSQL", "scenario"],
)
def test_what_a_newer_run_left_out_is_still_shown(older: list[Result]) -> None:
    newer = run("compare", {"speed": {"ours": 1.0}}, day=2, rows=5, rates=[200])
    if "rates" not in older[0].settings:
        newer = run("compare", {"speed": {"ours": 1.0}}, day=2, rows=5)
    kept = newest([*older, *newer])
    assert len(kept) == 2
    assert len(set(titles(kept))) == 2


def test_runs_are_told_apart_by_their_day_when_nothing_else_does() -> None:
    runs = runs_of(
        [*run("x", {"m": {"a": 1.0}}, rounds=1), *run("x", {"m": {"b": 1.0}}, day=2, rounds=1)]
    )
    assert titles(runs) == ["x", "x, 2026-01-02"]


def test_aims_are_judged_by_ours_in_the_newest_run() -> None:
    found = run("publish", {"speed": {"plain loop": 10.0, "ours": 100.0, "floor": 200.0}})
    (verdict,) = judge(runs_of(found), [SPEED])
    assert verdict.ours == pytest.approx(105.0)
    assert verdict.text == "met"
    assert verdict.floor is not None
    assert verdict.floor.contestant == "floor"
    assert verdict.floor.value == pytest.approx(210.0)
    assert verdict.plain is not None
    assert verdict.plain.contestant == "plain loop"
    (missed,) = judge(runs_of(run("publish", {"speed": {"ours": 50.0}})), [SPEED])
    assert missed.text == "missed by 48 %"
    (far,) = judge(runs_of(run("end-to-end", {"p50 at 200/s": {"ours": 20.0}}, unit="ms")), [LATE])
    assert far.text == "missed: 3.5 times it"
    assert judge([], [SPEED])[0].text == "not measured"


@pytest.mark.parametrize("kind", ["added", "ratio"])
def test_an_aim_may_be_about_what_is_more_than_another(kind: Any) -> None:
    aim = Aim(
        name="more", scenario="capture", metric="time", unit="µs/row", bound=3, better="less",
        kind=kind, against="plain",
    )  # fmt: skip
    found = run("capture", {"time": {"plain": 2.0, "ours": 8.0}}, unit="µs/row")
    (verdict,) = judge(runs_of(found), [aim])
    assert verdict.ours == pytest.approx({"added": 6.3, "ratio": 4.0}[kind])
    assert verdict.plain is None


def test_peers_are_known_by_name_or_scenario() -> None:
    assert is_peer("capture", "pgq-logutriga")
    assert is_peer("peers", "debezium, default")
    assert is_peer("publish-peers", "something new, tuned")
    for name in ("ours", "ours, two publishers", "native", "floor", "plain loop"):
        assert not is_peer("peers", name)
    assert not is_peer("capture", "row-trigger")


def test_the_best_peer_stands_beside_ours_of_its_own_run() -> None:
    late = {"p50 at 200/s": {"native": 1.0, "ours": 9.0, "londiste, tuned": 5.0, "other": 7.0}}
    runs = runs_of(
        [
            *run("end-to-end", {"p50 at 200/s": {"native": 1.0, "ours": 4.0}}, unit="ms"),
            *run("peers", late, unit="ms"),
        ]
    )
    (verdict,) = judge(runs, [LATE])
    assert verdict.ours == pytest.approx(4.2)
    assert verdict.peer is not None
    assert verdict.peer.contestant == "londiste, tuned"
    assert verdict.peer.ours == pytest.approx(9.45)
    (one,) = ahead(runs)
    assert one.peer == "londiste, tuned"
    assert one.times == pytest.approx(1.8)
    text = page(runs)
    assert "Peers that were better than ours in the same run" in text
    assert "londiste, tuned: 5.25; ours beside it 9.45" in text


def test_whatever_was_measured_gets_a_section_and_a_plot(tmp_path: Path) -> None:
    runs = runs_of(run("unheard-of", {"first": {"x, y": 1.0, "z": 0.0}, "second": {"z": 3e-5}}))
    text = page(runs)
    assert "### unheard-of" in text
    assert "| first, events/s | x, y | 1.05 | 1.00 … 1.10 |" in text
    plot = plots.of_run(runs[0], "unheard-of", [])
    assert plot is not None
    assert b"x, y" in plot
    assert plot == plots.of_run(runs[0], "unheard-of", [])


def test_a_soak_is_drawn_over_time() -> None:
    lags = {
        **{f"lag {rank}": {"steady": 10.0, "hand-overs": 90.0} for rank in ("p50", "p99")},
        **{f"lag {rank} over time": {"over time": 10.0} for rank in ("p50", "p99")},
        "memory over time": {"run publish a": 100.0, "daemon": 120.0},
    }
    (soak,) = runs_of(run("soak", lags, unit="ms", bucket_seconds=30.0))
    plot = plots.of_run(soak, "soak", AIMS)
    assert plot is not None
    for told in (b"lag, ms, by minute", b"lag p99", b"daemon", b"aim 1,000, 5,000"):
        assert told in plot
    assert [one.text for one in judge([soak]) if one.aim.scenario == "soak"] == ["met", "met"]


def test_a_page_without_results_says_so() -> None:
    text = page([])
    assert f"Met: 0. Missed: 0. Not measured: {len(AIMS)}." in text
    assert "No result yet" in text


def test_scenarios_are_asked_as_the_readme_says() -> None:
    questions = questions_of((results.FOLDER.parent / "README.md").read_text(encoding="utf-8"))
    assert questions["capture"] == "What does capture cost those who write?"
    assert {one.scenario for one in committed()} <= questions.keys()


def test_markdown() -> None:
    assert slug("compare, rows 1,000,000") == "compare-rows-1000000"
    assert image_of("at-rest, rate 0") == "images/benchmarks/at-rest-rate-0.svg"
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n|---|---|\n| 1 | 2 |\n\n"
    assert max(map(len, paragraph("word " * 100).splitlines())) <= 118


def test_a_run_is_what_its_results_say() -> None:
    (one,) = runs_of(run("publish", {"speed": {"ours": 1.0, "floor": 2.0}}, rounds=2, rows=5))
    assert isinstance(one, Run)
    assert one.contestants == ["ours", "floor"]
    assert one.parameters == {"rows": 5, "PostgreSQL": "18"}
