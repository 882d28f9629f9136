"""One contour's configuration: a YAML file, overridden key by key from the environment.

``REPLICATION__SECTION__KEY`` wins over the file; unknown keys and bad values are refused with the
key's path and a remedy. Secrets may come from a file: ``password_file`` instead of ``password``.
Values are parsed once, here; nothing else reads the environment. It opens no connection.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from replication_pipeline.domain import transport
from replication_pipeline.domain.alerts import AlertName
from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.domain.names import topic_for
from replication_pipeline.domain.signatures import SHORTEST_KEY, Signer, Verifier
from replication_pipeline.domain.version import MAX_CONTOUR_ID

CONFIG_VARIABLE: Final = "REPLICATION_CONFIG"
ENV_PREFIX: Final = "REPLICATION__"
MOST_LANES: Final = 8
_OWNER: Final = re.compile(r"team:.+|[\w.%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _duration(value: object) -> object:
    """``500ms``, ``2s``, ``10min``, ``7d`` or a bare number of seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return timedelta(seconds=value)
    if isinstance(value, str):
        text = value.strip().lower()
        number = text.rstrip("abcdefghijklmnopqrstuvwxyz").strip()
        unit = text[len(number) :].strip() or "s"
        try:
            return timedelta(seconds=float(number) * _UNITS[unit])
        except (ValueError, KeyError):
            raise ValueError(
                "not a duration; write a number with ms, s, min, h or d, such as 500ms or 10min"
            ) from None
    return value


def _not_negative(value: timedelta) -> timedelta:
    if value < timedelta():
        raise ValueError("a duration can't be negative")
    return value


ForeignKeyPolicy = Literal["delete_children", "set_null", "restore_parent", "park"]
Duration = Annotated[timedelta, BeforeValidator(_duration), AfterValidator(_not_negative)]


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values can't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ContourSettings(Section):
    """Which site this is."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9_]{0,30}$",
        description="Name of this contour: lower case letters, digits and _, at most 31.",
    )
    id: int = Field(
        ge=1,
        le=MAX_CONTOUR_ID,
        description="Number of this contour, 1 to 1023; no two contours may share one.",
    )


class PostgresSettings(Section):
    """How to reach this contour's database."""

    dsn: SecretStr = Field(
        default=SecretStr(""),
        description="libpq string or URI; the parts below are added to it and win over it.",
    )
    host: str | None = Field(default=None, description="Server name or address.")
    port: int | None = Field(default=None, ge=1, le=65535, description="Server port.")
    dbname: str | None = Field(default=None, description="Database.")
    user: str | None = Field(default=None, description="Role to connect as.")
    password: SecretStr | None = Field(default=None, description="Better: password_file.")
    password_file: Path | None = Field(
        default=None, description="File that holds the password and nothing else."
    )
    sslmode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] | None = Field(
        default=None, description="TLS towards PostgreSQL; verify-full for production."
    )
    sslrootcert: str | None = Field(
        default=None, description="CA file; or system, for the CAs that this machine trusts."
    )
    sslcert: Path | None = Field(default=None, description="Client certificate.")
    sslkey: Path | None = Field(default=None, description="Key of the client certificate.")
    sslpassword_file: Path | None = Field(
        default=None, description="File that holds the password of the client's key."
    )
    sslcrl: Path | None = Field(default=None, description="Certificates that were called back.")
    channel_binding: Literal["disable", "prefer", "require"] | None = Field(
        default=None,
        description="require: the password's proof counts for this TLS connection only (SCRAM).",
    )
    connect_timeout: Duration = Field(
        default=timedelta(seconds=5), description="Longest wait for a connection."
    )
    lock_timeout: Duration = Field(
        default=timedelta(seconds=5), description="Longest wait for a row that others lock."
    )
    statement_timeout: Duration = Field(
        default=timedelta(seconds=60), description="Longest single statement."
    )

    @model_validator(mode="after")
    def _one_password(self) -> PostgresSettings:
        _refuse_both(self, "password")
        if not self.dsn.get_secret_value() and self.host is None:
            raise ValueError("dsn or host is needed; set postgres.dsn")
        return self


class KafkaSettings(Section):
    """How to reach Kafka, and how topics are made."""

    bootstrap_servers: str = Field(
        min_length=1, description="Comma-separated host:port of some brokers."
    )
    topic_prefix: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._-]*$",
        description="Put before every topic's name; the same in every contour.",
    )
    security_protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = Field(
        default="plaintext",
        description="TLS and SASL towards Kafka; sasl_ssl or ssl for production.",
    )
    ssl_ca_location: Path | None = Field(
        default=None, description="CA file; default: the CAs that this machine trusts."
    )
    ssl_certificate_location: Path | None = Field(default=None, description="Client certificate.")
    ssl_key_location: Path | None = Field(default=None, description="Client key.")
    ssl_key_password: SecretStr | None = Field(
        default=None, description="Password of the key; better: ssl_key_password_file."
    )
    ssl_key_password_file: Path | None = Field(
        default=None, description="File that holds the password of the key and nothing else."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = (
        Field(default=None, description="SASL mechanism.")
    )
    sasl_username: str | None = Field(default=None, description="SASL user.")
    sasl_password: SecretStr | None = Field(default=None, description="Better: from a file.")
    sasl_password_file: Path | None = Field(
        default=None, description="File that holds the SASL password and nothing else."
    )
    oauth_token_url: str | None = Field(
        default=None, description="OAUTHBEARER: where the identity provider gives out tokens."
    )
    oauth_client_id: str | None = Field(
        default=None, description="OAUTHBEARER: who we are to the identity provider."
    )
    oauth_client_secret: SecretStr | None = Field(
        default=None, description="Better: oauth_client_secret_file."
    )
    oauth_client_secret_file: Path | None = Field(
        default=None, description="File that holds the client's secret and nothing else."
    )
    options: dict[str, str] = Field(
        default_factory=dict,
        description="More options of librdkafka, those of docs/security.md; no secrets.",
    )
    partitions: int = Field(
        default=6, ge=1, le=10_000, description="Partitions of a topic made by setup-table."
    )
    replication_factor: int = Field(
        default=1, ge=1, le=32, description="Copies of a topic; 3 for production."
    )
    retention: Duration = Field(
        default=timedelta(days=7), description="How long Kafka keeps events."
    )
    compression: Literal["none", "lz4", "zstd", "snappy", "gzip"] = Field(
        default="lz4", description="Compression of produced batches."
    )
    linger: Duration = Field(
        default=timedelta(), description="Wait for fuller batches while producing."
    )
    delivery_timeout: Duration = Field(
        default=timedelta(seconds=20),
        description="After this long without an acknowledgement the batch is rolled back.",
    )
    max_message_bytes: int = Field(
        default=64_000_000, ge=1_000, description="Largest event; topics are made to accept it."
    )

    @model_validator(mode="after")
    def _consistent(self) -> KafkaSettings:
        _refuse_both(self, "sasl_password", "ssl_key_password", "oauth_client_secret")
        if self.security_protocol.startswith("sasl") and self.sasl_mechanism is None:
            raise ValueError("security_protocol asks for SASL; set kafka.sasl_mechanism")
        if self.sasl_mechanism and not self.security_protocol.startswith("sasl"):
            raise ValueError("sasl_mechanism without SASL; set security_protocol: sasl_ssl")
        if (self.ssl_certificate_location is None) != (self.ssl_key_location is None):
            raise ValueError("ssl_certificate_location and ssl_key_location go together")
        if self.oauth_token_url and self.sasl_mechanism != "OAUTHBEARER":
            raise ValueError("oauth_token_url without sasl_mechanism: OAUTHBEARER")
        if (
            self.sasl_mechanism == "OAUTHBEARER"
            and self.oauth_token_url is None
            and not any("oauthbearer" in option for option in self.options)
        ):
            raise ValueError("OAUTHBEARER needs a token: set kafka.oauth_token_url")
        return self

    def weaknesses(self) -> Iterator[transport.Weakness]:
        """What profile production would refuse these for."""
        return transport.why_weak_kafka(
            self.security_protocol, self.sasl_mechanism, self.oauth_token_url, self.options
        )

    @field_validator("options", mode="before")
    @classmethod
    def _texts(cls, value: object) -> object:
        """YAML's numbers and booleans in the form that librdkafka reads."""
        if not isinstance(value, Mapping):
            return value
        return {
            str(name): str(given).lower() if isinstance(given, bool) else str(given)
            for name, given in value.items()
        }

    @field_validator("options")
    @classmethod
    def _allowed(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if why := transport.why_not_librdkafka(name):
                raise ValueError(f"{name} can't be set here: {why}")
        return value


class TableOptions(Section):
    """Options of one table; the empty set is the usual case."""

    partitions: int | None = Field(
        default=None, ge=1, le=10_000, description="Instead of kafka.partitions."
    )
    full_before: bool | None = Field(
        default=None, description="Send the whole old row in before, not only its key."
    )
    include: list[str] | None = Field(
        default=None, description="Only these columns travel, and the key."
    )
    exclude: list[str] | None = Field(default=None, description="All columns travel but these.")
    capture_truncate: bool | None = Field(
        default=None, description="Send TRUNCATE as a DELETE of every row, instead of refusing it."
    )
    displace: bool | None = Field(
        default=None,
        description="Of two keys with one unique value the newer row lives; else the first to come.",
    )
    merge: Literal["row", "columns"] | None = Field(
        default=None,
        description="columns: concurrent changes of different columns stand. The same everywhere.",
    )
    delta_columns: list[str] | None = Field(
        default=None,
        description="Counters: what each contour adds is summed up. Implies merge: columns.",
    )

    foreign_keys: dict[str, ForeignKeyPolicy] = Field(
        default_factory=dict,
        description="By constraint of this table, what becomes of its rows when another contour has "
        "deleted the row they reference, instead of the constraint's ON DELETE action. The same in "
        "every contour.",
    )

    @model_validator(mode="after")
    def _one_list(self) -> TableOptions:
        if self.include is not None and self.exclude is not None:
            raise ValueError("include and exclude exclude each other; keep one")
        if self.merge == "row" and self.delta_columns:
            raise ValueError("delta_columns need merge: columns; leave merge out")
        if (self.merge == "columns" or self.delta_columns) and (
            self.include or self.exclude or self.displace or self.capture_truncate
        ):
            raise ValueError(
                "merge: columns and delta_columns exclude include, exclude, displace "
                "and capture_truncate"
            )
        return self


class PublisherSettings(Section):
    """Queue → Kafka."""

    batch_size: int = Field(
        default=500, ge=1, le=20_000, description="Most rows of one batch, as long as no more wait."
    )
    max_batch_size: int = Field(
        default=5_000,
        ge=1,
        le=100_000,
        description="Up to here batches grow by themselves on backlog.",
    )
    lanes: int = Field(
        default=2,
        ge=1,
        le=MOST_LANES,
        description="Connections by which one publisher drains a backlog; one without a backlog.",
    )
    poll_interval: Duration = Field(
        default=timedelta(seconds=1),
        description="Longest pause between looks at an empty queue; the first are milliseconds.",
    )
    window: Duration = Field(
        default=timedelta(minutes=10),
        description="Length of a Dagster run; 0 makes one run a batch.",
    )
    extra_window: Duration = Field(
        default=timedelta(minutes=2),
        description="Length of windows beyond min_publishers, at most that of the others: how soon "
        "they are gone after a backlog.",
    )
    min_publishers: int = Field(default=1, ge=0, le=64, description="Windows always kept alive.")
    max_publishers: int = Field(default=4, ge=1, le=64, description="Most windows at once.")
    scale_up_backlog: int = Field(
        default=5_000, ge=1, description="One more window for each so many unpublished events."
    )
    max_attempts: int = Field(
        default=5, ge=1, le=100, description="Refusals by Kafka before an event is parked."
    )
    retry_backoff: Duration = Field(
        default=timedelta(seconds=1),
        description="Pause after an event's first refusal; each further one doubles it.",
    )
    max_retry_backoff: Duration = Field(
        default=timedelta(seconds=60), description="Longest pause between attempts of an event."
    )

    @model_validator(mode="after")
    def _ordered(self) -> PublisherSettings:
        if self.min_publishers > self.max_publishers:
            raise ValueError("min_publishers is greater than max_publishers; lower the first")
        return self


class ConsumerSettings(Section):
    """Kafka → tables."""

    batch_size: int = Field(
        default=500,
        ge=1,
        le=20_000,
        description="Most events of one batch, as long as no more wait.",
    )
    max_batch_size: int = Field(
        default=5_000,
        ge=1,
        le=100_000,
        description="Up to here batches grow by themselves on backlog.",
    )
    max_batch_bytes: int = Field(
        default=16 * 1024 * 1024,
        ge=1_024,
        description="Most bytes of one batch; a larger event is a batch by itself.",
    )
    poll_interval: Duration = Field(
        default=timedelta(milliseconds=500), description="Longest wait for events in one look."
    )
    lanes: int = Field(
        default=2,
        ge=1,
        le=2,
        description="2: on backlog an applier reads the next batch over a second connection while one "
        "is applied.",
    )
    window: Duration = Field(default=timedelta(minutes=10), description="Length of a Dagster run.")
    extra_window: Duration = Field(
        default=timedelta(minutes=2),
        description="Length of windows beyond min_appliers, at most that of the others.",
    )
    min_appliers: int = Field(default=1, ge=0, le=64, description="Windows always kept alive.")
    max_appliers: int = Field(default=4, ge=1, le=64, description="Most windows at once.")
    scale_up_lag: int = Field(
        default=10_000, ge=1, description="One more window for each so many events of lag."
    )
    max_clock_skew: Duration = Field(
        default=timedelta(seconds=60),
        description="Events dated further ahead of the local clock are held, not applied.",
    )
    retry_parked: Duration = Field(
        default=timedelta(seconds=2), description="How often waiting events are tried again."
    )
    foreign_key_patience: Duration = Field(
        default=timedelta(seconds=10),
        description="A delete waits at least so long for its row's children to be deleted by events "
        "still on their way, and until the deleting contour's heartbeats tell that none is; then the "
        "foreign key's policy decides.",
    )
    max_parked_events: int = Field(
        default=1_000_000,
        ge=1,
        description="Beyond so many parked events no more are taken in: topics that bring them wait.",
    )
    max_parked_bytes: int = Field(
        default=4 * 1024**3,
        ge=1_000,
        description="The same, by the size of parked events.",
    )
    session_timeout: Duration = Field(
        default=timedelta(seconds=10),
        description="A dead consumer's partitions move to the others after this long.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> ConsumerSettings:
        if self.min_appliers > self.max_appliers:
            raise ValueError("min_appliers is greater than max_appliers; lower the first")
        if (
            self.max_parked_events < self.max_batch_size
            or self.max_parked_bytes < self.max_batch_bytes
        ):
            raise ValueError(
                "max_parked_events and max_parked_bytes must have room for one batch "
                "(max_batch_size, max_batch_bytes); raise them"
            )
        return self


class SignatureSettings(Section):
    """A signature on each event, by a key that contours share. See docs/security.md."""

    key: SecretStr | None = Field(
        default=None,
        description="This contour signs what it publishes with this key; better: key_file.",
    )
    key_file: Path | None = Field(
        default=None, description="File that holds the key and nothing else."
    )
    accept: dict[str, list[SecretStr]] = Field(
        default_factory=dict,
        description="By contour: keys by which its events may be signed; better: accept_files.",
    )
    accept_files: dict[str, list[Path]] = Field(
        default_factory=dict, description="The same, each key in a file of its own."
    )
    required: bool = Field(
        default=False,
        description="Events and heartbeats without a valid signature are not applied, but parked.",
    )

    @model_validator(mode="after")
    def _usable(self) -> SignatureSettings:
        _refuse_both(self, "key")
        if self.required and not self.accept and not self.accept_files:
            raise ValueError("required needs keys; name those of each contour in accept_files")
        for key in [self.key, *[key for keys in self.accept.values() for key in keys]]:
            if key is not None and len(key.get_secret_value()) < SHORTEST_KEY:
                raise ValueError(
                    f"a key has at least {SHORTEST_KEY} characters: openssl rand -hex 32"
                )
        return self


class SecuritySettings(Section):
    """Who is believed."""

    contours: dict[str, Annotated[int, Field(ge=1, le=MAX_CONTOUR_ID)]] = Field(
        default_factory=dict,
        description="All contours with their numbers, if only these are to be believed. Default: "
        "those that heartbeats make known, and others as long as they use no number of these.",
    )
    hmac: SignatureSettings = Field(default_factory=SignatureSettings, description="Signed events.")

    @property
    def signatures_required(self) -> bool:
        """Whether what comes from Kafka has to be signed."""
        return self.hmac.required

    @model_validator(mode="after")
    def _one_number_each(self) -> SecuritySettings:
        if len(set(self.contours.values())) < len(self.contours):
            raise ValueError("contours: two have the same number; versions could not be told apart")
        return self


class CleanupSettings(Section):
    """How long finished things are kept. Unpublished and parked events are never removed."""

    published: Duration = Field(default=timedelta(days=7), description="Published queue rows.")
    processed_events: Duration = Field(
        default=timedelta(days=14),
        description="Ids of applied events; longer than Kafka keeps the events.",
    )
    conflicts: Duration = Field(default=timedelta(days=30), description="Recorded conflicts.")
    tombstones: Duration = Field(
        default=timedelta(days=14),
        description="Deletes that every contour knows; longer than Kafka keeps the events.",
    )
    dagster_runs: Duration = Field(default=timedelta(days=14), description="Finished Dagster runs.")
    batch_size: int = Field(
        default=10_000, ge=100, le=1_000_000, description="Rows deleted in one transaction."
    )
    cron: str = Field(default="17 * * * *", description="When cleanup_schedule runs.")


class WebhookSettings(Section):
    """Alerts as JSON, sent by POST to a program of yours."""

    url: SecretStr | None = Field(default=None, description="http(s) address; better: url_file.")
    url_file: Path | None = Field(
        default=None, description="File that holds the address and nothing else."
    )
    token: SecretStr | None = Field(
        default=None, description="Sent as Authorization: Bearer; better: token_file."
    )
    token_file: Path | None = Field(default=None, description="File that holds the token.")

    @model_validator(mode="after")
    def _complete(self) -> WebhookSettings:
        _one_of(self.url, self.url_file, "url")
        _refuse_both(self, "token")
        return self


class SlackSettings(Section):
    """Alerts in a Slack channel, by an incoming webhook."""

    url: SecretStr | None = Field(
        default=None, description="Address of the incoming webhook; better: url_file."
    )
    url_file: Path | None = Field(
        default=None, description="File that holds the address and nothing else."
    )

    @model_validator(mode="after")
    def _complete(self) -> SlackSettings:
        _one_of(self.url, self.url_file, "url")
        return self


class EmailSettings(Section):
    """Alerts by e-mail."""

    host: str = Field(min_length=1, description="SMTP server.")
    port: int | None = Field(
        default=None, ge=1, le=65535, description="Default: 587, with tls 465, with none 25."
    )
    security: Literal["starttls", "tls", "none"] = Field(
        default="starttls", description="Encryption towards the SMTP server."
    )
    ca_file: Path | None = Field(
        default=None, description="CA file of the server's certificate; default: the system's."
    )
    user: str | None = Field(default=None, description="Login, if the server asks for one.")
    password: SecretStr | None = Field(default=None, description="Better: password_file.")
    password_file: Path | None = Field(
        default=None, description="File that holds the password and nothing else."
    )
    sender: str = Field(min_length=3, description="Address in From.")
    recipients: list[str] = Field(min_length=1, description="Addresses in To.")

    @model_validator(mode="after")
    def _complete(self) -> EmailSettings:
        _refuse_both(self, "password")
        if self.user is not None and self.security == "none":
            raise ValueError("user would send the password in the clear; set security: starttls")
        return self


def _refuse_both(section: Section, *secrets: str) -> None:
    for secret in secrets:
        if getattr(section, secret) is not None and getattr(section, f"{secret}_file") is not None:
            raise ValueError(f"{secret} and {secret}_file exclude each other; keep one")


def _one_of(value: SecretStr | None, file: Path | None, key: str) -> None:
    if (value is None) == (file is None):
        raise ValueError(f"either {key} or {key}_file is needed")
    if value is not None and not is_web_address(value.get_secret_value()):
        raise ValueError(f"{key} is not an http:// or https:// address")


def is_web_address(text: str) -> bool:
    """Nothing else may be opened as one."""
    return text.lower().startswith(("http://", "https://"))


class MonitoringSettings(Section):
    """Thresholds of checks, and who is told when they are passed."""

    unpublished_warning: int = Field(default=1_000, ge=1, description="Unpublished events.")
    lag_warning: Duration = Field(
        default=timedelta(seconds=10), description="Age of the oldest unpublished event: WARN."
    )
    lag_critical: Duration = Field(
        default=timedelta(seconds=30), description="Age of the oldest unpublished event: ERROR."
    )
    error_rate_warning: float = Field(
        default=0.01, gt=0, le=1, description="Part of the events that were refused: WARN."
    )
    error_rate_window: Duration = Field(
        default=timedelta(minutes=5), description="Over so long the error rate is taken."
    )
    parked_warning: Duration = Field(
        default=timedelta(minutes=1),
        description="An event from elsewhere may wait so long, for its parent for example.",
    )
    apply_lag_warning: int = Field(
        default=10_000, ge=1, description="Events of one table that are still in Kafka: WARN."
    )
    apply_stalled_warning: Duration = Field(
        default=timedelta(seconds=60),
        description="Events of a table are in Kafka, and for so long none was applied: WARN.",
    )
    heartbeat_warning: Duration = Field(
        default=timedelta(seconds=60), description="Silence of a contour: WARN."
    )
    dead_rows_warning: int = Field(
        default=1_000_000, ge=1, description="Dead rows of the queue that vacuum has not removed."
    )
    snapshot_warning: Duration = Field(
        default=timedelta(hours=1), description="Age of the oldest transaction in the database."
    )
    held_warning: int = Field(
        default=100, ge=1, description="Events that wait behind one that Kafka refuses."
    )
    heartbeat_interval: Duration = Field(
        default=timedelta(seconds=10),
        description="How often the contour says in Kafka that it is alive; 0: never.",
    )
    fence_after: Duration = Field(
        default=timedelta(days=7),
        description="A contour silent for longer is fenced and must be loaded again.",
    )
    clock_skew_warning: Duration = Field(
        default=timedelta(milliseconds=500), description="Between the clocks of two contours."
    )
    check_interval: Duration = Field(
        default=timedelta(minutes=5),
        description="How often an unchanged verdict is stored again in the check history.",
    )
    deep_checks_cron: str = Field(
        default="7 * * * *", description="When deep_checks_schedule runs (UTC)."
    )
    alert_after: Duration = Field(
        default=timedelta(seconds=15),
        description="A trouble must last so long to be told; the publish lag is told at once.",
    )
    alert_clear_after: Duration = Field(
        default=timedelta(seconds=30), description="It must be away so long to be called over."
    )
    alerts_off: list[AlertName] = Field(
        default=["unpublished_count"],
        description="Alerts that nobody is to be told.",
    )
    webhook: WebhookSettings | None = Field(default=None, description="Alerts as JSON by POST.")
    email: EmailSettings | None = Field(default=None, description="Alerts by e-mail.")
    slack: SlackSettings | None = Field(default=None, description="Alerts in Slack.")
    observe_interval: Duration = Field(
        default=timedelta(minutes=5),
        description="How often Dagster's asset pages get new numbers; less often with many tables.",
    )
    stalled_after: Duration = Field(
        default=timedelta(minutes=5),
        description="Events that wait or are parked for longer show in Dagster, with their hours.",
    )
    owners: list[str] = Field(
        default=["team:replication"],
        description="Owners of the assets in Dagster: team:name, or an e-mail address.",
    )
    runbook_url: str | None = Field(
        default=None, description="Where people find docs/operate.md; linked from the assets."
    )
    topic_url: str | None = Field(
        default=None, description="A topic's page in a Kafka console, with {topic} in it."
    )
    table_url: str | None = Field(
        default=None, description="A table's page in a database console, with {table} in it."
    )

    @model_validator(mode="after")
    def _ordered(self) -> MonitoringSettings:
        if self.lag_warning > self.lag_critical:
            raise ValueError("lag_warning is greater than lag_critical; lower the first")
        for owner in self.owners:
            if not _OWNER.fullmatch(owner):
                raise ValueError(f"{owner!r} is no owner; write team:name or an e-mail address")
        return self


class SnapshotSettings(Section):
    """What a snapshot of a table may take of its source."""

    max_queue: int = Field(
        default=20_000,
        ge=100,
        description="It waits while so many events are unpublished, so that changes stay quick.",
    )
    max_chunk: int = Field(
        default=2_000, ge=1, description="Most rows that one transaction reads and keeps locked."
    )


class CompareSettings(Section):
    """Other contours: ``compare_schedule`` compares, ``doctor`` and ``trace`` look at them as well."""

    contours: dict[str, PostgresSettings] = Field(
        default_factory=dict,
        description="By name: how to reach their databases, as a role that may read the tables.",
    )
    cron: str = Field(default="37 3 * * *", description="When compare_schedule runs (UTC).")
    patience: Duration = Field(
        default=timedelta(minutes=5),
        description="Longest wait for what was under way while the tables were read.",
    )


class LoggingSettings(Section):
    """Log lines, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe line that is written."
    )
    format: Literal["json", "console"] = Field(
        default="json", description="json for programs, console for people."
    )
    batch_lines: int | None = Field(
        default=None,
        ge=1,
        description="At most so many batches a second get a line; the next one counts the others. "
        "Default: every batch.",
    )


def _tables(value: object) -> object:
    """A list of names is a map without options."""
    if isinstance(value, list):
        return {str(name): TableOptions() for name in value}
    if isinstance(value, Mapping):
        return {name: {} if options is None else options for name, options in value.items()}
    return value


class Settings(BaseSettings):
    """Everything about one contour."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    profile: Literal["development", "production"] = Field(
        default="development",
        description="production: connections to PostgreSQL and Kafka that aren't encrypted and checked "
        "are refused.",
    )
    insecure: bool = Field(
        default=False, description="With profile production: let such connections be, all the same."
    )
    contour: ContourSettings
    postgres: PostgresSettings
    kafka: KafkaSettings
    tables: Annotated[dict[str, TableOptions], BeforeValidator(_tables)] = Field(
        default_factory=dict, description="Replicated tables: a list, or a map with options."
    )
    publisher: PublisherSettings = PublisherSettings()
    consumer: ConsumerSettings = ConsumerSettings()
    security: SecuritySettings = SecuritySettings()
    cleanup: CleanupSettings = CleanupSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    snapshot: SnapshotSettings = SnapshotSettings()
    compare: CompareSettings = CompareSettings()
    logging: LoggingSettings = LoggingSettings()

    @model_validator(mode="after")
    def _listed(self) -> Settings:
        listed, me = self.security.contours, self.contour
        if listed and listed.get(me.name) != me.id:
            raise ValueError(
                f"security.contours lists all contours; add {me.name}: {me.id}, which is this one"
            )
        return self

    @model_validator(mode="after")
    def _topics(self) -> Settings:
        for table in self.tables:
            topic_for(table, prefix=self.kafka.topic_prefix)
        return self

    @property
    def strict(self) -> bool:
        """Whether connections must be encrypted, and servers must show who they are."""
        return self.profile == "production" and not self.insecure

    @model_validator(mode="after")
    def _protected(self) -> Settings:
        for weak in self.kafka.weaknesses() if self.strict else ():
            raise ValueError(
                f"profile production refuses {weak.key}: {weak.why}; {weak.remedy} "
                "(or write insecure: true)"
            )
        return self

    def of_other_contour(self, name: str) -> Settings:
        """To connect to the database of ``compare.contours.{name}``; this one's, if it isn't there."""
        contour = self.contour.model_copy(update={"name": name})
        postgres = self.compare.contours.get(name, self.postgres)
        return self.model_copy(update={"postgres": postgres, "contour": contour})

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment first, then the file's content (handed over as keyword arguments)."""
        assert isinstance(env_settings, EnvSettingsSource)
        assert isinstance(init_settings, InitSettingsSource)
        return env_settings, init_settings


def load_settings(path: Path | str | None = None) -> Settings:
    """Settings from ``path``, or from the file that ``REPLICATION_CONFIG`` names, or from the
    environment alone. Raises ``ConfigurationError`` with every mistake's path and remedy.
    """
    chosen = Path(path) if path else _path_from_environment()
    content = _read(chosen) if chosen else {}
    _refuse_unknown_variables()
    try:
        settings = Settings(**content)
    except ValidationError as error:
        raise _explain(error, chosen) from None
    except SettingsError as error:
        name = re.search(r'field "(\w+)"', str(error))
        raise ConfigurationError(
            f"environment variable {ENV_PREFIX}{name[1].upper() if name else '…'}: not valid JSON",
            remedy="set single keys instead, such as REPLICATION__POSTGRES__DSN",
        ) from None
    if settings.strict:
        _refuse_written_secrets(content, settings, chosen)
    return settings


def secret_in(value: SecretStr | None, file: Path | None, key: str) -> str | None:
    """What is set, or the content of its file, whose ``key`` errors name; ``None`` without either."""
    if value is not None:
        return value.get_secret_value()
    return None if file is None else read_secret(file, key)


def read_secret(path: Path, key: str) -> str:
    """The content of a secret's file without its final newline."""
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigurationError(
            f"{key}: {path} can't be read: {error.strerror}",
            remedy="let the file be readable by the service's user, and by nobody else",
        ) from error


def signer_of(settings: Settings) -> Signer | None:
    """What this contour's events are signed by, if they are."""
    hmac = settings.security.hmac
    if hmac.key is not None:
        return Signer(hmac.key.get_secret_value().encode())
    if hmac.key_file is not None:
        return Signer(_key(hmac.key_file, "security.hmac.key_file"))
    return None


def verifier_of(settings: Settings) -> Verifier | None:
    """By what events from Kafka are verified, if they are. Own ones by the own key, too."""
    hmac = settings.security.hmac
    if not hmac.required:
        return None
    accepted: dict[str, list[bytes]] = {}
    for contour, keys in hmac.accept.items():
        accepted.setdefault(contour, []).extend(k.get_secret_value().encode() for k in keys)
    for contour, files in hmac.accept_files.items():
        accepted.setdefault(contour, []).extend(
            _key(file, f"security.hmac.accept_files.{contour}") for file in files
        )
    signer = signer_of(settings)
    if signer is not None:
        accepted.setdefault(settings.contour.name, []).append(signer.key)
    return Verifier(accepted)


def _key(path: Path, setting: str) -> bytes:
    key = read_secret(path, setting)
    if len(key) < SHORTEST_KEY:
        raise ConfigurationError(
            f"{setting}: {path} holds a key of less than {SHORTEST_KEY} characters",
            remedy="make one with: openssl rand -hex 32",
        )
    return key.encode()


def _path_from_environment() -> Path | None:
    value = os.environ.get(CONFIG_VARIABLE)
    return Path(value) if value else None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"the configuration file {path} can't be read: {error.strerror}",
            remedy=f"give its path with --config or {CONFIG_VARIABLE}",
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigurationError(
            f"{path}{where}: not valid YAML", remedy="mend the file's indentation and quotes"
        ) from None  # it quotes the file
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"{path}: the top level is not a mapping",
            remedy="start from config.example.yaml: sections such as contour: and postgres:",
        )
    return {str(key): value for key, value in content.items()}


def _refuse_written_secrets(content: Mapping[str, Any], settings: Settings, path: object) -> None:
    """Files of configuration are copied, shown and kept in repositories; secrets must not be."""
    for key in _written_secrets(content, settings):
        variable = f"{ENV_PREFIX}{key.replace('.', '__').upper()}"
        file = f"{key[:-3]}password_file" if key.endswith(".dsn") else f"{key}_file"
        raise ConfigurationError(
            f"{path}: {key}: profile production takes no secrets from this file",
            remedy=f"take it out, and set {file}, or {variable} in the environment",
        )


def _written_secrets(content: Mapping[str, Any], held: object, path: str = "") -> Iterator[str]:
    for name, given in content.items():
        value = held.get(name) if isinstance(held, Mapping) else getattr(held, name, None)
        if isinstance(given, Mapping):
            yield from _written_secrets(given, value, f"{path}{name}.")
        elif not isinstance(value, SecretStr) or not given:
            continue
        elif name != "dsn" or transport.has_password(str(given)):
            yield f"{path}{name}"


def _refuse_unknown_variables() -> None:
    """pydantic-settings ignores unknown names under the prefix; a typing mistake must not pass."""
    for name in os.environ:
        if name.upper().startswith(ENV_PREFIX):
            section = name[len(ENV_PREFIX) :].split("__")[0].lower()
            if section not in Settings.model_fields:
                raise ConfigurationError(
                    f"environment variable {name}: there is no section {section!r}",
                    remedy="sections are " + ", ".join(Settings.model_fields),
                )


def _explain(error: ValidationError, path: Path | None) -> ConfigurationError:
    lines = []
    for mistake in error.errors(include_input=False, include_url=False):
        where = ".".join(str(part) for part in mistake["loc"]) or "settings"
        match mistake["type"]:
            case "missing":
                variable = ENV_PREFIX + "__".join(str(part).upper() for part in mistake["loc"])
                lines.append(f"{where}: is missing; set it in the file or as {variable}")
            case "extra_forbidden":
                lines.append(f"{where}: no such key; see config.example.yaml for all keys")
            case "value_error":
                lines.append(f"{where}: {mistake['msg'].removeprefix('Value error, ')}")
            case _:
                lines.append(f"{where}: {mistake['msg'][0].lower()}{mistake['msg'][1:]}")
    source = str(path) if path else "environment (no configuration file given)"
    return ConfigurationError(
        f"{source}: the configuration can't be used\n  " + "\n  ".join(lines),
        remedy="every key is described in config.example.yaml",
    )
