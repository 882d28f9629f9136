"""Whether connections are held to what they should be: ``profile``, and what ``insecure`` lets pass.

It judges the configuration, of Kafka too, and of ``compare.contours``; that a connection is encrypted
all the same, as the server asks for it, is seen by the checks ``tls``. Secrets that ``insecure`` lets
stand in the configuration file are not seen, as nothing tells where a setting came from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.domain.findings import Finding, fine, notice
from replication_pipeline.domain.network import host_of, is_local
from replication_pipeline.postgres.checks.patient import Patient, PatientCheck
from replication_pipeline.postgres.conninfo import weakness_of
from replication_pipeline.settings import Settings


def _profile(patient: Patient) -> Iterator[Finding]:
    settings = patient.settings
    if settings.strict:
        yield fine("profile production: connections are encrypted, and servers are checked")
    elif settings.profile == "production":
        yield from _insecure(settings)
    elif away := sorted(_elsewhere(patient)):
        yield notice(
            f"profile development, but {', '.join(away)} {'is' if len(away) == 1 else 'are'} not on "
            "this machine: connections need be neither encrypted nor checked",
            "set profile: production, and what it then asks for",
        )


def _insecure(settings: Settings) -> Iterator[Finding]:
    found = [*_weaknesses(settings)]
    for key, why, remedy in found:
        yield notice(f"insecure: true lets {key} pass: {why}", f"{remedy}; then take insecure out")
    if not found:
        yield notice(
            "insecure: true, although no connection is weaker than profile production asks for",
            "take insecure out; secrets in the configuration file are refused then",
        )


def _weaknesses(settings: Settings) -> Iterator[tuple[str, str, str]]:
    servers = {"postgres": settings.postgres} | {
        f"compare.contours.{name}": there for name, there in settings.compare.contours.items()
    }
    for section, server in servers.items():
        try:
            weak = weakness_of(server)
        except ConfigurationError:
            continue  # such a contour can't be reached, which `reach` says
        if weak is not None:
            yield f"{section}.{weak.key}", weak.why, weak.remedy
    for weak in settings.kafka.weaknesses():
        yield weak.key, weak.why, weak.remedy


def _elsewhere(patient: Patient) -> Iterator[str]:
    """Servers on other machines."""
    for connection in (patient.connection, *patient.reached().values()):
        info = connection.info
        if not is_local(info.hostaddr or info.host):
            yield info.host
    for server in patient.settings.kafka.bootstrap_servers.split(","):
        if not is_local(host_of(server)):
            yield server.strip()


CHECKS: Final = (
    PatientCheck(
        "profile", "role", _profile, "profile development; all servers are on this machine"
    ),
)
