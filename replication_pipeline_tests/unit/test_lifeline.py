"""What librdkafka's statistics say of a client's way to Kafka."""

from __future__ import annotations

import json

import pytest

from replication_pipeline.kafka.lifeline import LONGEST_START, Lifeline

pytestmark = pytest.mark.unit

SECOND = 1_000_000  # µs
LONG = int(10 * LONGEST_START * SECOND)
COORDINATOR = ("logical", "TRY_CONNECT", LONG)

TRIED = {
    "connected": [("learned", "UP", LONG), COORDINATOR],
    "just made": [("configured", "INIT", SECOND)],
    "one of three": [("learned", "INIT", LONG), ("learned", "INIT", LONG), ("learned", "UP", 1)],
    "outage": [("learned", "TRY_CONNECT", SECOND), COORDINATOR],
    "long outage": [("configured", "DOWN", LONG)],
}
CUT = {
    "no broker left": [COORDINATOR],
    "none at all": [],
    "one that ends, and is never tried": [
        ("internal", "INIT", LONG),
        ("learned", "INIT", LONG),
        COORDINATOR,
    ],
}


def report(brokers: list[tuple[str, str, int]]) -> str:
    return json.dumps(
        {
            "name": "replicator-consumer-a#consumer-1",
            "brokers": {
                str(n): {"name": str(n), "nodeid": n, "source": s, "state": t, "stateage": age}
                for n, (s, t, age) in enumerate(brokers)
            },
            "topics": {},
        }
    )


@pytest.mark.parametrize("what", TRIED)
def test_a_client_that_tries_is_left_alone(what: str) -> None:
    lifeline = Lifeline()
    for _ in range(10):
        lifeline.hear(report(TRIED[what]))
        assert not lifeline.cut


@pytest.mark.parametrize("what", CUT)
def test_a_client_that_has_given_up_is_found_out(what: str) -> None:
    lifeline = Lifeline()
    lifeline.hear(report(CUT[what]))
    assert not lifeline.cut, "brokers may just be replaced"
    lifeline.hear(report(CUT[what]))
    assert lifeline.cut


def test_what_comes_back_by_itself_is_left_alone() -> None:
    lifeline = Lifeline()
    for _ in range(5):
        lifeline.hear(report(CUT["no broker left"]))
        lifeline.hear(report(TRIED["connected"]))
    assert not lifeline.cut
