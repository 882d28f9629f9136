"""Writes docs/configuration.md from the settings model: each key with type, unit, default, variable.

    make configuration

The page says what ``replication_pipeline.settings`` says, and a test keeps it so. What can't be told by
the model, how files, environment and secrets come together, stands above the tables.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from replication_pipeline.settings import ENV_PREFIX, Settings

PAGE = Path(__file__).with_name("configuration.md")
UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1), ("ms", 0.001))
# What a number counts, by the end of its key; the longest that fits.
COUNTS = {
    "_bytes": "bytes",
    "appliers": "windows",
    "backlog": "events",
    "batch_lines": "lines a second",
    "batch_size": "rows",
    "consumer.batch_size": "events",
    "consumer.max_batch_size": "events",
    "dead_rows_warning": "rows",
    "error_rate_warning": "part of 1",
    "held_warning": "events",
    "lag_warning": "events",
    "lanes": "connections",
    "max_attempts": "attempts",
    "max_chunk": "rows",
    "max_queue": "events",
    "partitions": "partitions",
    "publishers": "windows",
    "replication_factor": "copies",
    "scale_up_lag": "events",
    "unpublished_warning": "events",
}
HEAD = """\
# Configuration

<!-- Written by docs/configuration_reference.py from the settings model: change that. -->

One YAML file for each contour, given with `--config` or named in `REPLICATION_CONFIG`. Every value
can be overridden by the environment variable beside it, and without a file the environment alone is
enough. Unknown keys, unknown sections in the environment and values that don't fit are refused at the
start, each with its path and what to do. [config.example.yaml](../config.example.yaml) is a whole file
to begin with.

- **Durations** are a number with `ms`, `s`, `min`, `h` or `d`; a bare number counts seconds.
- **Secrets** are shown nowhere: neither in logs, errors nor in Dagster. Better than the value is a
  file: most secrets have a key that ends in `_file`, and the two exclude each other. The database's
  password is read anew for each connection, so it can be changed without a restart.
- **Lists and maps** are JSON in a variable: `REPLICATION__TABLES='{"users": {"partitions": 12}}'`.
- A window keeps what it began with; the next one reads the file anew.
"""


def page() -> str:
    """The whole of docs/configuration.md."""
    parts = [HEAD]
    plain = {name: field for name, field in Settings.model_fields.items() if _is_plain(field)}
    if plain:
        parts.append(_heading("The whole contour", "Keys that stand in no section."))
        parts.append(_rows(plain, ""))
    for name, field in Settings.model_fields.items():
        if name in plain:
            continue
        model = _model(field)
        if model is None:  # a map of models: tables
            parts.append(_heading(name, field.description or ""))
            parts.append(_map_of(name, field))
            continue
        parts.append(_heading(name, _docstring(model)))
        parts.append(_rows(model.model_fields, f"{name}."))
        for key, inner in model.model_fields.items():
            nested = _model(inner)
            if nested is not None:
                parts.append(_heading(f"{name}.{key}", _docstring(nested)))
                parts.append(_rows(nested.model_fields, f"{name}.{key}."))
    return "\n".join(parts)


def leaves() -> Iterator[tuple[str, FieldInfo]]:
    """Every setting that holds a value, with its path; not those of a table or of another contour."""
    for name, field in Settings.model_fields.items():
        yield from _leaves(name, field)


def environment_name(path: str) -> str:
    """The variable that overrides the setting at ``path``."""
    return ENV_PREFIX + path.replace(".", "__").upper()


def _leaves(path: str, field: FieldInfo) -> Iterator[tuple[str, FieldInfo]]:
    model = _model(field)
    if model is None:
        yield path, field
    else:
        for key, inner in model.model_fields.items():
            yield from _leaves(f"{path}.{key}", inner)


def _map_of(name: str, field: FieldInfo) -> str:
    (model,) = [kind for kind in get_args(field.annotation) if _is_model(kind)]
    lines = [
        f"Environment: `{environment_name(name)}`, as JSON. Options of each table:\n",
        "| key | type | default | |",
        "|---|---|---|---|",
    ]
    for key, inner in model.model_fields.items():
        about = _cell(inner.description or "")
        lines.append(f"| `{key}` | {_type(inner, f'{name}.{key}')} | {_default(inner)} | {about} |")
    return "\n".join(lines) + "\n"


def _rows(fields: Mapping[str, FieldInfo], path: str) -> str:
    lines = ["| key, environment | type | default | |", "|---|---|---|---|"]
    for key, field in fields.items():
        if _model(field) is not None:
            continue
        where = f"{path}{key}"
        name = f"`{key}`<br>`{environment_name(where)}`"
        about = _cell(field.description or "")
        lines.append(f"| {name} | {_type(field, where)} | {_default(field)} | {about} |")
    return "\n".join(lines) + "\n"


def _type(field: FieldInfo, path: str) -> str:
    return _cell(f"{_kind(field.annotation)}{_counted(field, path)}{_range(field)}")


def _kind(annotation: Any) -> str:
    if get_origin(annotation) in {Union, types.UnionType}:
        return " or ".join(_kind(kind) for kind in get_args(annotation) if kind is not type(None))
    match get_origin(annotation), annotation:
        case origin, _ if origin is Literal:
            return " | ".join(f"`{value}`" for value in get_args(annotation))
        case origin, _ if origin is list:
            return f"list of {_kind(get_args(annotation)[0])}"
        case origin, _ if origin is dict:
            return f"map of {_kind(get_args(annotation)[1])}"
        case _, kind if _is_model(kind):
            return "keys as above" if kind.__name__.startswith("Postgres") else "options"
    names = {timedelta: "duration", SecretStr: "secret", Path: "file", bool: "true | false"}
    return names.get(annotation, {int: "number", float: "number"}.get(annotation, "text"))


def _counted(field: FieldInfo, path: str) -> str:
    if not {int, float} & {field.annotation, *get_args(field.annotation)}:
        return ""
    fitting = [end for end in COUNTS if path.endswith(end)]
    return f" of {COUNTS[max(fitting, key=len)]}" if fitting else ""


def _range(field: FieldInfo) -> str:
    low = next((m.ge for m in field.metadata if isinstance(m, Ge)), None)
    above = next((m.gt for m in field.metadata if isinstance(m, Gt)), None)
    high = next((m.le for m in field.metadata if isinstance(m, Le)), None)
    said = [
        *([f"from {low:,}"] if isinstance(low, int | float) else []),
        *([f"above {above:,}"] if isinstance(above, int | float) else []),
        *([f"up to {high:,}"] if isinstance(high, int | float) else []),
    ]
    return f", {' '.join(said)}" if said else ""


def _default(field: FieldInfo) -> str:
    match field.get_default(call_default_factory=True):
        case value if value is PydanticUndefined:
            return "**required**"
        case None | [] | {}:
            return "none"
        case list() as entries:
            return " ".join(f"`{entry}`" for entry in entries)
        case timedelta() as value:
            text = duration(value)
        case bool() as value:
            text = str(value).lower()
        case SecretStr() | "":
            text = '""'
        case value:
            text = str(value)
    return f"`{text}`"


def duration(value: timedelta) -> str:
    """As one would write it in the file: ``10min``, ``500ms``, ``0s``."""
    seconds = value.total_seconds()
    for unit, size in UNITS:
        if seconds and (seconds / size).is_integer():
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def _model(field: FieldInfo) -> type[BaseModel] | None:
    kinds = [field.annotation, *get_args(field.annotation)]
    if get_origin(field.annotation) in {dict, list}:
        return None
    return next((kind for kind in kinds if _is_model(kind)), None)


def _is_plain(field: FieldInfo) -> bool:
    return get_origin(field.annotation) not in {dict, list} and _model(field) is None


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _heading(path: str, about: str) -> str:
    return f"## {path}\n\n{about}\n"


def _docstring(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").replace("``", "`").split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
