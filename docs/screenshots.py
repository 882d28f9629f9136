"""Takes the screenshots of README.md from a running demo, with the Chromium of this machine.

    make demo                                  # in another terminal; let it run for five minutes
    pip install playwright && python docs/screenshots.py http://127.0.0.1:3000

Every picture waits for the text that it is about, and fails when that does not come.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
WAIT = 60_000  # milliseconds


def runs(page: Page, address: str) -> None:
    page.goto(f"{address}/runs?q%5B0%5D=status%3ASUCCESS")
    page.get_by_text("publish_sensor").first.wait_for(timeout=WAIT)


def lineage(page: Page, address: str) -> None:
    page.set_viewport_size({"width": 1500, "height": 1500})
    groups = ",".join(f"global@global:{name}" for name in ("a", "kafka", "b"))
    page.goto(f"{address}/asset-groups?expanded={quote(groups)}")
    page.get_by_text("customers_changes").first.wait_for(timeout=WAIT)


def checks(page: Page, address: str) -> None:
    page.goto(f"{address}/assets/a/replication_queue?view=checks&checkDetail=publish_lag")
    page.get_by_text("oldest_unpublished_seconds").first.wait_for(timeout=WAIT)
    page.get_by_text("Passed").first.wait_for(timeout=WAIT)


def hours(page: Page, address: str) -> None:
    page.goto(f"{address}/assets/a/replication_queue?view=partitions")
    page.get_by_text("Materialized (").first.wait_for(timeout=WAIT)


def window(page: Page, address: str) -> None:
    page.goto(f"{address}/assets/a/replication_queue?view=overview")
    page.get_by_text("Plots", exact=True).click(timeout=WAIT)
    page.get_by_text("Events", exact=True).last.click(timeout=WAIT)  # not by partition
    page.get_by_text("lag_ms_p95").first.wait_for(timeout=WAIT)


def main() -> None:
    address = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:3000"
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page()
        for take in (runs, lineage, checks, hours, window):
            page.set_viewport_size({"width": 1500, "height": 1000})
            take(page, address)
            page.wait_for_timeout(5000)  # plots draw themselves
            page.screenshot(path=IMAGES / f"{take.__name__}.png")
            print(f"{take.__name__}.png")  # noqa: T201
        browser.close()


if __name__ == "__main__":
    main()
