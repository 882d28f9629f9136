"""What ``compare`` found, in the forms of JSON and of files, and back for ``repair --from``.

A file is a table: a line for each difference, with the state of the key in each contour and the version
of its row or tombstone. Versions exceed 2^53, so they are texts. pandas is imported when a file is
written or read; Parquet needs pyarrow besides, which is told before anything is compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from replication_pipeline.domain.comparison import Comparison, Difference, Lag, Seen
from replication_pipeline.domain.errors import ConfigurationError

SUFFIXES: Final = (".csv", ".parquet", ".json")
STATE: Final = "_state"
VERSION: Final = "_version"


def refuse_unfit_file(path: Path, option: str) -> None:
    """Before the work begins."""
    if path.suffix not in SUFFIXES:
        raise ConfigurationError(
            f"{option} {path}: not a kind of file that is known here",
            remedy=f"let its name end in one of {', '.join(SUFFIXES)}",
        )
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ConfigurationError(
            f"{option} {path}: Parquet needs pyarrow, which is not installed",
            remedy="pip install 'replication_pipeline[parquet]', or take .csv or .json",
        )
    if not path.parent.is_dir():
        raise ConfigurationError(f"{option} {path}: there is no such folder", remedy="make it")


def plain(comparison: Comparison) -> dict[str, Any]:
    """A table's comparison for JSON."""
    return {
        "table": comparison.table,
        "equal": comparison.equal,
        "settled": comparison.settled,
        "complete": comparison.complete,
        "rows": dict(comparison.rows),
        "differing": len(comparison.differences),
        "unsettled": comparison.unsettled,
        "written_meanwhile": comparison.moving,
        "waiting_for": [plain_lag(lag) for lag in comparison.lags],
        "notes": list(comparison.notes),
        "seconds": round(comparison.seconds, 3),
        "differences": [plain_difference(each) for each in comparison.differences],
    }


def plain_lag(lag: Lag) -> dict[str, Any]:
    """Whose writes have not arrived where; times are seconds since 1970."""
    return {
        "contour": lag.contour,
        "lacks_writes_of": lag.source,
        "wanted_until": lag.wanted,
        "has_until": lag.until or None,
    }


def plain_difference(difference: Difference) -> dict[str, Any]:
    """One key. ``values`` only where they were asked for."""
    return {
        "key": difference.key,
        "key_parts": list(difference.parts),
        "columns": list(difference.columns),
        "contours": {
            contour: {"state": seen.state, "version": _version(seen)}
            | ({"parked": difference.parked[contour]} if contour in difference.parked else {})
            | ({"values": dict(difference.values[contour])} if contour in difference.values else {})
            for contour, seen in difference.seen.items()
        },
    }


def write(path: Path, comparisons: Sequence[Comparison]) -> None:
    """All differences of all tables."""
    if path.suffix == ".json":
        text = json.dumps([plain(each) for each in comparisons], ensure_ascii=False, indent=1)
        path.write_text(text + "\n", encoding="utf-8")
        return
    import pandas as pd

    lines = [_line(each.table, d) for each in comparisons for d in each.differences]
    contours = dict.fromkeys(name for each in comparisons for name in each.rows)
    columns = ["table", "key", "key_parts", "columns"]
    columns += [f"{name}{part}" for name in contours for part in (STATE, VERSION)]
    columns += list(dict.fromkeys(name for line in lines for name in line if name not in columns))
    frame = pd.DataFrame(lines, columns=columns, dtype="object")
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path, index=False)


def read(path: Path, table: str) -> list[Difference]:
    """The differences of ``table``; contents and columns are not known."""
    try:
        found = _read_json(path, table) if path.suffix == ".json" else _read_frame(path, table)
    except FileNotFoundError:
        raise ConfigurationError(
            f"--from {path}: there is no such file", remedy="compare --output writes one"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigurationError(
            f"--from {path}: this is no file that compare has written",
            remedy="replication-pipeline compare --output FILE",
        ) from None
    return found


def _read_json(path: Path, table: str) -> list[Difference]:
    tables = json.loads(path.read_text(encoding="utf-8"))
    tables = tables["tables"] if isinstance(tables, Mapping) else tables
    return [
        Difference(
            each["key"],
            tuple(each["key_parts"]),
            {name: _seen(it["state"], it["version"]) for name, it in each["contours"].items()},
        )
        for told in tables
        if told["table"] == table
        for each in told["differences"]
    ]


def _read_frame(path: Path, table: str) -> list[Difference]:
    import pandas as pd

    if path.suffix == ".csv":
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    else:
        frame = pd.read_parquet(path).fillna("")
    if not {"table", "key", "key_parts"} <= {*frame.columns}:
        raise KeyError(path)
    lines: Iterable[Mapping[str, Any]] = frame.to_dict("records")  # type: ignore[assignment]
    contours = [name.removesuffix(STATE) for name in frame.columns if name.endswith(STATE)]
    return [
        Difference(
            line["key"],
            tuple(json.loads(line["key_parts"])),
            {
                name: _seen(line[name + STATE], line[name + VERSION])
                for name in contours
                if line[name + STATE]
            },
        )
        for line in lines
        if line["table"] == table
    ]


def _line(table: str, difference: Difference) -> dict[str, Any]:
    line: dict[str, Any] = {
        "table": table,
        "key": difference.key,
        "key_parts": json.dumps(difference.parts, ensure_ascii=False),
        "columns": ",".join(difference.columns),
    }
    for contour, seen in difference.seen.items():
        line[contour + STATE] = seen.state
        line[contour + VERSION] = _version(seen) or ""
        if contour in difference.values:
            line[f"{contour}_values"] = json.dumps(difference.values[contour], ensure_ascii=False)
    return line


def _version(seen: Seen) -> str | None:
    version = seen.buried if seen.version is None else seen.version
    return None if version is None else str(version)


def _seen(state: str, version: str | None) -> Seen:
    match state:
        case "row":
            return Seen(version=int(version or ""))
        case "deleted":
            return Seen(buried=int(version or ""))
        case "missing":
            return Seen()
        case _:
            raise ValueError(state)
