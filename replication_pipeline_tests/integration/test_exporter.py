"""The exporter tells what the database has counted, to a role that may only look, and neither loads nor
waits for the database; dashboards, alert rules and documentation use what it tells.
"""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
import yaml

from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.domain.metrics import METRICS, Sample
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline.exporter import collector
from replication_pipeline.exporter.server import served
from replication_pipeline.postgres import metrics
from replication_pipeline.postgres.compare_contours import open_contours
from replication_pipeline.postgres.comparison import compare_table
from replication_pipeline.settings import PostgresSettings, Settings
from replication_pipeline_tests.applying import applying
from replication_pipeline_tests.conftest import USERS, Contour, contour_maker
from replication_pipeline_tests.promql import Uses, template_labels, uses
from replication_pipeline_tests.proxy import Proxy
from replication_pipeline_tests.publishing import publishing, until, with_settings
from replication_pipeline_tests.scraping import Scrape, exporting, get, scrape

pytestmark = pytest.mark.integration

ROOT: Final = Path(__file__).resolve().parents[2]
DASHBOARDS: Final = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
RULES: Final = ROOT / "deploy" / "prometheus" / "alerts.yml"
GUIDE: Final = ROOT / "docs" / "monitoring.md"
SCRAPER: Final = "scraper_test"
SECRET: Final = "canary-5f0c1d"
HOSTILE: Final = 'we"ird\\ {table="x"}\n'
OF_THE_SCRAPE: Final = {"instance", "job"}  # labels that Prometheus adds
OPTIONS: Final[dict[str, Any]] = {
    "monitoring": {"heartbeat_interval": "200ms"},
    "consumer": {"poll_interval": "50ms"},
    "publisher": {"poll_interval": "50ms"},
}


def seen_by(contour: Contour, role: str = SCRAPER) -> Settings:
    """The contour as the exporter's role reaches it."""
    dsn = psycopg.conninfo.make_conninfo(contour.dsn, user=role, password=SECRET)
    return contour.settings.model_copy(update={"postgres": PostgresSettings(dsn=dsn)})


@pytest.fixture(scope="module")
def contours(
    postgres: EmbeddedPostgres, templates: dict[str, str], kafka: EmbeddedKafka
) -> Iterator[list[Contour]]:
    """Two that have replicated for a while: rows both ways, a conflict, a row that differs, parked
    events. Nobody works any more.
    """
    with contour_maker(postgres, templates, kafka) as make:
        a, _ = both = make(USERS, ["users"], **OPTIONS)
        a.run(f"create role {SCRAPER} login in role replication_monitor, pg_read_all_stats")
        try:
            live(both)
            yield both
        finally:
            for contour in both:
                contour.run(f"drop owned by {SCRAPER}")
            a.run(f"drop role {SCRAPER}")


def live(contours: list[Contour]) -> None:
    a, b = contours
    a.run("insert into users (id, name) values (0, 'a')")
    b.run("insert into users (id, name) values (0, 'b')")
    compared = with_settings(a.settings, compare={"contours": {"b": PostgresSettings(dsn=b.dsn)}})
    with ExitStack() as workers:
        for contour in contours:
            workers.enter_context(publishing(contour.settings))
            workers.enter_context(applying(contour.settings))
        a.run("insert into users (id) select generate_series(1, 300)")
        b.run("insert into users (id) select generate_series(301, 350)")
        until(
            lambda: [c.value("select count(*) from users") for c in contours] == [351] * 2, "rows"
        )
        b.run("set session_replication_role = replica")
        b.run("update users set name = 'else' where id = 7")
        b.run("reset session_replication_role")
        with open_contours(compared) as connections:
            assert len(compare_table(connections, "users", compared).differences) == 1
        heard = "select count(*) from replication.contours where clock_ahead is not null"
        until(lambda: [c.value(heard) for c in contours] == [2, 2], "both to hear of each other")
    a.run("insert into users (id) values (1001), (1002)")
    a.run(
        "update replication_queue set held = true, created_at = now() - interval '1 minute', "
        "parked_at = case when record_key ~ '1001' then now() - interval '1 minute' end "
        "where not published"
    )
    a.run(
        "insert into replication.parked_events (topic, partition, kafka_offset, table_name, reason, "
        "event, parked_at) values ('t', 0, 0, 'users', 'missing_parent', '', now() - interval '90 s'), "
        "('t', 0, 1, %s, 'malformed', '', now()), ('t', 0, 2, null, 'malformed', '', now())",
        HOSTILE,
    )


@pytest.fixture(scope="module")
def told(contours: list[Contour]) -> Scrape:
    """By a, to a role that may only look."""
    return scrape(seen_by(contours[0]))


def test_every_metric_is_told_with_its_labels_and_nothing_else(told: Scrape) -> None:
    known = {metric.name: metric for metric in METRICS}
    names = {f.name + ("_total" if f.type == "counter" else ""): f for f in told.families}
    assert names.keys() == known.keys()
    for name, family in names.items():
        assert family.samples, f"nothing of {name}"
        assert (family.type, family.documentation) == (known[name].kind, known[name].help)
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == {"contour", *known[name].labels}
            assert sample.labels["contour"] == "a"
    assert {s.labels["part"] for s in told.named("replication_scrape_errors")} == set(metrics.PARTS)
    assert not errors(told)
    assert SECRET not in told.text


def test_membership_in_replication_monitor_is_enough_but_for_others_sessions(
    contours: list[Contour], capsys: pytest.CaptureFixture[str]
) -> None:
    a, _ = contours
    a.run(f"revoke pg_read_all_stats from {SCRAPER}")
    told = scrape(seen_by(a))
    said = capsys.readouterr()
    assert "grant pg_read_all_stats to the exporter's role" in said.out + said.err
    a.run(f"grant pg_read_all_stats to {SCRAPER}")
    assert not errors(told)
    assert [family.name for family in told.families if not family.samples] == [
        "replication_oldest_snapshot_seconds"
    ]


def test_figures_are_those_of_the_database(told: Scrape, contours: list[Contour]) -> None:
    a, _ = contours
    published = a.value("select count(*) from replication_queue where published")
    (counted,) = a.run(
        "select sum(processed) filter (where role = 'publisher'), "
        "sum(processed) filter (where role = 'applier'), sum(applied), sum(skipped), sum(conflicts), "
        "sum(batches) filter (where role = 'publisher'), sum(batches) filter (where role = 'applier') "
        "from (select role, processed, applied, skipped, conflicts, batches from replication.workers "
        "union all select 'publisher', processed, 0, 0, 0, batches from replication.worker_counts) w"
    )
    assert counted == tuple(
        told.value(f"replication_{name}_total", **labels)
        for name, labels in (
            ("events_processed", {"role": "publisher"}),
            ("events_processed", {"role": "applier"}),
            ("events_applied", {}),
            ("events_skipped", {}),
            ("conflicts", {}),
            ("batches", {"role": "publisher"}),
            ("batches", {"role": "applier"}),
        )
    )
    assert counted[0] == published
    assert counted[4] == 1
    assert told.value("replication_up") == 1
    assert told.value("replication_unpublished_events") == 2
    assert told.value("replication_held_events") == 1
    assert 60 <= told.value("replication_publish_lag_seconds") < 600
    assert told.value("replication_workers", role="publisher") == 0
    assert told.value("replication_workers", role="applier") == 0
    assert told.value("replication_parked_events", direction="publish", table="users") == 1
    assert told.value("replication_parked_events", table=HOSTILE) == 1
    assert told.value("replication_parked_events", table="") == 1
    oldest = told.value("replication_parked_oldest_age_seconds", reason="missing_parent")
    assert 90 <= oldest < 600
    assert told.value("replication_parked_space_used_ratio") == 3 / 1_000_000
    assert told.value("replication_compare_differing_rows", table="users") == 1
    for stamp in ("compare_last", "last_success"):
        for sample in told.named(f"replication_{stamp}_timestamp_seconds"):
            assert 0 <= time.time() - sample.value < 600
    for peer in "ab":
        assert 0 <= told.value("replication_heartbeat_age_seconds", peer=peer) < 600
        assert told.value("replication_contour_fenced", peer=peer) == 0
    assert 0 <= told.value("replication_arrived_age_seconds", peer="b") < 600
    assert abs(told.value("replication_clock_skew_seconds", peer="b")) < 1
    assert told.value("replication_apply_lag_events", table="users") == 0
    assert told.value("replication_queue_size_bytes") > 8192
    assert told.value("replication_oldest_snapshot_seconds") >= 0


def test_histograms_have_every_event_and_batch(told: Scrape) -> None:
    """Windows that end in an orderly way lose nothing of them."""
    batches = "replication_batches_total"
    publisher, applier = {"role": "publisher"}, {"role": "applier"}
    for name, labels, count in (
        ("publish_latency", {"table": "users"}, 301),
        # Those of b; what a has sent comes home, and is no arrival.
        ("end_to_end_lag", {"table": "users"}, 51),
        ("batch_duration", publisher, told.value(batches, **publisher)),
        ("batch_duration", applier, told.value(batches, **applier)),
    ):
        base = f"replication_{name}_seconds"
        assert told.value(f"{base}_count", **labels) == count, (name, labels)
        assert told.value(f"{base}_bucket", **labels, le="+Inf") == count
        buckets = [
            s.value for s in told.named(f"{base}_bucket") if labels.items() <= s.labels.items()
        ]
        assert buckets == sorted(buckets)
        assert 0 < told.value(f"{base}_sum", **labels) / count < 60


def errors(told: Scrape) -> set[str]:
    """Parts that could not be read."""
    return {s.labels["part"] for s in told.named("replication_scrape_errors") if s.value}


def test_a_part_that_fails_costs_its_own_metrics(
    contours: list[Contour], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for lack of a right, one because somebody has locked its table."""
    monkeypatch.setattr(collector, "LONGEST_STATEMENT", timedelta(milliseconds=100))
    a, _ = contours
    with a.session() as other, exporting(seen_by(a)) as port:
        a.run("revoke select on replication.parked_events from replication_monitor")
        other.execute("lock table replication.comparisons")
        told = Scrape(get(port))
        other.rollback()
        a.run("grant select on replication.parked_events to replication_monitor")
        until(lambda: not errors(Scrape(get(port))), "the parts to be read again")
    assert errors(told) == {"parked", "comparisons"}
    assert told.value("replication_up") == 1
    missing = {m.name for m in METRICS} - {s.name.split("_bucket")[0] for s in told.samples}
    assert missing == {
        "replication_parked_events",
        "replication_parked_oldest_age_seconds",
        "replication_parked_space_used_ratio",
        "replication_compare_differing_rows",
        "replication_compare_last_timestamp_seconds",
    }


def test_a_database_that_is_away_or_does_not_answer_is_told_in_time(
    contours: list[Contour], postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "LONGEST_LOOK", 0.5)
    a, _ = contours
    with Proxy(postgres.port) as proxy:
        settings = seen_by(a)
        dsn = psycopg.conninfo.make_conninfo(
            settings.postgres.dsn.get_secret_value(), host="127.0.0.1", port=proxy.port
        )
        settings = settings.model_copy(update={"postgres": PostgresSettings(dsn=dsn)})
        with exporting(settings) as port:

            def up() -> bool:
                return Scrape(get(port)).value("replication_up") == 1

            until(up, "the first scrape")
            proxy.freeze(answers_only=True)
            began = time.monotonic()
            told = Scrape(get(port))
            assert time.monotonic() - began < 5, "the scrape has waited for the database"
            assert told.value("replication_up") == 0
            assert {s.name for s in told.samples} == {"replication_up", "replication_scrape_errors"}
            assert get(port, "/healthz") == "ok\n"
            proxy.mend()
            until(up, "it to answer again")
            proxy.cut()
            until(lambda: not up(), "the loss to be told")
            proxy.mend()
            until(up, "it to be back")
        proxy.cut()


def test_scrapes_that_come_often_are_answered_from_memory(contours: list[Contour]) -> None:
    a, _ = contours
    with exporting(seen_by(a), every=60.0) as port:
        first = Scrape(get(port)).value("replication_compare_differing_rows")
        a.run("update replication.comparisons set differing = 12")
        assert Scrape(get(port)).value("replication_compare_differing_rows") == first
    with exporting(seen_by(a)) as port:
        assert Scrape(get(port)).value("replication_compare_differing_rows") == 12
    a.run("update replication.comparisons set differing = 1")


def test_what_takes_long_is_read_less_often(contours: list[Contour]) -> None:
    a, _ = contours

    def slow(connection: Any, _settings: Settings) -> Iterator[metrics.Told]:
        connection.execute("select pg_sleep(0.1)")
        yield Sample("replication_held_events", (), 0.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(metrics.PARTS, "backlog", slow)
        exporter = collector.Exporter(seen_by(a), every=0.0)
        list(exporter.collect())
        read = exporter._parts["backlog"]
        exporter.close()
    assert read.took >= 0.1
    assert read.due - time.monotonic() > 1, "a twentieth of the time, at most"


def test_other_paths_are_refused(contours: list[Contour]) -> None:
    with exporting(contours[0].settings) as port, pytest.raises(urllib.error.HTTPError) as refused:
        get(port, "/")
    assert refused.value.code == 404
    refused.value.close()


def test_an_address_that_is_taken_is_refused_in_words(contours: list[Contour]) -> None:
    settings = contours[0].settings
    with exporting(settings) as port, pytest.raises(ConfigurationError) as refused:
        with served(collector.Exporter(settings), "127.0.0.1", port):
            pytest.fail("two servers on one port")
    assert f"port {port}: Address already in use" in refused.value.message


# --- who uses it ----------------------------------------------------------------------------------


def check(used: Uses, told: Scrape, templates: set[str], where: str) -> None:
    """Every metric, label and wanted value exists; so do the labels that are written out."""
    values: defaultdict[str, defaultdict[str, set[str]]]
    values = defaultdict(lambda: defaultdict(set))
    for sample in told.samples:
        for label, value in sample.labels.items():
            values[sample.name][label].add(value)
    labels = set(OF_THE_SCRAPE)
    for name, matchers in used.selectors:
        assert name in values, f"{where}: there is no metric {name}"
        labels |= values[name].keys()
        for label, wanted in matchers:
            assert label in values[name], f"{where}: {name} has no label {label}"
            assert wanted is None or wanted in values[name][label], f"{where}: {name} {wanted}"
    assert used.grouping <= labels, f"{where}: {used.grouping - labels}"
    assert templates <= labels, f"{where}: {templates - labels}"


def panels_of(dashboard: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_a_dashboard_shows_what_there_is(path: Path, told: Scrape) -> None:
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    panels = panels_of(dashboard)
    assert len(panels) > 20
    places: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        box = panel["gridPos"]
        own = {
            (x, y)
            for x in range(box["x"], box["x"] + box["w"])
            for y in range(box["y"], box["y"] + box["h"])
        }
        assert not own & places, f"{panel['title']} lies on another panel"
        places |= own
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in panels:
        where = panel["title"]
        assert len(panel["description"]) > 20, where
        assert panel["fieldConfig"]["defaults"]["unit"], where
        for target in panel["targets"]:
            assert 'contour=~"$contour"' in target["expr"], where
            check(uses(target["expr"]), told, template_labels(target["legendFormat"]), where)
    for variable in dashboard["templating"]["list"]:
        if found := re.fullmatch(r"label_values\((\w+), (\w+)\)", str(variable.get("definition"))):
            assert any(found[2] in s.labels for s in told.named(found[1])), variable["name"]
    shown = {name for p in panels for t in p["targets"] for name, _ in uses(t["expr"]).selectors}
    bases = {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown}
    unseen = {metric.name for metric in METRICS} - bases
    assert unseen <= {
        "replication_scrape_errors",  # an alert
        "replication_apply_still_seconds",  # an alert
        "replication_last_success_timestamp_seconds",
        "replication_batches_total",
    }


def test_the_dashboards_data_source_is_the_one_provisioned() -> None:
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["type"] == "prometheus"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "replication.yml").read_text())[
        "providers"
    ]
    assert provider["type"] == "file"
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        first, *_ = dashboard["templating"]["list"]
        assert (first["name"], first["type"], first["query"]) == (
            "datasource",
            "datasource",
            "prometheus",
        )
        used = {p["datasource"]["uid"] for p in panels_of(dashboard)}
        assert used == {"${datasource}"}


def test_the_alert_rules_ask_for_what_there_is(told: Scrape) -> None:
    rules = [r for g in yaml.safe_load(RULES.read_text())["groups"] for r in g["rules"]]
    guide = GUIDE.read_text(encoding="utf-8")
    headings = {h.strip().lower() for h in re.findall(r"^### (.+)$", guide, re.MULTILINE)}
    for rule in rules:
        name, notes = rule["alert"], rule["annotations"]
        used = uses(rule["expr"])
        check(used, told, template_labels(" ".join(notes.values())), name)
        assert used.selectors or rule["expr"].startswith("up{"), name
        assert rule["labels"]["severity"] in ("warning", "critical")
        page, _, anchor = notes["runbook"].partition("#")
        assert (ROOT / page) == GUIDE
        assert anchor in headings, f"docs/monitoring.md has no heading {anchor}"
        assert f"`{name}`" in guide, name


def test_the_documented_metrics_are_what_the_snapshot_says() -> None:
    """``make snapshot`` writes the table anew."""
    begin, end = "<!-- metrics: begin -->\n", "<!-- metrics: end -->\n"
    rows = ["| metric | kind | labels | what it tells |", "|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    table = begin + "\n".join(rows) + "\n" + end
    text = GUIDE.read_text(encoding="utf-8")
    if os.environ.get("UPDATE_SNAPSHOT"):
        head, rest = text.split(begin)
        text = head + table + rest.split(end)[1]
        GUIDE.write_text(text, encoding="utf-8")
    assert table in text, "docs/monitoring.md: run make snapshot"
