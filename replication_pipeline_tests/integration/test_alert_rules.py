"""Prometheus' own tool runs the unit tests of the rules, and reads dashboards and scrape settings."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Final

import pytest
import yaml

from replication_pipeline_tests.promtool import NoPromtoolError, promtool

pytestmark = pytest.mark.integration

DEPLOY: Final = Path(__file__).resolve().parents[2] / "deploy"
RULES: Final = DEPLOY / "prometheus" / "alerts.yml"
TESTS: Final = DEPLOY / "prometheus" / "alerts.test.yml"


@pytest.fixture(scope="module")
def tool() -> Path:
    try:
        return promtool()
    except NoPromtoolError as error:
        pytest.skip(str(error))


def run(tool: Path, *arguments: str | Path) -> str:
    done = subprocess.run(
        [tool, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    return told


def test_the_alerts_fire_and_clear_as_they_should(tool: Path) -> None:
    assert "SUCCESS" in run(tool, "check", "rules", RULES)
    assert "SUCCESS" in run(tool, "test", "rules", TESTS)


def test_what_the_collector_scrapes_is_what_prometheus_scrapes(tool: Path, tmp_path: Path) -> None:
    """Its receiver takes Prometheus' own configuration; the rest is held together here."""
    collector = yaml.safe_load((DEPLOY / "opentelemetry" / "collector.yaml").read_text())
    scraped = collector["receivers"]["prometheus"]["config"]
    file = tmp_path / "receiver.yml"
    file.write_text(yaml.safe_dump(scraped))
    assert "SUCCESS" in run(tool, "check", "config", file)
    (job,) = scraped["scrape_configs"]
    prometheus = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (usual,) = prometheus["scrape_configs"]
    assert job == usual | {"scrape_interval": prometheus["global"]["scrape_interval"]}
    for pipeline in collector["service"]["pipelines"].values():
        for kind, names in pipeline.items():
            assert set(names) == set(collector[kind])


def test_each_alert_is_seen_to_fire() -> None:
    rules = [r["alert"] for g in yaml.safe_load(RULES.read_text())["groups"] for r in g["rules"]]
    tests = yaml.safe_load(TESTS.read_text())["tests"]
    fired = {a["alertname"] for t in tests for a in t.get("alert_rule_test", ()) if a["exp_alerts"]}
    fired |= {
        name
        for test in tests
        for each in test.get("promql_expr_test", ())
        for sample in each["exp_samples"]
        for name in re.findall(r'alertname="(\w+)"', sample["labels"])
    }
    assert fired == set(rules)


def test_the_dashboards_expressions_are_valid(tool: Path, tmp_path: Path) -> None:
    expressions = [
        target["expr"].replace("$__rate_interval", "1m")
        for path in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]
        for target in panel.get("targets", ())
    ]
    assert len(expressions) > 20
    rules = [{"record": f"panel:{n}", "expr": e} for n, e in enumerate(expressions)]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert "SUCCESS" in run(tool, "check", "rules", file)
