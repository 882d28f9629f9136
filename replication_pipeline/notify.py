"""Telling people: one message to one receiver, by log, webhook, e-mail or Slack.

A receiver takes a message or ``NotificationError`` says why not; nothing is tried again here. Addresses
and passwords are secrets: they are read at use, and errors name the server's host alone.
"""

from __future__ import annotations

import http.client
import json
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr

from replication_pipeline.domain.alerts import Level
from replication_pipeline.domain.errors import ConfigurationError, TransientError
from replication_pipeline.logs import get_logger
from replication_pipeline.settings import (
    EmailSettings,
    MonitoringSettings,
    SlackSettings,
    WebhookSettings,
    is_web_address,
    read_secret,
)

TIMEOUT: Final = 10.0  # seconds; a tick of a sensor has a minute
COLOURS: Final[dict[Level, str]] = {"ok": "#2eb67d", "warning": "#ecb22e", "critical": "#e01e5a"}
PORTS: Final = {"starttls": 587, "tls": 465, "none": 25}


class NotificationError(TransientError):
    """The receiver could not be reached, or did not take the message."""


@dataclass(frozen=True, slots=True)
class Message:
    """``began`` (seconds since 1970) tells one trouble from the next of the same name."""

    contour: str
    alert: str
    level: Level
    text: str
    advice: str = ""
    began: float = 0.0
    at: float = 0.0

    @property
    def id(self) -> str:
        """The same for all messages of one trouble."""
        return f"{self.contour}/{self.alert}/{self.began:.0f}"

    @property
    def title(self) -> str:
        """One line."""
        if self.level == "ok":
            return f"contour {self.contour}: {self.alert} is over"
        return f"contour {self.contour}: {self.level.upper()} {self.alert}"

    def plain(self) -> str:
        """The message in words."""
        times = [f"since {_time(self.began)}"] if self.began else []
        if self.level == "ok":
            times.append(f"until {_time(self.at)}")
        lines = [self.text, self.advice if self.level != "ok" else "", " ".join(times)]
        return "\n\n".join(line for line in lines if line)


class Receiver(Protocol):
    """``name`` says in the logs which one it is."""

    @property
    def name(self) -> str: ...
    def send(self, message: Message) -> None: ...


@dataclass(frozen=True, slots=True)
class Log:
    """A line in the service's own log."""

    name: str = "log"

    def send(self, message: Message) -> None:
        log = get_logger("alerts")
        write = {"ok": log.info, "warning": log.warning, "critical": log.error}[message.level]
        write(
            message.title,
            alert=message.alert,
            severity=message.level,
            text=message.text,
            advice=message.advice,
            id=message.id,
        )


@dataclass(frozen=True, slots=True)
class Webhook:
    """JSON by POST. Any answer of 200 to 299 is a receipt; redirections are refused."""

    settings: WebhookSettings
    name: str = "webhook"

    def send(self, message: Message) -> None:
        url = _address(self.settings, "monitoring.webhook.url_file")
        token = _secret(
            self.settings.token, self.settings.token_file, "monitoring.webhook.token_file"
        )
        body = {
            "id": message.id,
            "contour": message.contour,
            "alert": message.alert,
            "level": message.level,
            "title": message.title,
            "text": message.text,
            "advice": message.advice,
            "began": _time(message.began),
            "at": _time(message.at),
        }
        headers = {"Content-Type": "application/json", "User-Agent": "replication-pipeline"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            request = urllib.request.Request(  # noqa: S310  http or https, says _address
                url, json.dumps(body).encode(), headers, method="POST"
            )
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT):
                pass
        except urllib.error.HTTPError as error:
            error.close()
            raise _not_told(self.name, url, f"answered {error.code}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise _not_told(self.name, url, _reason(error)) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A POST that is redirected would arrive as a GET without its body."""

    def redirect_request(self, *_: object) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Slack:
    """A channel, by an incoming webhook."""

    settings: SlackSettings
    name: str = "slack"

    def send(self, message: Message) -> None:
        from slack_sdk.webhook import WebhookClient

        url = _address(self.settings, "monitoring.slack.url_file")
        try:
            answer = WebhookClient(url, timeout=round(TIMEOUT)).send(
                text=message.title,
                attachments=[
                    {
                        "color": COLOURS[message.level],
                        "fallback": message.title,
                        "text": message.plain(),
                    }
                ],
            )
        except Exception as error:  # noqa: BLE001  the library has no root of its errors
            raise _not_told(self.name, url, _reason(error)) from None
        if answer.status_code != http.client.OK:
            raise _not_told(self.name, url, f"answered {answer.status_code}")


@dataclass(frozen=True, slots=True)
class Email:
    """One mail to all recipients. It counts as told when the server took it for one of them."""

    settings: EmailSettings
    name: str = "email"

    def send(self, message: Message) -> None:
        settings = self.settings
        port = settings.port or PORTS[settings.security]
        mail = EmailMessage()
        mail["Subject"] = message.title
        mail["From"] = settings.sender
        mail["To"] = ", ".join(settings.recipients)
        mail["Date"] = format_datetime(datetime.now(UTC))
        mail["Message-ID"] = make_msgid(domain="replication-pipeline")
        mail.set_content(message.plain() + "\n")
        try:
            with self._connect(port) as smtp:
                if settings.user is not None:
                    password = _secret(
                        settings.password,
                        settings.password_file,
                        "monitoring.email.password_file",
                    )
                    smtp.login(settings.user, password)
                smtp.send_message(mail)
        except smtplib.SMTPResponseException as error:
            # The server's text may quote what was sent.
            raise _not_told(self.name, settings.host, f"answered {error.smtp_code}") from None
        except (OSError, smtplib.SMTPException) as error:
            raise _not_told(self.name, settings.host, _reason(error)) from None

    def _connect(self, port: int) -> smtplib.SMTP:
        settings = self.settings
        if settings.security == "none":
            return smtplib.SMTP(settings.host, port, timeout=TIMEOUT)
        context = ssl.create_default_context(
            cafile=None if settings.ca_file is None else str(settings.ca_file)
        )
        if settings.security == "tls":
            return smtplib.SMTP_SSL(settings.host, port, timeout=TIMEOUT, context=context)
        smtp = smtplib.SMTP(settings.host, port, timeout=TIMEOUT)
        try:
            smtp.starttls(context=context)
        except BaseException:
            smtp.close()
            raise
        return smtp


def receivers(monitoring: MonitoringSettings) -> Sequence[Receiver]:
    """The log, and those that are configured."""
    chosen: list[Receiver] = [Log()]
    if monitoring.webhook is not None:
        chosen.append(Webhook(monitoring.webhook))
    if monitoring.email is not None:
        chosen.append(Email(monitoring.email))
    if monitoring.slack is not None:
        chosen.append(Slack(monitoring.slack))
    return chosen


def _address(settings: WebhookSettings | SlackSettings, key: str) -> str:
    url = _secret(settings.url, settings.url_file, key)
    if not is_web_address(url):
        raise ConfigurationError(
            f"{key}: holds no http:// or https:// address",
            remedy="write the address into the file, and nothing else",
        )
    return url


def _secret(value: SecretStr | None, file: Path | None, key: str) -> str:
    if value is not None:
        return value.get_secret_value()
    return read_secret(file, key).strip() if file is not None else ""


def _not_told(name: str, where: str, why: str) -> NotificationError:
    try:
        host = urlsplit(where).hostname or where.partition("/")[0]
    except ValueError:
        host = "its address"
    return NotificationError(f"{name}: {host} {why}", remedy=f"check monitoring.{name}")


def _reason(error: Exception) -> str:
    """The kind of failure; texts of libraries may hold the address, which is a secret."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    match cause:
        case ssl.SSLError():
            return f"refused by TLS ({cause.reason or type(cause).__name__})"
        case TimeoutError():
            return "did not answer in time"
        case OSError(strerror=str(told)):
            return f"could not be reached: {told}"
        case _:
            return f"could not be told: {type(cause).__name__}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
