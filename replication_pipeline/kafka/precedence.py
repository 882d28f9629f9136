"""Parents before their children, while parents are far behind.

Each table has a topic, and topics are read in no order. On backlog children would come before their
parents, wait parked and be tried again, at many times the price. So topics of tables that refer to
others wait while those are far behind, but not for long: who writes parents for ever must not keep
children away. It is about speed alone; a child that comes early waits as ever.

Of partitions that other members of the group have nothing is known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Final

from replication_pipeline.domain.names import Topic

FAR: Final = 1_000  # events behind from which parents are waited for
NEAR: Final = 100  # and down to which, once they are
LONGEST: Final = 60.0  # seconds

Ancestors = Mapping[Topic, Set[Topic]]
"""By topic those of the tables that its own refers to, directly or not, and that don't refer to it."""


@dataclass(slots=True)
class Precedence:
    """Which topics are to wait, look by look."""

    _waiting: frozenset[Topic] = field(default=frozenset())
    _since: dict[Topic, float] = field(default_factory=dict)

    def waiting(
        self, behind: Mapping[Topic, int], ancestors: Ancestors, now: float
    ) -> frozenset[Topic]:
        """``behind``: events up to the logs' ends, as far as known; ``now``: seconds."""

        def blocked(topic: Topic) -> bool:
            most = max((behind.get(parent, 0) for parent in ancestors[topic]), default=0)
            return most > (NEAR if topic in self._waiting else FAR)

        found = {topic for topic in ancestors if blocked(topic)}
        # Whose time is over goes on until its parents have been read once.
        self._since = {topic: self._since.get(topic, now) for topic in found}
        self._waiting = frozenset(topic for topic in found if now - self._since[topic] < LONGEST)
        return self._waiting


def ancestors_of(parents: Mapping[Topic, Set[Topic]]) -> Ancestors:
    """From the topics that each one's table refers to itself."""
    above = {topic: _above(topic, parents) for topic in parents}
    return {
        topic: found
        for topic in parents
        if (found := {each for each in above[topic] if topic not in above.get(each, ())})
    }


def _above(topic: Topic, parents: Mapping[Topic, Set[Topic]]) -> set[Topic]:
    found: set[Topic] = set()
    ahead = [*parents[topic]]
    while ahead:
        each = ahead.pop()
        if each not in found:
            found.add(each)
            ahead += parents.get(each, ())
    return found
