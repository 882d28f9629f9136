"""Prometheus' own ``promtool``: the machine's, or that of Debian's package ``prometheus``.

``$PROMTOOL`` or the path names one. Else the package is downloaded, not installed, by ``apt-get`` with
lists and a cache of its own, so nothing of the machine changes and nobody need be root; the program is
kept in the cache directory where Kafka's jars are. No PyPI, npm or Maven package carries it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from replication_pipeline.embedded.downloads import cache_directory
from replication_pipeline.embedded.state import exclusive

PACKAGE: Final = "prometheus"
INSIDE: Final = Path("usr/bin/promtool")
PATIENCE: Final = 60.0  # seconds for each step


class NoPromtoolError(Exception):
    """Why there is none, for people."""


def promtool() -> Path:
    """The program. Downloads it at first, which takes some seconds."""
    named = os.environ.get("PROMTOOL") or shutil.which("promtool")
    if named:
        return Path(named)
    kept = cache_directory() / "promtool"
    kept.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(kept.with_name("promtool.lock")):
        if not kept.is_file():
            _download(kept)
    return kept


def _download(kept: Path) -> None:
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise NoPromtoolError(
            "there is no promtool in the path, and no apt-get to get Debian's package prometheus: "
            "install Prometheus, or name its promtool in PROMTOOL"
        )
    with tempfile.TemporaryDirectory(prefix="promtool-", dir=kept.parent) as scratch:
        here = Path(scratch)
        for folder in ("lists/partial", "archives/partial", "package"):
            (here / folder).mkdir(parents=True)
        own = [
            f"Dir::State::lists={here / 'lists'}",
            f"Dir::Cache={here}",
            "APT::Sandbox::User=",
            "Acquire::Languages=none",
        ]
        apt = ["apt-get", "-qq", *(part for option in own for part in ("-o", option))]
        _run(here, *apt, "update")
        _run(here / "package", *apt, "download", PACKAGE)
        (package,) = (here / "package").glob("*.deb")
        _run(here, "dpkg-deb", "--extract", str(package), str(here / "package"))
        (here / "package" / INSIDE).replace(kept)


def _run(directory: Path, *command: str) -> None:
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        raise NoPromtoolError(f"{command[0]} did not end within {PATIENCE:g} s") from None
    if done.returncode:
        raise NoPromtoolError(
            f"Debian's package {PACKAGE} could not be downloaded ({done.stderr.strip()[-300:]}); "
            "install Prometheus, or name its promtool in PROMTOOL"
        )
