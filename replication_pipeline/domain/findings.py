"""What ``doctor`` says: findings, each with what to do about it, and the checks that they come from.

A check looks at one thing of what it is given and tells what is wrong with it; when it tells nothing,
all is well. A finding is not an error: a check that can't look says so, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Generic, Literal, TypeVar

Severity = Literal["good", "notice", "mend"]
Group = Literal["role", "capture", "tables", "server", "contours", "kafka"]
GROUPS: Final[dict[Group, str]] = {
    "role": "role and connection",
    "capture": "capture",
    "tables": "tables and keys",
    "server": "PostgreSQL",
    "contours": "other contours",
    "kafka": "Kafka",
}
Subject = TypeVar("Subject")


@dataclass(frozen=True, slots=True)
class Finding:
    """One look at one thing. ``mend``: replication does not work as it should until ``remedy`` is
    done. ``notice``: worth knowing, not wrong by itself. ``remedy`` is SQL or a command, ready to run.
    ``fixable``: it is SQL for this database, which ``doctor --fix`` may run.
    """

    check: str
    severity: Severity
    message: str
    remedy: str = ""
    group: Group = "role"
    fixable: bool = False


class NotSeenError(Exception):
    """A check could not look; the text says why."""


@dataclass(frozen=True)
class Check(Generic[Subject]):
    """``look`` tells what is wrong, by ``mend`` and ``notice``; ``good`` is said when nothing is."""

    name: str
    group: Group
    look: Callable[[Subject], Iterable[Finding]]
    good: str

    def findings(self, subject: Subject) -> list[Finding]:
        """What the check has found, at least one."""
        try:
            found = list(self.look(subject))
        except NotSeenError as error:
            found = [notice(f"not known: {error}")]
        return [
            replace(finding, check=self.name, group=self.group)
            for finding in found or [fine(self.good)]
        ]


def mend(message: str, remedy: str, *, fixable: bool = False) -> Finding:
    """Something that has to be mended."""
    return Finding("", "mend", message, remedy, fixable=fixable)


def notice(message: str, remedy: str = "", *, fixable: bool = False) -> Finding:
    """Something worth knowing."""
    return Finding("", "notice", message, remedy, fixable=fixable)


def fine(message: str) -> Finding:
    """Nothing is wrong, and this is how it is."""
    return Finding("", "good", message)


def healthy(findings: Iterable[Finding]) -> bool:
    """Whether nothing has to be mended."""
    return all(finding.severity != "mend" for finding in findings)
