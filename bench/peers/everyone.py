"""All peers that can be compared, the floor first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from bench.peers import bucardo, debezium, londiste, symmetricds
from bench.peers.base import Peer
from bench.peers.connect import Connect
from bench.peers.native import Native
from bench.peers.ours import Ours
from replication_pipeline.embedded import EmbeddedPostgres


@contextmanager
def everyone() -> Iterator[list[Peer]]:
    """Nothing is fetched or started yet. What several of them share lives as long as the block."""
    with Connect(debezium.plugins) as connect:
        yield [
            *(Native(), Ours()),
            *(londiste.DEFAULT, londiste.TUNED),
            *(bucardo.DEFAULT, bucardo.TUNED),
            *debezium.all_settings(connect),
            *symmetricds.ALL_SETTINGS,
        ]


def names() -> list[str]:
    with everyone() as peers:
        return [peer.name for peer in peers]


def those_who_can(peers: Sequence[Peer], server: EmbeddedPostgres, console: Console) -> list[Peer]:
    """Installed; the others are told, with how to get them, and left out."""
    found = []
    for peer in peers:
        lack = peer.missing(server)
        if lack is None:
            peer.install()
            found.append(peer)
        else:
            console.print(f"{peer.name} is left out: {lack}", highlight=False, markup=False)
    return found
