"""The Ray actor around `PartClassifier`: it counts its own deaths, and reports failures as rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray

from core.errors import LeukorayError
from pipelines.classification.attempts import WorkerStarts
from pipelines.classification.run_folder import RunFolder
from pipelines.classification.storage import open_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from pipelines.classification.worker_settings import WorkerSettings

__all__ = ["PartActor"]


class PartActor:
    """Classifies the parts that Ray Data hands it.

    What a person can act on (storage that fails, a worker that keeps dying) comes back as a row with a code and a
    sentence, since an exception would be wrapped by Ray into pages of trace. Torch and the bundle are loaded only
    after this start is on record, so that a death while loading is counted too.

    Args:
        bundle: Ray reference of the bundle.
        settings: Ray reference of the `WorkerSettings`; only a reference, since Ray exports an actor's arguments and
            these hold the secrets of the storage.
    """

    def __init__(self, bundle: ray.ObjectRef, settings: ray.ObjectRef) -> None:
        self._problem: LeukorayError | None = None
        worker_settings: WorkerSettings = ray.get(settings)
        self._scrub = (worker_settings.slides, worker_settings.run)
        try:
            self._start(bundle, worker_settings)
        except (LeukorayError, OSError) as error:
            self._problem = self._as_problem(error)

    def _start(self, bundle: ray.ObjectRef, settings: WorkerSettings) -> None:
        run = RunFolder(open_folder(settings.run, settings.patience))
        self._starts = WorkerStarts(run.folder, ray.get_runtime_context().get_actor_id() or "local")

        from pipelines.classification.worker import PartClassifier  # noqa: PLC0415 - after the start is on record

        self._classifier = PartClassifier(ray.get(bundle), settings, on_progress=self._starts.achieve)

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> Iterator[dict[str, list[Any]]]:
        """Classify the parts named in ``batch["part"]``; yield one row per part, with counts or a failure."""
        for part in batch["part"]:
            yield {name: [value] for name, value in self._row(int(part)).items()}

    def _row(self, part: int) -> dict[str, Any]:
        row = {"part": part, "images": 0, "errors": 0, "begun": 0.0, "code": "", "message": ""}
        problem = self._problem
        if problem is None:
            try:
                return row | self._classifier.classify(part)
            except (LeukorayError, OSError) as error:
                problem = self._as_problem(error)
        return row | {"code": problem.code, "message": problem.message}

    def _as_problem(self, error: LeukorayError | OSError) -> LeukorayError:
        """Return what ended the work as a sentence without secrets."""
        if isinstance(error, LeukorayError):
            return error
        text = str(error)
        for location in self._scrub:
            text = location.scrub(text)
        return LeukorayError(
            "storage-refuses", f"A file of the run cannot be read or written: {text}. Mend it, and use --resume."
        )
