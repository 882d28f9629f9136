"""The libpq string of a contour: what may be said in it, and what is too weak for production.

libpq's own parser reads ``postgres.dsn``, so what is checked here is what it will do. Options that
would change the session under the pipeline are refused, wherever they come from: environment
variables of libpq (``PGOPTIONS``, ``PGSERVICE``) count as well.

``sslrootcert=system`` becomes the path of the machine's CAs: the OpenSSL that psycopg's wheel brings
looks for them in a directory of its own, where there are none.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Final

import psycopg
from psycopg import conninfo, pq

from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.domain.transport import Weakness, why_not_libpq, why_weak_postgres
from replication_pipeline.settings import PostgresSettings, secret_in

# A server that has vanished without a word is noticed within half a minute instead of hours. Whatever
# the connection string says of these wins.
VANISHED: Final = {
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}


def conninfo_of(settings: PostgresSettings, *, strict: bool = False) -> str:
    """The libpq string, secrets included: never log it. ``strict``: refuse what is not encrypted, or
    not checked to be the right server. Raises ``ConfigurationError``.
    """
    parts: dict[str, object] = {
        "host": settings.host,
        "port": settings.port,
        "dbname": settings.dbname,
        "user": settings.user,
        "sslmode": settings.sslmode,
        "sslrootcert": settings.sslrootcert,
        "sslcert": settings.sslcert,
        "sslkey": settings.sslkey,
        "sslcrl": settings.sslcrl,
        "sslpassword": secret_in(None, settings.sslpassword_file, "postgres.sslpassword_file"),
        "channel_binding": settings.channel_binding,
        "password": secret_in(settings.password, settings.password_file, "postgres.password_file"),
        "connect_timeout": max(2, round(settings.connect_timeout.total_seconds())),
    }
    try:
        given = conninfo.conninfo_to_dict(
            settings.dsn.get_secret_value(),
            **{name: str(value) for name, value in parts.items() if value is not None},
        )
    except psycopg.ProgrammingError:
        raise ConfigurationError(
            "postgres.dsn: not a libpq connection string",
            remedy="write key=value pairs or a URI: host=db1 dbname=app user=replicator",
        ) from None
    options = {name: str(value) for name, value in given.items() if value is not None}
    _refuse_torn_address(options)
    _refuse_forbidden(options)
    options = _with_system_cas(options)
    if strict:
        _refuse_weak(options)
        # Kerberos' encryption would go before TLS, and past what was asked for.
        options = {"gssencmode": "disable"} | options
    return conninfo.make_conninfo("", **(VANISHED | options))


def weakness_of(settings: PostgresSettings) -> Weakness | None:
    """What profile production would refuse these for."""
    options = conninfo.conninfo_to_dict(conninfo_of(settings))
    return why_weak_postgres({name: str(value) for name, value in options.items()})


def _refuse_torn_address(options: Mapping[str, str]) -> None:
    """A URI whose password has @, / or : in it is read as another address, and libpq's errors would
    then quote a part of the password as the name of a host, a port or a database.
    """
    names = [options.get(name, "") for name in ("host", "hostaddr", "dbname")]
    port = options.get("port", "").replace(",", "")
    if any("@" in name for name in names) or (port and not port.isdigit()):
        raise ConfigurationError(
            "postgres.dsn: this is not an address; has the password characters that a URI reserves?",
            remedy="write them as %40 for @, %2F for / and %3A for :, or set postgres.password_file",
        )


def _refuse_forbidden(options: Mapping[str, str]) -> None:
    for name, value in options.items():
        if value and (why := why_not_libpq(name, value)):
            raise ConfigurationError(
                f"postgres.dsn: {name} can't be set there: {why}", remedy=f"take {name} out"
            )
    for option in pq.Conninfo.get_defaults():
        if option.envvar and option.val not in (None, option.compiled):
            name, variable = option.keyword.decode(), option.envvar.decode()
            if name not in options and (why := why_not_libpq(name, option.val.decode())):
                raise ConfigurationError(
                    f"environment variable {variable} can't be used: {why}",
                    remedy=f"unset {variable} for this program",
                )


def _with_system_cas(options: dict[str, str]) -> dict[str, str]:
    if options.get("sslrootcert") != "system":
        return options
    if options.get("sslmode", "verify-full") != "verify-full":
        raise ConfigurationError(
            f"postgres.sslmode {options['sslmode']} is too weak for sslrootcert system: anybody can "
            "have a certificate of some well-known CA",
            remedy="set postgres.sslmode: verify-full",
        )
    paths = ssl.get_default_verify_paths()
    cas = {"sslrootcert": paths.cafile} if paths.cafile else {}
    return options | {"sslmode": "verify-full"} | cas


def _refuse_weak(options: Mapping[str, str]) -> None:
    if found := why_weak_postgres(options):
        raise ConfigurationError(
            f"profile production refuses postgres.{found.key} {found.why}",
            remedy=f"{found.remedy} (or write insecure: true)",
        )
