"""Certificates made for a test: an authority, what it signs, and one that nobody trusts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from replication_pipeline.embedded import TlsFiles


@dataclass(frozen=True)
class Identity:
    """PEM files of one party; ``both`` has key and certificate, as Kafka wants them."""

    certificate: Path
    key: Path
    both: Path
    locked_key: Path
    """The same key under the password ``s3cret``."""

    def served(self, client_ca: Path | None = None) -> TlsFiles:
        return TlsFiles(self.certificate, self.key, client_ca)


class Authority:
    """A CA with its file ``ca``, which signs whatever it is asked for."""

    def __init__(self, directory: Path, name: str) -> None:
        self._authority = trustme.CA(organization_name=name)
        self._directory = directory
        self._name = name
        self.ca = directory / f"{name}-ca.pem"
        self._authority.cert_pem.write_to_path(self.ca)

    def issue(self, name: str, *hosts: str, expired: bool = False) -> Identity:
        """A certificate for ``hosts``, whose common name is ``name``."""
        now = datetime.now(UTC)
        made = self._authority.issue_cert(
            *hosts,
            common_name=name,
            not_before=now - timedelta(days=9),
            not_after=now + timedelta(days=-1 if expired else 1),
        )
        key = load_pem_private_key(made.private_key_pem.bytes(), None)
        plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        locked = key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"s3cret")
        )
        chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
        files = {"crt": chain, "key": plain, "both": plain + chain, "locked": locked}
        paths = {}
        for kind, content in files.items():
            paths[kind] = self._directory / f"{self._name}-{name}.{kind}.pem"
            paths[kind].touch(0o600)
            paths[kind].write_bytes(content)
        return Identity(paths["crt"], paths["key"], paths["both"], paths["locked"])
