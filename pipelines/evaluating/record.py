"""Writing down what was looked at: an evaluation becomes part of its bundle's metrics and card."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from core.errors import BundleError
from core.files import replace_file
from core.model.bundle import CARD, METRICS, load_bundle
from core.model.card import write_card

if TYPE_CHECKING:
    from pathlib import Path

    from core.model.bundle import Bundle

__all__ = ["check_look", "record_look"]

_LEFT_OUT = ("reliability", "risk_coverage")


def check_look(bundle: Bundle, name: str, fingerprint: str) -> None:
    """Refuse a look that could not be written down, before it is taken.

    Args:
        bundle: The bundle.
        name: What the evaluation shall be called in the card.
        fingerprint: Of the data.

    Raises:
        BundleError: With code ``bundle-without-record`` where the bundle's metrics are not of this version, or
            ``look-taken`` where the name stands for other data.
    """
    validation = bundle.metrics.get("validation")
    if not isinstance(validation, dict) or "sources" not in validation or "training_images" not in bundle.record.data:
        raise BundleError(
            "bundle-without-record",
            "The bundle's metrics are not of this version; --record needs one made by train.py.",
        )
    before = bundle.metrics.get("looks", {}).get(name)
    if before and before["data"]["fingerprint"] != fingerprint:
        raise BundleError("look-taken", f"The bundle's record {name!r} is of other data; choose another name.")


def record_look(folder: Path, name: str, record: dict[str, Any]) -> None:
    """Add one evaluation to a bundle's ``metrics.json`` and write its card anew.

    A second look at the same data under the same name replaces the figures and is counted.

    Args:
        folder: The bundle.
        name: What the evaluation is called in the card.
        record: As ``evaluation.json`` has it.

    Raises:
        BundleError: Where the bundle cannot be read.
    """
    bundle = load_bundle(folder)
    metrics = bundle.metrics
    looks = metrics.setdefault("looks", {})
    kept = {key: value for key, value in record.items() if key not in {"bundle", "comparison"}}
    kept["evaluation"] = _short(record["evaluation"])
    if record["notebook"]:
        kept["notebook"] = {**record["notebook"], "evaluation": _short(record["notebook"]["evaluation"])}
    kept["data"] = {key: value for key, value in record["data"].items() if key != "path"}
    kept["looks"] = looks.get(name, {}).get("looks", 0) + 1
    kept["when"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    looks[name] = kept
    card = write_card(folder.name, bundle.class_names, bundle.record, metrics)
    replace_file(folder / METRICS, json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    replace_file(folder / CARD, card)


def _short(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Leave out the curves, which the report has."""
    levels = {
        level: {key: value for key, value in evaluation[level].items() if key not in _LEFT_OUT}
        for level in ("image", "source")
    }
    return evaluation | levels
