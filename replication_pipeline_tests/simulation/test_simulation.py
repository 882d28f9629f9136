"""Ten thousand worlds end well; each mistake in the rules makes some of them end badly."""

from __future__ import annotations

import time

import pytest

from replication_pipeline_tests.simulation.mutants import MUTANTS
from replication_pipeline_tests.simulation.rules import Rules
from replication_pipeline_tests.simulation.world import REAL, BrokenError, run

pytestmark = pytest.mark.simulation

SEEDS = 10_000


def test_contours_converge_in_every_world() -> None:
    for seed in range(SEEDS):
        run(seed)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_every_mistake_in_the_rules_is_found(mutant: str) -> None:
    assert first_broken(MUTANTS[mutant], SEEDS) is not None


def first_broken(rules: Rules, seeds: int) -> int | None:
    """The lowest seed whose world shows what is wrong with ``rules``."""
    for seed in range(seeds):
        try:
            run(seed, rules)
        except BrokenError:
            return seed
    return None


def test_a_seed_tells_the_same_story_each_time() -> None:
    stories: list[list[str]] = [[], []]
    for story in stories:
        run(7, REAL, story.append)
    assert stories[0] == stories[1]
    assert any("commits" in line for line in stories[0])


def test_a_world_costs_little() -> None:
    """A million seeds are a matter of minutes."""
    began = time.process_time()
    for seed in range(200):
        run(seed)
    assert time.process_time() - began < 200 * 0.005
