"""What ``doctor`` says: findings, each with what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["good", "notice", "mend"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One look at one thing. ``mend``: replication does not work as it should until ``remedy`` is
    done. ``notice``: worth knowing, not wrong by itself. ``remedy`` is SQL or a command, ready to run.
    """

    check: str
    severity: Severity
    message: str
    remedy: str = ""


def healthy(findings: Iterable[Finding]) -> bool:
    """Whether nothing has to be mended."""
    return all(finding.severity != "mend" for finding in findings)
