"""What ``deploy/`` starts: every program of ours in it, with its words, environment and secret files.

A file that starts something and is not read here is not tested, so a new kind of file belongs here.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
import yaml
from dagster._cli import cli as dagster_cli
from dagster._daemon.cli import cli as daemon_cli
from dagster_webserver.cli import cli as webserver_cli

from replication_pipeline.cli.main import app
from replication_pipeline.postgres.queries import sql_directory

REPOSITORY = sql_directory().parent
DEPLOY = REPOSITORY / "deploy"
OURS = re.compile(r"(?:/opt/replication-pipeline/bin/)?(replication-pipeline|dagster[a-z-]*)")
# Typer has a copy of click of its own, so neither commands nor errors share a class.
ROOTS: dict[str, Any] = {
    "replication-pipeline": typer.main.get_command(app),
    "dagster": dagster_cli,
    "dagster-daemon": daemon_cli,
    "dagster-webserver": webserver_cli,
}
ENVIRONMENT_FILES = {"dagster.env": "dagster.env.example", "%i.env": "contour.env.example"}


@dataclass(frozen=True)
class Program:
    """One start of a program: where it stands, its words, and what it finds."""

    where: str
    words: Sequence[str]
    environment: Mapping[str, str]
    config: Path | str | None = None
    secrets: frozenset[str] = field(default_factory=frozenset)

    def __str__(self) -> str:
        return f"{self.where}: {self.words[0]} {self.words[1] if len(self.words) > 1 else ''}"


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return content


def kubernetes() -> Iterator[tuple[Path, dict[str, Any]]]:
    """All objects that ``kubectl apply`` gets, the files with Helm's values excepted."""
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        if path.name != "values.yaml":
            for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
                yield path, document


def helm_values() -> dict[str, Any]:
    text = (DEPLOY / "kubernetes" / "values.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def units() -> Iterator[tuple[Path, dict[str, list[str]]]]:
    """The lines of each systemd unit's sections, by key."""
    for path in sorted((DEPLOY / "systemd").glob("*.service")):
        lines: dict[str, list[str]] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            if "=" in line and not line.startswith("#"):
                key, _, value = line.partition("=")
                lines.setdefault(key, []).append(value)
        yield path, lines


def programs() -> list[Program]:
    """Every start of one of our programs, or of Dagster's, in ``deploy/``."""
    return [*_of_compose(), *_of_kubernetes(), *_of_systemd(), *_of_dockerfile()]


def _of_compose() -> Iterator[Program]:
    for name, service in compose()["services"].items():
        if "replication-pipeline" not in service["image"]:
            continue
        environment = {key: str(value) for key, value in service.get("environment", {}).items()}
        mounted = {
            target: source
            for source, target, *_ in (volume.split(":") for volume in service.get("volumes", ()))
        }
        config = mounted.get(environment.get("REPLICATION_CONFIG", ""))
        secrets = frozenset(f"/run/secrets/{secret}" for secret in service.get("secrets", ()))
        for words in _commands(service["command"]):
            found = DEPLOY / config if config else None
            yield Program(f"compose.yaml {name}", words, environment, found, secrets)


def _commands(words: Sequence[str]) -> Iterator[list[str]]:
    """The commands of ``words``, those within a shell's script included."""
    if words[0] != "sh":
        yield list(words)
        return
    for line in re.split(r"\n|&&", words[-1]):
        started = line.strip().removesuffix("&").removeprefix("env --default-signal=INT ")
        command = shlex.split(started)
        if command and OURS.fullmatch(command[0]):
            yield command


def _of_kubernetes() -> Iterator[Program]:
    objects = [document for _, document in kubernetes()]
    named = {(made["kind"], made["metadata"]["name"]): made for made in objects}
    for made in objects:
        if made["kind"] != "Deployment" or "oauth2" in made["metadata"]["name"]:
            continue
        pod = made["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        yield Program(
            f"kubernetes {made['metadata']['name']}",
            container["command"],
            {entry["name"]: str(entry["value"]) for entry in container["env"]},
            *_mounted(pod["volumes"], container["volumeMounts"], named),
        )
    for code in helm_values()["dagster-user-deployments"]["deployments"]:
        yield Program(
            f"values.yaml {code['name']}",
            ["dagster", "api", "grpc", "-h", "0.0.0.0", "-p", str(code["port"])]
            + code["dagsterApiGrpcArgs"],
            {entry["name"]: str(entry["value"]) for entry in code["env"]},
            *_mounted(code["volumes"], code["volumeMounts"], named),
        )


def _mounted(
    volumes: list[Any], mounts: list[Any], objects: Mapping[tuple[str, str], Any]
) -> tuple[str, frozenset[str]]:
    """The configuration's text and the secret files that a container finds."""
    at = {mount["name"]: mount["mountPath"] for mount in mounts}
    config, secrets = "", set()
    for volume in volumes:
        if "configMap" in volume:
            config = objects["ConfigMap", volume["configMap"]["name"]]["data"]["config.yaml"]
        elif "secret" in volume:
            held = objects["Secret", volume["secret"]["secretName"]]["stringData"]
            secrets |= {f"{at[volume['name']]}/{key}" for key in held}
    return config, frozenset(secrets)


def _of_systemd() -> Iterator[Program]:
    for path, lines in units():
        environment: dict[str, str] = {}
        for file in lines.get("EnvironmentFile", ()):
            example = DEPLOY / "systemd" / ENVIRONMENT_FILES[Path(file).name]
            environment |= dict(
                line.split("=", 1)
                for line in example.read_text(encoding="utf-8").splitlines()
                if line and not line.startswith("#")
            )
        for line in lines.get("Environment", ()):
            environment |= dict(word.split("=", 1) for word in shlex.split(line))
        loaded = (line.split(":")[0] for line in lines.get("LoadCredential", ()))
        for line in [*lines.get("ExecStartPre", ()), *lines["ExecStart"]]:
            filled = line
            for name, value in environment.items():
                filled = filled.replace(f"${{{name}}}", value)
            yield Program(
                f"systemd {path.name}",
                shlex.split(filled),
                environment,
                None,
                frozenset(f"%d/{name}" for name in loaded),
            )


def _of_dockerfile() -> Iterator[Program]:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    for words in re.findall(r"^CMD \[(.*)\]$", text, re.MULTILINE):
        yield Program("Dockerfile", yaml.safe_load(f"[{words}]"), {})


class NotOneOfOursError(AssertionError):
    """The program would refuse these words."""


def parse(words: Sequence[str]) -> None:
    """Take the words as the program would, and do nothing. ``NotOneOfOursError`` if it would not."""
    match = OURS.fullmatch(words[0])
    assert match, f"{words[0]} is none of our programs"
    command = ROOTS[match[1]]
    rest, context = [*words[1:]], None
    try:
        while rest[:1] not in (["-h"], ["--help"]):
            context = command.make_context(command.name, rest, parent=context)
            if not hasattr(command, "resolve_command"):
                return
            left = [*context._protected_args, *context.args]
            _, command, rest = command.resolve_command(context, left)
    except Exception as error:
        if type(error).__mro__[1].__name__ not in {"UsageError", "ClickException", "BadParameter"}:
            raise
        raise NotOneOfOursError(f"{' '.join(words)}: {error}") from error
