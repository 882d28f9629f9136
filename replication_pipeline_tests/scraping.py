"""What Prometheus gets of an exporter."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from replication_pipeline.exporter.collector import Exporter
from replication_pipeline.exporter.server import served
from replication_pipeline.settings import Settings

PATIENCE = 20.0  # seconds


class Scrape:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = list(text_string_to_metric_families(text))
        self.samples: list[Sample] = [s for family in self.families for s in family.samples]

    def named(self, name: str) -> list[Sample]:
        return [sample for sample in self.samples if sample.name == name]

    def value(self, name: str, /, **labels: str) -> float:
        """Of the only sample that has these labels."""
        (sample,) = (s for s in self.named(name) if labels.items() <= s.labels.items())
        return sample.value


def get(port: int, path: str = "/metrics", host: str = "127.0.0.1") -> str:
    with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=PATIENCE) as response:
        assert response.status == 200
        text = response.read()
        assert isinstance(text, bytes)
        return text.decode()


@contextmanager
def exporting(settings: Settings, every: float = 0.0) -> Iterator[int]:
    """The port of an exporter; by default each scrape reads anew."""
    with served(Exporter(settings, every), "127.0.0.1", 0) as (_, port):
        yield port


def scrape(settings: Settings) -> Scrape:
    with exporting(settings) as port:
        return Scrape(get(port))
