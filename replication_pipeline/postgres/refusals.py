"""Why a server can't be connected to, when time will not heal it: TLS, certificates, proofs of a login.

libpq tells no SQLSTATE then, and an expired certificate looks like an unknown CA, so its texts are read
and the server is asked once more (``handshake``). What is not recognised stays an outage, and so does
everything of a connection string with several servers, as another one may come back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import psycopg
from psycopg import conninfo

from replication_pipeline.domain.errors import FatalError, ReplicationError, TransientError
from replication_pipeline.handshake import why_distrusted


class _Known(NamedTuple):
    """A text of libpq's or the server's; words and remedy may quote its groups."""

    pattern: str
    words: str
    remedy: str


_OURS_IS_REFUSED: Final = (
    r"FATAL: +connection requires a valid client certificate"
    r"|FATAL: +certificate authentication failed for user"
    r"|SSL error: .*alert (?:unknown ca|(?:bad |unsupported )?certificate)"
)
_OURS_IS_UNUSABLE: Final = (
    r"(could not (?:load private key|read certificate) file \"[^\"]*\""
    r"|(?:private key|certificate) file \"[^\"]*\" "
    r"(?:does not exist|has group or world access|is not a regular file|must be owned)"
    r"|certificate present, but not private key file \"[^\"]*\""
    r"|certificate does not match private key file \"[^\"]*\")"
)
_NOTHING_IN_COMMON: Final = (
    r"SSL error: (?:unsupported protocol|no protocols available|.*handshake failure"
    r"|.*alert protocol version)"
)
_KNOWN: Final = (
    _Known(
        r"server does not support SSL",
        "the server speaks no TLS, and postgres.sslmode asks for it",
        "switch ssl on in the server; is postgres.host the right one, and no pooler before it?",
    ),
    _Known(
        r"does not match host name \"([^\"]*)\"",
        "the server is not trusted: its certificate is for another host than {0}",
        "write the name that its certificate has into postgres.host",
    ),
    _Known(
        r"root certificate file \"([^\"]*)\" does not exist",
        "postgres.sslrootcert: there is no file {0}",
        "put the CA's certificate there, or set postgres.sslrootcert: system",
    ),
    _Known(
        r"could not read root certificate file \"([^\"]*)\"",
        "postgres.sslrootcert: {0} holds no certificate that can be read",
        "put the CA's certificate there, as PEM",
    ),
    _Known(
        _OURS_IS_UNUSABLE,
        "our client certificate can't be used: {0}",
        "check postgres.sslcert, sslkey and sslpassword_file; the key must be readable by this user "
        "alone",
    ),
    _Known(
        _OURS_IS_REFUSED,
        "the server does not accept our client certificate",
        "set postgres.sslcert and sslkey to a valid certificate of this role, by a CA that the "
        "server trusts",
    ),
    _Known(
        r"channel binding (?:is )?required",
        "the server does not tie the login to this TLS connection (postgres.channel_binding)",
        "let pg_hba.conf ask this role for scram-sha-256 over TLS, and connect without a pooler",
    ),
    _Known(
        r"authentication method requirement \"([^\"]*)\" failed",
        "the server asks for another kind of login than require_auth {0}",
        "look at this role's line in pg_hba.conf",
    ),
    _Known(
        r"FATAL: +no pg_hba.conf entry for .*, no encryption",
        "the server lets this role in over TLS only",
        "set postgres.sslmode: verify-full, and sslrootcert",
    ),
    _Known(
        _NOTHING_IN_COMMON,
        "the server and this client have no TLS version or cipher in common",
        "let the server speak TLS 1.2 or 1.3 (ssl_min_protocol_version)",
    ),
)


def refusal(error: psycopg.Error, target: str, contour: str) -> ReplicationError | None:
    """What to tell of a connection that failed; ``None`` when it looks like an outage."""
    told = _told(str(error), conninfo.conninfo_to_dict(target))
    if told is None:
        return None
    what, remedy, several = told
    message = f"contour {contour}: PostgreSQL: {what}"
    if several:
        return TransientError(message, remedy=remedy, kind="PostgreSQL: connection refused by TLS")
    return FatalError(message, remedy=remedy)


def _told(text: str, target: Mapping[str, object]) -> tuple[str, str, bool] | None:
    hosts, ports = (str(target.get(key) or "").split(",") for key in ("host", "port"))
    several = len(hosts) > 1
    if "certificate verify failed" in text:
        return (*_distrusted(hosts[0], ports[0], target.get("sslrootcert")), several)
    for known in _KNOWN:
        if found := re.search(known.pattern, text):
            return known.words.format(*found.groups()), known.remedy, several
    return None


def _distrusted(host: str, port: str, ca: object) -> tuple[str, str]:
    why = why_distrusted(host, int(port or 5432), ca=str(ca) if ca else None, speaks="postgres")
    words = why.words if why else "is not accepted"
    match why.cause if why else "other":
        case "host":
            remedy = "write the name that its certificate has into postgres.host"
        case "expired" | "early" | "revoked":
            remedy = "give the server a new certificate (ssl_cert_file, then reload)"
        case _:
            remedy = "set postgres.sslrootcert to the CA that has signed the server's certificate"
    return f"{host} is not trusted: its certificate {words}", remedy
