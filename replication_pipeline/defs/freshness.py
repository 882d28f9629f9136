"""How old the last report of a window may be before Dagster calls its asset stale.

Every window materializes what it works on when it ends, also when there was nothing to do. So an asset
without news for two windows means that windows don't end well: warning; for three: failed. That is
slow, and is there for the asset graph's colour; ``publisher_down`` tells within seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final

import dagster as dg

from replication_pipeline.defs.assets import applied_key, queue_key
from replication_pipeline.settings import Settings

LEAST: Final = timedelta(minutes=1)  # Dagster allows no shorter window

Asset = dg.AssetSpec | dg.AssetsDefinition


def with_freshness(assets: Iterable[Asset], settings: Settings) -> Sequence[Asset]:
    """``assets`` with policies on those that windows report on, where windows are kept alive."""
    contour, publisher, consumer = settings.contour.name, settings.publisher, settings.consumer
    policies: dict[dg.AssetKey, dg.FreshnessPolicy] = {}
    if publisher.min_publishers:
        policies[queue_key(contour)] = policy(publisher.window)
    if consumer.min_appliers:
        policies |= {
            applied_key(contour, table): policy(consumer.window) for table in settings.tables
        }

    def dressed(spec: dg.AssetSpec) -> dg.AssetSpec:
        found = policies.get(spec.key)
        return spec if found is None else dg.apply_freshness_policy(spec, found)

    return list(dg.map_asset_specs(dressed, assets))


def policy(window: timedelta) -> dg.FreshnessPolicy:
    """Two windows without a report warn, three fail."""
    length = max(window, LEAST)
    return dg.FreshnessPolicy.time_window(warn_window=2 * length, fail_window=3 * length)
