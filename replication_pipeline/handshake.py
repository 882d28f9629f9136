"""What a server says when it is asked for a TLS handshake, in words.

libpq and librdkafka say "certificate verify failed" of an expired certificate, of one for another
host (librdkafka) and of one by an unknown CA alike. After such a refusal the server is asked once
more, by Python's ``ssl`` with the same CAs, which tells which it is. This decides nothing: what can't
be told is left out. No byte but the handshake is sent.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from typing import Final, Literal

PATIENCE: Final = 3.0  # seconds
_POSTGRES_ASKS: Final = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"  # SSLRequest
Cause = Literal["authority", "host", "expired", "early", "revoked", "other"]

# Numbers of OpenSSL's X509_V_ERR_….
_CAUSES: Final[dict[int, Cause]] = {
    **dict.fromkeys((2, 18, 19, 20, 21), "authority"),
    **dict.fromkeys((62, 64), "host"),
    10: "expired",
    9: "early",
    23: "revoked",
}


@dataclass(frozen=True, slots=True)
class Distrust:
    """``words`` follow on "its certificate"."""

    cause: Cause
    words: str


def why_distrusted(
    host: str, port: int, *, ca: str | None, speaks: Literal["tls", "postgres"] = "tls"
) -> Distrust | None:
    """What is wrong with this server's certificate; ``None`` when nothing is, or nobody can tell."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if ca is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(ca)
        with socket.create_connection((host, port), timeout=PATIENCE) as plain:
            if speaks == "postgres":
                plain.sendall(_POSTGRES_ASKS)
                if plain.recv(1) != b"S":
                    return None
            with context.wrap_socket(plain, server_hostname=host):
                return None
    except ssl.SSLCertVerificationError as error:
        return _told(error, host)
    except (OSError, ValueError):
        return None


def speaks_tls(host: str, port: int) -> bool:
    """Whether this server answers a TLS handshake, whatever its certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), timeout=PATIENCE) as plain:
            with context.wrap_socket(plain, server_hostname=host):
                return True
    except (OSError, ValueError):
        return False


def _told(error: ssl.SSLCertVerificationError, host: str) -> Distrust:
    cause = _CAUSES.get(error.verify_code, "other")
    match cause:
        case "authority":
            return Distrust(cause, "is not signed by a CA that is trusted here")
        case "host":
            return Distrust(cause, f"is for another host than {host}")
        case "expired":
            return Distrust(cause, "has expired")
        case "early":
            return Distrust(cause, "is not valid yet, or a clock is wrong")
        case "revoked":
            return Distrust(cause, "was called back")
        case "other":
            return Distrust(cause, f"is not accepted ({error.verify_message})")
