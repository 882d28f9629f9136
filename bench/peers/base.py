"""What a peer is to the harness: something to be installed, set up between two databases, and started.

A peer captures what is written to ``users`` in ``a`` from the moment it is set up, and brings it to
``b`` once it is started. Nothing here knows how.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Two databases with an empty table ``users`` each, between which a peer has been set up."""

    a: str
    b: str
    """Connection strings."""
    start: Callable[[], None]
    """Bring to ``b`` what was captured and what will be. Returns as soon as that is under way."""
    processes: Callable[[], Sequence[int]]
    """Those whose processor time is the peer's: its own, and the backends that work for it."""


class Peer(Protocol):
    """One product with one set of settings; ``name`` says both: ``londiste, tuned``."""

    @property
    def name(self) -> str: ...

    @property
    def versions(self) -> Mapping[str, str]:
        """Of what is measured, pinned."""

    @property
    def server(self) -> Mapping[str, str]:
        """Settings that the server must have for it."""

    def missing(self, server: EmbeddedPostgres) -> str | None:
        """What has to be there first, and how to get it; ``None`` when it can take part."""

    def install(self) -> None:
        """Fetch from the ordinary package registries what can be fetched without root."""

    def link(self, server: EmbeddedPostgres, broker: EmbeddedKafka) -> AbstractContextManager[Link]:
        """Set up between two new databases of ``server``, and taken away without a trace."""
