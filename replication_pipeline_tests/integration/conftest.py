"""A contour that the tests of a module share, emptied after each: for tests that need no second one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from replication_pipeline.embedded import EmbeddedPostgres
from replication_pipeline_tests.integration.history import Shared, contour_in


@pytest.fixture(scope="module")
def shared(
    postgres: EmbeddedPostgres, templates: dict[str, str], request: pytest.FixtureRequest
) -> Iterator[Shared]:
    """In a database named after the module. Modules that need more of it have their own."""
    database = request.module.__name__.rpartition(".test_")[2]
    with contour_in(postgres, templates["a"], database) as contour:
        yield Shared(contour)


@pytest.fixture
def make(shared: Shared) -> Iterator[Shared]:
    """Called with a test's tables; what it made is gone after the test."""
    yield shared
    shared.empty()
