"""The images that a bundle is evaluated on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from core.errors import DataError, SettingsError
from core.evaluation.record import EvaluatedData
from core.model.opening import open_bundle
from runtime.progress import say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from core.data.class_folders import ClassFolders
    from core.data.laboratories import Laboratory
    from core.evaluation.scores import Predicted
    from core.model.engine import Usable
    from core.model.opening import EngineName

__all__ = ["describe_data", "load_second", "read_data"]

Half = Literal["even", "odd"]


def read_data(laboratory: Laboratory, class_names: Sequence[str]) -> ClassFolders:
    """List the images and name their sources.

    Args:
        laboratory: Where the images are.
        class_names: Classes that the bundle knows; the unknown ones follow them.

    Raises:
        DataError: A class folder is missing, is not named, or the sources cannot be read.
    """
    if missing := sorted(set(laboratory.unknown) - laboratory.found_classes):
        raise DataError("no-classes", f"{laboratory.path} holds no {missing[0]}, which is named as unknown.")
    try:
        data = laboratory.read(class_names)
    except DataError as error:
        if error.code != "unknown-class":
            raise
        hint = "Name it with --unknown (`unknown` in a file of laboratories) to measure it as an outlier."
        raise DataError(error.code, f"{error.message} {hint}") from None
    if laboratory.groups is None:
        say(f"warning: {laboratory.name}: without groups every image counts as independent; see pipelines/audit.py")
    return data


def load_second(path: Path, first: Usable, engine: EngineName, device: str) -> Usable:
    """Load a bundle that is compared with another one.

    Raises:
        BundleError: The bundle cannot be used.
        SettingsError: With code ``other-classes`` where the two know different classes.
    """
    second = open_bundle(path, engine, device)
    if second.class_names != first.class_names:
        raise SettingsError(
            "other-classes", f"{path} knows {', '.join(second.class_names)}; the two cannot be compared."
        )
    return second


def describe_data(data: ClassFolders, predicted: Predicted, *, half: Half | None, unreadable: int) -> EvaluatedData:
    """Say what was evaluated.

    Args:
        data: The images on disk.
        predicted: Predictions of the readable images of known classes.
        half: Half that was taken.
        unreadable: Number of files that could not be used.
    """
    grouped = bool(predicted.named.any())
    return EvaluatedData(
        path=str(data.root),
        fingerprint=data.fingerprint,
        grouped=grouped,
        unnamed=int((~predicted.named).sum()) if grouped else 0,
        unreadable=unreadable,
        half=half,
    )
