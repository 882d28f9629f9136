"""Which tables and contours somebody chose, in an option or a form; refused in words if unknown."""

from __future__ import annotations

from collections.abc import Sequence

from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.settings import Settings


def chosen_tables(settings: Settings, chosen: Sequence[str] | None) -> list[str]:
    """The tables asked for, each once; all that are configured when none is."""
    for name in chosen or ():
        if name not in settings.tables:
            raise ConfigurationError(
                f"table {name or '(none)'} is not configured", remedy="list it under tables:"
            )
    return list(dict.fromkeys(chosen or settings.tables))


def contours_to_compare(settings: Settings, chosen: Sequence[str] | None, option: str) -> list[str]:
    """The other contours asked for, each once; all of ``compare.contours`` when none is."""
    known = list(settings.compare.contours)
    if not known:
        raise ConfigurationError(
            "there is no contour to compare with",
            remedy="name their databases under compare.contours (config.example.yaml)",
        )
    for name in chosen or ():
        if name not in known:
            raise ConfigurationError(
                f"{option} {name}: compare.contours does not name it",
                remedy=f"one of {', '.join(known)}",
            )
    return list(dict.fromkeys(chosen or known))


def refuse_unknown_winner(
    settings: Settings, others: Sequence[str], winner: str | None, option: str
) -> None:
    """Who wins must be among those that are compared."""
    contours = (settings.contour.name, *others)
    if winner is not None and winner not in contours:
        raise ConfigurationError(
            f"{option} {winner}: no contour that is compared",
            remedy=f"one of {', '.join(contours)}",
        )
