"""The demo's parts that need no server."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from replication_pipeline.demo import place as places
from replication_pipeline.demo.contours import configure
from replication_pipeline.demo.dagster_services import instance_file
from replication_pipeline.demo.leftovers import STATE_VARIABLE, kill_leftovers, processes_of
from replication_pipeline.demo.live import Look, heading, line
from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.domain.health import ContourStatus

pytestmark = pytest.mark.unit


def status(**changes: object) -> ContourStatus:
    values: dict[str, object] = {
        "contour": "a",
        "unpublished": 0,
        "oldest_unpublished_seconds": 0.0,
        "parked_publish": 0,
        "held_publish": 0,
        "parked_apply": 0,
        "publishers": 1,
        "appliers": 1,
        "apply_lag_events": 0,
        "processed_total": 0,
        "failed_total": 0,
        "applied_total": 0,
        "skipped_total": 0,
        "conflicts_total": 0,
    }
    return ContourStatus(**(values | changes))  # type: ignore[arg-type]


def test_status_line_shows_rates_between_two_looks() -> None:
    before = Look(100.0, status(processed_total=1_000, conflicts_total=7))
    now = Look(
        102.0,
        status(
            processed_total=1_150,
            unpublished=50,
            oldest_unpublished_seconds=0.25,
            applied_total=90,
            conflicts_total=10,
            parked_apply=2,
        ),
    )

    shown = line(61.0, [(before, now), (None, now)], [5, 5]).plain

    assert shown.split() == [
        *("01:01", "100", "50", "0.2s", "45", "5", "2"),
        *("0", "50", "0.2s", "0", "5", "2"),
    ]


def test_status_line_and_heading_fit_a_hundred_columns() -> None:
    huge = status(unpublished=99_999, oldest_unpublished_seconds=999.9, conflicts_total=9_999)
    look = Look(0.0, huge)

    widths = {len(text) for text in heading(["a", "b"]).splitlines()}
    widths.add(len(line(3599, [(look, look), (look, None)], [0, 0]).plain))

    assert max(widths) <= 100


def test_unreachable_contour_is_said() -> None:
    assert "not reachable" in line(1, [(None, None)], [0]).plain


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")

    with pytest.raises(ConfigurationError, match="something else"):
        places.claim(tmp_path)

    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_fresh_removes_former_state_and_ports_stay_otherwise(tmp_path: Path) -> None:
    root = tmp_path / "state"
    first = places.prepare(places.claim(root), ["a", "kafka"], fresh=False)
    (root / "a").mkdir()
    first.release()

    second = places.prepare(places.claim(root), ["a", "kafka"], fresh=False)
    assert second.ports == first.ports
    assert (root / "a").is_dir()
    second.release()

    third = places.prepare(places.claim(root), ["a", "kafka"], fresh=True)
    assert not (root / "a").exists()
    third.release()


def test_logs_of_the_last_start_are_kept_aside(tmp_path: Path) -> None:
    place = places.prepare(places.claim(tmp_path / "state"), [], fresh=False)
    place.log("daemon").write_text("old")
    place.release()

    again = places.prepare(places.claim(tmp_path / "state"), [], fresh=False)

    assert not again.log("daemon").exists()
    assert (again.logs / "daemon.log.last").read_text() == "old"
    again.release()


def test_the_users_environment_does_not_redirect_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "DAGSTER_HOME", "REPLICATION__CONTOUR__NAME"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("JDK_JAVA_OPTIONS", "-Dmine=1")

    places.set_environment()

    assert not {"PGHOST", "DAGSTER_HOME", "REPLICATION__CONTOUR__NAME"} & set(os.environ)
    assert os.environ["JDK_JAVA_OPTIONS"] == "-Dmine=1"


def test_configuration_file_is_one_that_the_services_accept(tmp_path: Path) -> None:
    contour = configure("b", 2, port=5432, kafka_port=9092, file=tmp_path / "b.yaml")

    assert (contour.settings.contour.name, contour.settings.contour.id) == ("b", 2)
    assert contour.settings.postgres.user == "replicator"
    assert contour.administration.postgres.user == "postgres"
    assert "postgres" not in yaml.safe_load((tmp_path / "b.yaml").read_text())["postgres"].values()


def test_dagster_gets_the_products_own_instance_file() -> None:
    assert "postgres" in yaml.safe_load(instance_file().read_text())["storage"]


def test_leftovers_are_found_by_their_mark_and_killed(tmp_path: Path) -> None:
    marked = {**os.environ, STATE_VARIABLE: str(tmp_path)}
    # With a child in a session of its own, as Dagster's runs are.
    script = (
        "import subprocess, sys, time;"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " start_new_session=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], env=marked):
        deadline = time.monotonic() + 10
        while len(processes_of(tmp_path)) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(processes_of(tmp_path)) == 2

        kill_leftovers(tmp_path)

    assert processes_of(tmp_path) == []


def test_without_the_extra_the_command_names_the_remedy() -> None:
    script = """
import importlib.util as util, sys
real = util.find_spec
util.find_spec = lambda name, *rest: None if name == "jgo" else real(name, *rest)
from replication_pipeline.cli.main import main
assert not any(name.startswith("replication_pipeline.demo") for name in sys.modules)
sys.argv = ["replication-pipeline", "demo"]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 2
    assert "jgo" in done.stderr
    assert "pip install 'replication_pipeline[demo]'" in done.stderr
