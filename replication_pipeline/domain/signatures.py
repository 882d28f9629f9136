"""Signed events: whoever may write to a topic may not yet speak for a contour.

A signature is an HMAC-SHA-256 over the topic, Kafka's key and the event's bytes, as they are on the
wire, under a key that the contour shares with those that apply its events. It says who wrote the bytes,
for which table. It does not hide them, and one that is sent again is still valid: versions make repeats
harmless. Keys change without a gap: who verifies accepts several keys of a contour for a while.

Key and topic stand before the value with their lengths, so that no two events have the same input.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

HEADER: Final = "replication-signature"
FORM: Final = b"v1:"
SHORTEST_KEY: Final = 32  # characters


class Seal(NamedTuple):
    """What a signature is verified by, beside the event itself."""

    key: bytes | None
    signature: bytes | None


@dataclass(frozen=True, slots=True, repr=False)
class Signer:
    """Holds a secret, which it never shows."""

    key: bytes

    def sign(self, topic: str, key: bytes, value: bytes) -> bytes:
        """The header's value."""
        return FORM + mac(self.key, topic, key, value)


@dataclass(frozen=True, slots=True, repr=False)
class Verifier:
    """Keys by contour; holds secrets, which it never shows."""

    accepted: Mapping[str, Sequence[bytes]]

    def objection(self, contour: str, topic: str, seal: Seal, value: bytes) -> str | None:
        """Why the event is not taken for one of ``contour``'s; ``None``: it is."""
        keys = self.accepted.get(contour)
        if not keys:
            return f"no key of contour {contour} is accepted here"
        if seal.signature is None:
            return "it has no signature"
        if not seal.signature.startswith(FORM):
            return "its signature has a form that is not known here"
        told = seal.signature[len(FORM) :]
        for key in keys:
            if hmac.compare_digest(told, mac(key, topic, seal.key or b"", value)):
                return None
        return f"its signature is by no key of contour {contour} that is accepted here"


def mac(secret: bytes, topic: str, key: bytes, value: bytes) -> bytes:
    """In hexadecimal, so that stock tools show it."""
    name = topic.encode()
    head = len(name).to_bytes(4) + name + len(key).to_bytes(4) + key
    return hmac.digest(secret, head + value, "sha256").hex().encode()
