"""Which partition Kafka's Java clients, and librdkafka's ``murmur2_random``, choose for a key."""

from __future__ import annotations

from typing import Final

MASK: Final = 0xFFFFFFFF
FACTOR: Final = 0x5BD1E995


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of ``key`` among ``partitions``."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bits, with Kafka's seed."""
    hashed = (0x9747B28C ^ len(data)) & MASK
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * FACTOR & MASK
        word = (word ^ word >> 24) * FACTOR & MASK
        hashed = (hashed * FACTOR & MASK) ^ word
    if rest := data[whole:]:
        hashed = (hashed ^ int.from_bytes(rest, "little")) * FACTOR & MASK
    hashed = (hashed ^ hashed >> 13) * FACTOR & MASK
    return hashed ^ hashed >> 15
