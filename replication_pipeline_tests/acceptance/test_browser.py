"""What an operator does in the Dagster UI, done in a real browser: sees that lag is high, backfills an
hour that is stuck, retries parked events, terminates a window.

Pictures of each step, for docs/operate.md, are put where ``SCREENSHOTS`` says, else beside the logs.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, sync_playwright

from bench.site import Site, site
from replication_pipeline.demo.dagster_services import shows
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline_tests.conftest import USERS, Contour, contour_maker
from replication_pipeline_tests.publishing import park_by_hand, until

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]

PATIENCE = 120.0  # seconds: several programs start, on a machine that may be busy
SIZE = {"width": 1500, "height": 1000}
UNPUBLISHED = "select count(*) from replication_queue where not published and record_key = %s"


@dataclass(frozen=True, slots=True)
class Console:
    """A contour, its Dagster, and a browser that looks at it."""

    contour: Contour
    dagster: Site
    page: Page
    pictures: Path

    def open(self, path: str) -> None:
        self.page.goto(f"http://127.0.0.1:{self.dagster.ui_port}{path}")

    def queue(self, view: str) -> None:
        self.open(f"/assets/a/replication_queue?view={view}")

    def text(self, text: str | re.Pattern[str]) -> Locator:
        return self.page.get_by_text(text).first

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name).first

    def picture(self, name: str) -> None:
        self.page.mouse.move(0, 0)  # nothing is hovered over
        self.page.screenshot(path=self.pictures / f"{name}.png", animations="disabled")

    def shown(self, text: str | re.Pattern[str], what: str, again: str) -> None:
        """Until a page that is opened ``again`` and again shows ``text``."""

        def found() -> bool:
            self.queue(again) if "/" not in again else self.open(again)
            try:
                self.text(text).wait_for(timeout=10_000)
            except Exception as error:
                if "Timeout" not in str(error):
                    raise
                return False
            return True

        until(found, what, PATIENCE)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    chromium = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if chromium is None:
        pytest.skip("this machine has neither chromium nor google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
        page.set_default_timeout(PATIENCE * 1000)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def console(
    page: Page,
    postgres: EmbeddedPostgres,
    kafka: EmbeddedKafka,
    templates: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Console]:
    folder = tmp_path_factory.mktemp("console")
    pictures = Path(os.environ.get("SCREENSHOTS", folder))
    pictures.mkdir(exist_ok=True)
    with contour_maker(postgres, templates, kafka) as make:
        contour = make(USERS, ["users"], count=1)[0]
        with site(
            folder / "site",
            postgres,
            contour.settings,
            database="dagster_browser",
            webserver=True,
            monitoring={
                "lag_warning": "1s",
                "lag_critical": "2s",
                "stalled_after": "1s",
                "observe_interval": "30s",
            },
        ) as dagster:
            dagster.until_running()
            until(lambda: shows(f"http://127.0.0.1:{dagster.ui_port}", 1), "the UI", PATIENCE)
            yield Console(contour, dagster, page, pictures)


@contextmanager
def nobody_publishes(contour: Contour) -> Iterator[None]:
    """Publishers live and get no shard."""
    with contour.session() as session:
        session.execute("select from replication.publish_shards for update")
        yield


def test_a_lag_alarm_is_seen_and_goes(console: Console) -> None:
    checks = "checks&checkDetail=publish_lag"
    with nobody_publishes(console.contour):
        console.contour.run("insert into users (id) select generate_series(1, 50)")
        console.shown(
            re.compile("has waited for ([2-9]|\\d\\d+)[.]"), "publish_lag to fail", checks
        )
        console.text("oldest_unpublished_seconds").wait_for()
        console.picture("lag-alarm")
    console.shown("No event waits.", "publish_lag to pass", checks)


def test_a_stalled_hour_is_backfilled(console: Console) -> None:
    park_by_hand(console.contour, 1001, "UNKNOWN_TOPIC_OR_PART")
    console.shown("Failed (1)", "the hour to be red", "partitions")
    console.picture("stalled-hour")
    materialize_failed(console, "backfill")
    until(lambda: gone(console.contour, 1001), "the hour's event to be published", PATIENCE)
    console.shown("Failed (0)", "the hour to be green again", "partitions")
    console.picture("hour-after-backfill")


def test_a_parked_event_is_retried(console: Console) -> None:
    park_by_hand(console.contour, 1002, "MSG_SIZE_TOO_LARGE")
    reasons = "/assets/a/parked_events?view=partitions"
    console.shown("publish MSG_SIZE_TOO_LARGE", "the reason to be listed", reasons)
    console.shown("Failed (1)", "the reason to be red", reasons)
    console.text("publish MSG_SIZE_TOO_LARGE").click()
    console.text("what_to_do").wait_for()
    console.text('{"id":1002}').wait_for()
    console.picture("parked-reason")
    materialize_failed(console, "retry-parked")
    until(lambda: gone(console.contour, 1002), "the event to be published", PATIENCE)


def test_a_window_is_terminated_and_followed_by_another(console: Console) -> None:
    window = console.dagster.until_running()
    console.open(f"/runs/{window.run_id}")
    console.text("STEP_START").wait_for()
    console.button("Terminate").click()
    really = console.page.get_by_role("dialog").get_by_role("button", name="Terminate")
    really.wait_for()
    console.picture("terminate")
    really.click()
    until(
        lambda: status(console, window.run_id) not in ("STARTED", "CANCELING"),
        "the window to end",
        PATIENCE,
    )
    assert status(console, window.run_id) in ("CANCELED", "SUCCESS")
    console.open(f"/runs/{window.run_id}")
    console.text("ASSET_MATERIALIZATION").wait_for()  # the report, for as far as it came
    console.picture("terminated-window")
    assert console.dagster.until_running().run_id != window.run_id


def gone(contour: Contour, number: int) -> bool:
    return bool(contour.value(UNPUBLISHED, f'{{"id":{number}}}') == 0)


def status(console: Console, run_id: str) -> str:
    return next(run.status for run in console.dagster.windows("publish") if run.run_id == run_id)


def materialize_failed(console: Console, picture: str) -> None:
    """Materialize… → Failed → Launch."""
    console.button("Materialize").click()
    dialog = console.page.get_by_role("dialog")
    dialog.get_by_role("button", name="Failed", exact=True).click()
    console.picture(picture)
    dialog.get_by_role("button", name="Launch").click()
