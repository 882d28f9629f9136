"""Which topics wait for which, and for how long."""

from __future__ import annotations

import pytest

from replication_pipeline.domain.names import Topic
from replication_pipeline.kafka.precedence import FAR, LONGEST, NEAR, Precedence, ancestors_of

pytestmark = pytest.mark.unit

A, B, C, D = (Topic(name) for name in "abcd")
FAMILY = ancestors_of({A: set(), B: {A}, C: {B}, D: set()})


def test_ancestors_are_those_of_all_generations() -> None:
    assert {B: {A}, C: {A, B}} == FAMILY


def test_who_refer_to_each_other_or_to_themselves_do_not_wait_for_each_other() -> None:
    found = ancestors_of({A: {B}, B: {A}, C: {C, A}})
    assert found == {C: {A, B}}


def test_children_wait_while_parents_are_far_behind() -> None:
    order = Precedence()
    assert order.waiting({A: FAR}, FAMILY, 0) == set()
    assert order.waiting({A: FAR + 1}, FAMILY, 1) == {B, C}
    assert order.waiting({A: NEAR + 1}, FAMILY, 2) == {B, C}
    assert order.waiting({A: NEAR, B: FAR + 1}, FAMILY, 3) == {C}
    assert order.waiting({B: NEAR, C: FAR + 1, D: FAR + 1}, FAMILY, 4) == set()


def test_nobody_waits_for_ever() -> None:
    order, far = Precedence(), {A: 10 * FAR}
    assert order.waiting(far, FAMILY, 10) == {B, C}
    assert order.waiting(far, FAMILY, 10 + LONGEST - 1) == {B, C}
    assert order.waiting(far, FAMILY, 10 + LONGEST) == set()
    assert order.waiting(far, FAMILY, 20 + LONGEST) == set()
    assert order.waiting({A: 0}, FAMILY, 30 + LONGEST) == set()
    assert order.waiting(far, FAMILY, 40 + LONGEST) == {B, C}
