"""The script that writes docs/configuration.md, loaded from where it is: ``docs/`` is no package."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from types import ModuleType
from typing import cast

from pydantic.fields import FieldInfo

from replication_pipeline.postgres.queries import sql_directory

DOCS = sql_directory().parent / "docs"


def _load() -> ModuleType:
    path = DOCS / "configuration_reference.py"
    spec = importlib.util.spec_from_file_location("configuration_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_MODULE = _load()


def page() -> str:
    """The page as the model says it."""
    return cast("str", _MODULE.page())


def leaves() -> Iterator[tuple[str, FieldInfo]]:
    """Every setting that holds a value, by path."""
    return cast("Iterator[tuple[str, FieldInfo]]", _MODULE.leaves())


def environment_name(path: str) -> str:
    """Its variable."""
    return cast("str", _MODULE.environment_name(path))
