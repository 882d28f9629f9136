"""Named queries from ``sql/queries/*.sql``.

A query starts at a line ``-- name: something`` and ends at the next one. Comments stay in the text,
so they show up in ``pg_stat_activity`` beside the statement they explain. Templates (``apply.sql``)
have ``{placeholders}`` for identifiers and lists; psycopg's ``SQL.format`` fills them, quoting every
name, and values are never put into the text.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Final, LiteralString, cast

_NAME: Final = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


def sql_directory() -> Path:
    """The ``sql`` folder: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_sql"
    return installed if installed.is_dir() else package.parent / "sql"


@cache
def load(file: str) -> dict[str, LiteralString]:
    """All queries of ``sql/queries/{file}.sql`` by name.

    The files are part of the program, as literal as its source: hence ``LiteralString``.
    """
    return parse((sql_directory() / "queries" / f"{file}.sql").read_text(encoding="utf-8"))


def parse(text: str) -> dict[str, LiteralString]:
    """Split a file's text. Raises ``ValueError`` when a name stands twice."""
    parts = _NAME.split(text)
    names, bodies = parts[1::2], parts[2::2]
    if len(set(names)) < len(names):
        raise ValueError(f"a query name stands twice: {sorted(names)}")
    return {
        name: cast("LiteralString", body.strip()) for name, body in zip(names, bodies, strict=True)
    }
