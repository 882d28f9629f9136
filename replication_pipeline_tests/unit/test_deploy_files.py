"""The files of ``deploy/`` are what their readers take, by those readers' own schemas, and keep what
they promise: nothing runs as root, writes to its root file system, or listens for strangers.
"""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema

from replication_pipeline_tests.unit.deploying import (
    DEPLOY,
    compose,
    helm_values,
    kubernetes,
    units,
)

pytestmark = pytest.mark.unit

KUBERNETES = "1.33"
PINNED = re.compile(r"\S+:[\w.-]+@sha256:[0-9a-f]{64}")
SERVICES = compose()["services"]
OBJECTS = list(kubernetes())
UNITS = list(units())
# Keys of Dagster's chart, from its schema (DagsterHelmValues) and its values.yaml.
CHART = {
    *("additionalInstanceConfig", "busybox", "computeLogManager", "concurrency"),
    *("dagster-user-deployments", "dagsterDaemon", "dagsterWebserver", "extraManifests", "flower"),
    *("generateCeleryConfigSecret", "generatePostgresqlPasswordSecret", "global", "ingress"),
    *("imagePullSecrets", "migrate", "pipelineRun", "postgresql", "pythonLogs", "rabbitmq"),
    *(
        "rbacEnabled",
        "redis",
        "retention",
        "runLauncher",
        "scheduler",
        "serviceAccount",
        "telemetry",
    ),
}


def test_compose_is_what_the_specification_says() -> None:
    schema = get_builtin_schema("vendor.compose-spec")
    jsonschema.validate(compose(), schema)
    wrong = copy.deepcopy(compose())
    wrong["services"]["daemon"]["read-only"] = True
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


def test_ci_calls_targets_that_exist() -> None:
    path = DEPLOY.parent / ".github" / "workflows" / "ci.yml"
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    workflow["on"] = workflow.pop(True)  # YAML 1.1 takes the word for a boolean
    jsonschema.validate(workflow, get_builtin_schema("vendor.github-workflows"))
    makefile = (DEPLOY.parent / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make ([a-z-]+)", path.read_text(encoding="utf-8")):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_hardened(name: str) -> None:
    service = SERVICES[name]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not service.get("privileged")
    if "build" not in service:
        assert PINNED.fullmatch(service["image"])
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:")
    if service["image"].startswith(("postgres", "apache/kafka")):
        return  # their images change users and write where their volumes are
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]


def test_the_ui_is_reached_by_the_proxy_alone() -> None:
    assert "ports" not in SERVICES["webserver"]
    assert "basic_auth" in (DEPLOY / "Caddyfile").read_text(encoding="utf-8")
    assert SERVICES["proxy"]["environment"]["UI_UPSTREAM"] == "webserver:3000"
    (unit,) = [lines for path, lines in UNITS if "webserver" in path.name]
    assert "--host 127.0.0.1" in unit["ExecStart"][0]


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_needs_is_there(name: str) -> None:
    service, content = SERVICES[name], compose()
    assert set(service.get("depends_on", ())) <= set(SERVICES)
    for volume in service.get("volumes", ()):
        source = volume.split(":")[0]
        if source.startswith("."):
            assert (DEPLOY / source).exists(), source
        else:
            assert source in content["volumes"]
    assert set(service.get("secrets", ())) <= set(content["secrets"])


def test_every_secret_and_variable_can_be_made() -> None:
    script = (DEPLOY / "compose" / "secrets.sh").read_text(encoding="utf-8")
    for name, secret in compose()["secrets"].items():
        assert secret["file"] == f"./secrets/{name}"
        assert name in script
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    wanted = set(re.findall(r"(?<!\$)\$\{(\w+):\?", text))
    example = (DEPLOY / ".env.example").read_text(encoding="utf-8")
    assert wanted <= set(re.findall(r"^(\w+)=", example, re.MULTILINE))


def test_secrets_are_made_once_and_for_their_owner_only(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY / "compose", tmp_path / "compose")
    script = ["sh", str(tmp_path / "compose" / "secrets.sh")]
    subprocess.run(script, check=True)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert set(made) == set(compose()["secrets"])
    assert all(re.fullmatch("[0-9a-f]{48}", secret) for secret in made.values())
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    subprocess.run(script, check=True)
    assert made == {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}


def test_images_are_pinned_by_digest() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    (base,) = re.findall(r"^ARG PYTHON=(\S+)$", text, re.MULTILINE)
    assert PINNED.fullmatch(base)
    last = text[text.rindex("FROM ") :]
    assert re.findall(r"^USER (\S+)$", last, re.MULTILINE) == ["10001:10001"]
    assert "pip install" not in last, "nothing is built in the image that is shipped"


@pytest.mark.parametrize(
    ("path", "made"),
    OBJECTS,
    ids=[f"{made['kind']}-{made['metadata']['name']}" for _, made in OBJECTS],
)
def test_kubernetes_takes_the_object(path: Path, made: dict[str, Any]) -> None:
    kubernetes_validate.validate(made, KUBERNETES, strict=True)
    if made["kind"] != "Deployment":
        return
    pod = made["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} <= set(container["resources"]), path


def test_kubernetes_refuses_a_misspelt_key() -> None:
    (deployment,) = [made for _, made in OBJECTS if made["metadata"]["name"] == "exporter-a"][:1]
    wrong = copy.deepcopy(deployment)
    wrong["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_helm_values_are_the_charts() -> None:
    values = helm_values()
    assert set(values) <= CHART
    assert values["runLauncher"]["type"] == "K8sRunLauncher"
    assert values["ingress"]["enabled"] is False
    assert values["postgresql"]["enabled"] is False
    for code in values["dagster-user-deployments"]["deployments"]:
        assert code["includeConfigInLaunchedRuns"] == {"enabled": True}, (
            "windows need the configuration"
        )


def test_what_runs_in_a_pod_of_the_chart_is_what_kubernetes_takes() -> None:
    values = helm_values()
    run = values["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]
    container = {"name": "run", "image": "x", **run["containerConfig"]}
    volumes = values["runLauncher"]["config"]["k8sRunLauncher"]["volumes"]
    pods = [{**run["podSpecConfig"], "containers": [container], "volumes": volumes}]
    for code in values["dagster-user-deployments"]["deployments"]:
        probes = {
            name: {key: value for key, value in code[name].items() if key != "enabled"}
            for name in ("readinessProbe", "livenessProbe", "startupProbe")
        }
        made = {key: code[key] for key in ("resources", "securityContext", "volumeMounts", "env")}
        container = {"name": "code", "image": "x", **made, **probes}
        pods.append(
            {
                "containers": [container],
                "securityContext": code["podSecurityContext"],
                "volumes": code["volumes"],
            }
        )
    for pod in pods:
        made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}
        kubernetes_validate.validate(made, KUBERNETES, strict=True)
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_proxy_and_the_policies_mean_the_charts_objects() -> None:
    named = {made["metadata"]["name"]: made for _, made in OBJECTS}
    webserver = helm_values()["dagsterWebserver"]
    port, name = webserver["service"]["port"], f"dagster-{webserver['nameOverride']}"
    arguments = named["oauth2-proxy"]
    text = (DEPLOY / "kubernetes" / "webserver-access.yaml").read_text(encoding="utf-8")
    assert f"--upstream=http://{name}:{port}" in text, arguments
    (rule,) = named["webserver-by-proxy-only"]["spec"]["ingress"]
    assert rule["ports"] == [{"port": port}]
    (rule,) = named["code-servers-by-dagster-only"]["spec"]["ingress"]
    codes = helm_values()["dagster-user-deployments"]["deployments"]
    assert {entry["port"] for entry in rule["ports"]} == {code["port"] for code in codes}


@pytest.mark.parametrize(("path", "lines"), UNITS, ids=[path.name for path, _ in UNITS])
def test_a_unit_is_hardened(path: Path, lines: dict[str, list[str]]) -> None:
    assert lines["User"] == ["replication"]
    assert lines["Restart"] == ["always"]
    assert lines["StartLimitIntervalSec"] == ["0"], "it is started again for ever"
    for key in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "RestrictNamespaces"):
        assert lines[key] == ["yes"], key
    assert lines["ProtectSystem"] == ["strict"]
    assert lines["CapabilityBoundingSet"] == [""]
    assert "~@privileged" in lines["SystemCallFilter"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    programs = Path(sys.executable).parent
    for path, _ in UNITS:
        text = path.read_text(encoding="utf-8").replace(
            "/opt/replication-pipeline/bin", str(programs)
        )
        (tmp_path / path.name.replace("@", "@a")).write_text(text, encoding="utf-8")
    names = [str(path) for path in tmp_path.iterdir()]
    seen = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *names],
        check=False,
        capture_output=True,
        text=True,
    )
    assert [line for line in seen.stderr.splitlines() if "replication-" in line] == []
    exposed = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=25", *names],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert exposed.returncode == 0, exposed.stdout + exposed.stderr
