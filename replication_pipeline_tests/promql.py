"""Which metrics and labels an expression uses. Enough of PromQL for our own rules and dashboards."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_SELECTOR: Final = re.compile(r"(?<!\")\b(replication_\w+)\s*(?:\{([^}]*)\})?")
_MATCHER: Final = re.compile(r"(\w+)\s*(=~|!~|!=|=)\s*\"([^\"]*)\"")
_GROUPING: Final = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
_TEMPLATE: Final = re.compile(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}")


@dataclass(frozen=True)
class Uses:
    """``selectors``: each metric with its labels; the value where it has to be equal."""

    selectors: tuple[tuple[str, tuple[tuple[str, str | None], ...]], ...]
    grouping: frozenset[str]


def uses(expression: str) -> Uses:
    return Uses(
        tuple(
            (
                name,
                tuple(
                    (label, value if operator == "=" else None)
                    for label, operator, value in _MATCHER.findall(matchers)
                ),
            )
            for name, matchers in _SELECTOR.findall(expression)
        ),
        frozenset(
            label.strip() for group in _GROUPING.findall(expression) for label in group.split(",")
        ),
    )


def template_labels(text: str) -> set[str]:
    """Labels that a legend or an annotation writes out."""
    return set(_TEMPLATE.findall(text)) - {"value"}
