"""Receivers of alerts against real servers: what arrives, what a failure says, what is never said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replication_pipeline import logs, notify
from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.embedded.process import free_port
from replication_pipeline.notify import Message, NotificationError
from replication_pipeline.settings import LoggingSettings, MonitoringSettings
from replication_pipeline_tests.receivers import (
    HttpReceiver,
    MailReceiver,
    certificate,
    http_receiver,
    mail_receiver,
)

pytestmark = pytest.mark.unit

SECRET = "correct-horse-battery"
MESSAGE = Message(
    "a",
    "publish_lag",
    "critical",
    "The oldest event has waited for 40.0 s.",
    "Read the newest publish run.",
    began=1_700_000_000.0,
    at=1_700_000_020.0,
)
OVER = Message("a", "publish_lag", "ok", "No event waits.", "", MESSAGE.began, MESSAGE.at + 60)


@pytest.fixture
def http() -> Iterator[HttpReceiver]:
    with http_receiver() as receiver:
        yield receiver


@pytest.fixture
def mail() -> Iterator[MailReceiver]:
    with mail_receiver() as receiver:
        yield receiver


def receiver(**monitoring: Any) -> notify.Receiver:
    """The one that is configured beside the log."""
    log, chosen = notify.receivers(MonitoringSettings(**monitoring))
    assert log.name == "log"
    return chosen


def test_a_webhook_gets_json_with_a_token(http: HttpReceiver) -> None:
    hook = receiver(webhook={"url": f"{http.url}/alerts?k={SECRET}", "token": SECRET})
    hook.send(MESSAGE)
    hook.send(OVER)
    (path, headers, body), (_, _, over) = http.requests
    assert path == f"/alerts?k={SECRET}"
    assert headers["authorization"] == f"Bearer {SECRET}"
    assert headers["content-type"] == "application/json"
    assert body == {
        "id": "a/publish_lag/1700000000",
        "contour": "a",
        "alert": "publish_lag",
        "level": "critical",
        "title": "contour a: CRITICAL publish_lag",
        "text": "The oldest event has waited for 40.0 s.",
        "advice": "Read the newest publish run.",
        "began": "2023-11-14T22:13:20+00:00",
        "at": "2023-11-14T22:13:40+00:00",
    }
    assert (over["id"], over["level"]) == (body["id"], "ok")
    assert over["title"] == "contour a: publish_lag is over"


@pytest.mark.parametrize("status", [302, 307, 404, 500])
def test_a_webhook_that_does_not_take_it_is_a_failure_and_a_redirection_is_not_followed(
    http: HttpReceiver, status: int
) -> None:
    http.status = status
    with pytest.raises(NotificationError, match=f"127.0.0.1 answered {status}") as caught:
        receiver(webhook={"url": f"{http.url}/{SECRET}", "token": SECRET}).send(MESSAGE)
    assert len(http.requests) == 1
    assert SECRET not in told_of(caught)


def test_slack_gets_text_and_colour(http: HttpReceiver) -> None:
    receiver(slack={"url": f"{http.url}/services/{SECRET}"}).send(MESSAGE)
    ((path, _, body),) = http.requests
    assert path == f"/services/{SECRET}"
    assert body["text"] == "contour a: CRITICAL publish_lag"
    (attachment,) = body["attachments"]
    assert attachment["color"] == "#e01e5a"
    assert "waited for 40.0 s" in attachment["text"]
    assert "Read the newest publish run." in attachment["text"]


def test_slack_that_does_not_take_it_is_a_failure(http: HttpReceiver) -> None:
    http.status = 403
    with pytest.raises(NotificationError, match=r"slack: 127.0.0.1 answered 403") as caught:
        receiver(slack={"url": f"{http.url}/services/{SECRET}"}).send(MESSAGE)
    assert SECRET not in told_of(caught)


def test_an_email_goes_to_all(mail: MailReceiver) -> None:
    receiver(
        email={
            "host": "localhost",
            "port": mail.port,
            "security": "none",
            "sender": "pipeline@example.com",
            "recipients": ["one@example.com", "two@example.com"],
        }
    ).send(MESSAGE)
    ((recipients, letter),) = mail.mails
    assert recipients == ["one@example.com", "two@example.com"]
    assert letter["Subject"] == "contour a: CRITICAL publish_lag"
    assert letter["From"] == "pipeline@example.com"
    assert letter["Message-ID"]
    assert "waited for 40.0 s" in letter.get_content()


def test_an_email_goes_encrypted_and_with_a_login(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    password = tmp_path / "password"
    password.write_text("open sesame\n", encoding="utf-8")
    with mail_receiver((cert, key)) as server:
        email = {
            "host": "localhost",
            "port": server.port,
            "user": "pipeline",
            "password_file": password,
            "sender": "pipeline@example.com",
            "recipients": ["one@example.com"],
        }
        receiver(email=email | {"ca_file": cert}).send(MESSAGE)
        assert server.logins == [("pipeline", "open sesame")]
        assert len(server.mails) == 1

        with pytest.raises(NotificationError, match="refused by TLS"):
            receiver(email=email).send(MESSAGE)  # nobody vouches for the certificate
        password.write_text(SECRET, encoding="utf-8")
        with pytest.raises(NotificationError, match="localhost answered 535") as caught:
            receiver(email=email | {"ca_file": cert}).send(MESSAGE)
        assert SECRET not in told_of(caught)
        assert len(server.mails) == 1


def test_a_mail_server_that_does_not_take_it_is_a_failure(mail: MailReceiver) -> None:
    mail.refuse = True
    email = {
        "host": "localhost",
        "port": mail.port,
        "security": "none",
        "sender": "pipeline@example.com",
        "recipients": ["one@example.com"],
    }
    with pytest.raises(NotificationError, match="email: localhost answered 451"):
        receiver(email=email).send(MESSAGE)


@pytest.mark.parametrize("kind", ["webhook", "slack", "email"])
def test_a_receiver_that_is_not_there_is_told_by_its_host_alone(kind: str) -> None:
    port = free_port()
    settings: dict[str, Any] = (
        {
            "host": "127.0.0.1",
            "port": port,
            "security": "none",
            "sender": "a@example.com",
            "recipients": ["b@example.com"],
        }
        if kind == "email"
        else {"url": f"http://127.0.0.1:{port}/{SECRET}"}
    )
    with pytest.raises(NotificationError, match=rf"{kind}: 127\.0\.0\.1 could not be") as caught:
        receiver(**{kind: settings}).send(MESSAGE)
    assert SECRET not in told_of(caught)
    assert caught.value.remedy == f"check monitoring.{kind}"


def test_an_address_may_come_from_a_file_that_is_read_at_use(
    http: HttpReceiver, tmp_path: Path
) -> None:
    file = tmp_path / "url"
    hook = receiver(webhook={"url_file": file})
    with pytest.raises(ConfigurationError, match=r"monitoring\.webhook\.url_file"):
        hook.send(MESSAGE)
    file.write_text(f"file:///etc/{SECRET}", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="no http") as caught:
        hook.send(MESSAGE)
    assert SECRET not in told_of(caught)
    file.write_text(f"{http.url}/from-file\n", encoding="utf-8")
    hook.send(MESSAGE)
    assert http.requests[0][0] == "/from-file"


def test_the_log_gets_a_line_by_severity(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LoggingSettings(), contour="a")
    (log,) = notify.receivers(MonitoringSettings())
    log.send(MESSAGE)
    log.send(OVER)
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["level"], first["component"], first["alert"]) == (
        "error",
        "alerts",
        "publish_lag",
    )
    assert first["event"] == "contour a: CRITICAL publish_lag"
    assert (second["level"], second["event"]) == ("info", "contour a: publish_lag is over")


def test_secrets_do_not_show_in_settings() -> None:
    monitoring = MonitoringSettings(
        webhook={"url": f"https://example.com/{SECRET}", "token": SECRET},
        slack={"url": f"https://example.com/{SECRET}"},
        email={
            "host": "mail",
            "user": "u",
            "password": SECRET,
            "sender": "a@example.com",
            "recipients": ["b@example.com"],
        },
    )
    assert SECRET not in repr(monitoring) + str(monitoring) + repr(notify.receivers(monitoring))


@pytest.mark.parametrize(
    ("monitoring", "expected"),
    [
        ({"webhook": {}}, "either url or url_file"),
        ({"slack": {"url": "x", "url_file": "y"}}, "either url or url_file"),
        ({"webhook": {"url": "file:///etc/passwd"}}, "not an http"),
        (
            {
                "email": {
                    "host": "m",
                    "security": "none",
                    "user": "u",
                    "sender": "abc",
                    "recipients": ["b"],
                }
            },
            "in the clear",
        ),
        ({"alerts_off": ["lag"]}, "publish_lag"),
    ],
)
def test_mistakes_are_told(monitoring: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        MonitoringSettings(**monitoring)


def told_of(caught: pytest.ExceptionInfo[BaseException]) -> str:
    """Everything that a log or a traceback would show of it."""
    error = caught.value
    shown = [str(error), repr(error), repr(error.args)]
    while (
        error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    ) is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
        shown.append(str(error) + repr(error))
    return " ".join(shown)
