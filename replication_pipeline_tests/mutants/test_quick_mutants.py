"""The mutants of the applier that the state machine sees within seconds, in the session's server, and
that every mutant still meets the text that it changes. ``make mutants`` tries them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from replication_pipeline.postgres import queries
from replication_pipeline_tests.conftest import MakeContours
from replication_pipeline_tests.integration.place import Place
from replication_pipeline_tests.integration.test_machine import DDL, TABLES, Contours
from replication_pipeline_tests.mutants.catalogue import APPLY_SQL, MUTANTS, Mutant
from replication_pipeline_tests.mutants.suspects import SUSPECTS
from replication_pipeline_tests.simulation import mutants as rules

ROOT = Path(__file__).parents[2]
QUICK = [
    mutant
    for mutant in MUTANTS
    if mutant.name
    in {
        "deletes leave no tombstone",
        "the last of a batch instead of the newest",
        "applied changes fire triggers",
        "children are applied without their parent",
    }
]


@pytest.mark.unit
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_meets_the_text_that_it_changes(mutant: Mutant) -> None:
    assert mutant.change((ROOT / mutant.file).read_text(encoding="utf-8"))


@pytest.mark.unit
def test_every_known_bug_of_replicators_has_a_mutant() -> None:
    known = {mutant.name for mutant in MUTANTS} | set(rules.MUTANTS)
    assert set().union(*SUSPECTS.values()) <= known
    assert all(SUSPECTS.values())


@pytest.mark.unit
@pytest.mark.parametrize(
    "tests", sorted({tests for mutant in MUTANTS for tests in mutant.caught_by})
)
def test_the_tests_that_are_to_catch_mutants_are_there(tests: str) -> None:
    file, _, name = tests.partition("::")
    assert f"def {name or 'test_'}" in (ROOT / file).read_text(encoding="utf-8")


@pytest.fixture
def places(make_contours: MakeContours) -> Iterator[list[Place]]:
    made = [Place(contour) for contour in make_contours(DDL, list(TABLES), count=3)]
    yield made
    for place in made:
        place.close()


@pytest.mark.integration
@pytest.mark.parametrize("mutant", QUICK, ids=lambda mutant: mutant.name)
def test_the_state_machine_sees_a_bug_of_the_applier(
    places: list[Place], monkeypatch: pytest.MonkeyPatch, mutant: Mutant
) -> None:
    loaded = queries.load("apply")  # the very dictionary from which statements are composed
    for name, text in queries.parse(mutant.change((ROOT / APPLY_SQL).read_text())).items():
        monkeypatch.setitem(loaded, name, text)
    machine = type("Machine", (Contours,), {"places": places, "patience": 2.0})
    with pytest.raises(AssertionError, match=r"^contour [abc]"):  # not: took too long
        run_state_machine_as_test(machine, settings=PROFILE)


PROFILE = settings(
    max_examples=50,
    stateful_step_count=40,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
