"""`classify` without Ray: the parts are done in this process, so that a hundred runs take seconds."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from typing import TYPE_CHECKING

import pipelines.classification.parts as parts_module
import pipelines.classify as classify_module
from core.errors import LeukorayError
from core.model.opening import open_bundle
from pipelines.classification.worker import PartClassifier
from runtime.cluster import WorkerPlan

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import pytest

    from core.model.engine import Usable
    from pipelines.classification.worker_settings import WorkerSettings


def work_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace Ray's workers for as long as the patch lasts."""

    def rows(parts: Sequence[int], bundle: Usable, settings: WorkerSettings, _plan: object) -> Generator[dict]:
        classifier = PartClassifier(bundle, settings)
        for part in parts:
            row = {"part": part, "images": 0, "errors": 0, "begun": 0.0, "code": "", "message": ""}
            try:
                yield row | classifier.classify(part)
            except LeukorayError as error:
                yield row | {"code": error.code, "message": error.message}

    monkeypatch.setattr(parts_module, "part_rows", rows)
    monkeypatch.setattr(classify_module, "open_bundle", cache(open_bundle))
    monkeypatch.setattr(classify_module, "connected", lambda _address: nullcontext())
    monkeypatch.setattr(classify_module, "live_nodes", list)
    monkeypatch.setattr(classify_module, "plan_workers", lambda *_, **__: WorkerPlan(1, 1.0, 0.0, 1, 2))
    monkeypatch.setattr(classify_module, "wait_for_room", lambda *_: None)
