"""Plans that the server really ran, from auto_explain's lines in its log.

The statements stay where they are, in the publisher: its session is told to log plans, by options in
its connection string, and the log is read afterwards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

LOGGED: Final = "-c " + " -c ".join(
    [
        "session_preload_libraries=auto_explain",
        "auto_explain.log_min_duration=0",
        "auto_explain.log_analyze=on",
        "auto_explain.log_buffers=on",
        "auto_explain.log_format=json",
    ]
)
_PLAN: Final = re.compile(r"duration: ([\d.]+) ms  plan:\n((?:\t.*\n)+)")
# What a text leaves open: a parameter, or a part that is filled in before the server sees it.
_PARAMETER: Final = re.compile(r"%\(\w+\)s")
_PART: Final = re.compile(r"\{\w+\}")
_KEPT: Final = 12  # characters of a statement that nobody has named


@dataclass(frozen=True, slots=True)
class Plan:
    """One executed statement."""

    name: str
    milliseconds: float
    blocks: int
    """Buffers touched, shared ones, found in memory or not."""
    rows: int
    """Rows that its nodes handled, those that were filtered away included: the work it had."""
    nodes: tuple[str, ...]
    """A line for each node, indented by depth."""


def parse(log: str, names: Mapping[str, str]) -> list[Plan]:
    """The plans in a part of a server's log; ``names`` maps names of statements to their texts."""
    plans = []
    for match in _PLAN.finditer(log):
        logged = json.loads(match[2].replace("\n\t", "\n"))
        root = logged["Plan"]
        plans.append(
            Plan(
                name=name_of(logged["Query Text"], names),
                milliseconds=float(match[1]),
                blocks=_blocks(root),
                rows=round(_rows(root)),
                nodes=tuple(_lines(root, depth=0)),
            )
        )
    return plans


def name_of(statement: str, names: Mapping[str, str]) -> str:
    """The name of the query whose text the statement is, parameters and parts aside."""
    for name, text in names.items():
        if re.fullmatch(_pattern(text), statement, re.DOTALL):
            return name
    return statement.strip()[:_KEPT] + "…"


@cache
def _pattern(text: str) -> str:
    def literal(part: str) -> str:
        return re.escape(part.replace("%%", "%").replace("{{", "{").replace("}}", "}"))

    return r"\$\d+".join(
        ".*?".join(literal(part) for part in _PART.split(piece)) for piece in _PARAMETER.split(text)
    )


def read_from(log: Path, offset: int) -> str:
    with log.open("rb") as file:
        file.seek(offset)
        return file.read().decode(errors="replace")


def _blocks(node: Mapping[str, Any]) -> int:
    return int(node.get("Shared Hit Blocks", 0) + node.get("Shared Read Blocks", 0))


def _rows(node: Mapping[str, Any]) -> float:
    removed = sum(count for what, count in node.items() if what.startswith("Rows Removed by"))
    own = (node["Actual Rows"] + removed) * node["Actual Loops"]
    return float(own) + sum(_rows(child) for child in node.get("Plans", ()))


def _lines(node: Mapping[str, Any], *, depth: int) -> Iterator[str]:
    index = f" by {node['Index Name']}" if "Index Name" in node else ""
    relation = f" {node['Relation Name']}" if "Relation Name" in node else ""
    loops = node["Actual Loops"]
    removed = node.get("Rows Removed by Filter", 0) * loops
    yield (
        "  " * depth
        + f"{node['Node Type']}{relation}{index}: {node['Actual Rows'] * loops:.0f} rows, "
        + f"{node['Actual Total Time'] * loops:.2f} ms, {_blocks(node)} blocks"
        + (f", {removed:.0f} rows filtered" if removed else "")
        + (f", {loops} loops" if loops > 1 else "")
    )
    for child in node.get("Plans", ()):
        yield from _lines(child, depth=depth + 1)
