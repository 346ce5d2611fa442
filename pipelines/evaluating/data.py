"""The images that a bundle is evaluated on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from core.data.class_folders import ClassFolders, read_class_folders
from core.errors import DataError
from core.evaluation.record import EvaluatedData
from runtime.progress import say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from core.data.groups import SourceSettings
    from core.evaluation.scores import Predicted

__all__ = ["describe_data", "read_data"]

Half = Literal["even", "odd"]


def read_data(
    root: Path, class_names: Sequence[str], unknown: Sequence[str], *, half: Half | None, sources: SourceSettings
) -> ClassFolders:
    """List the images and name their sources.

    Args:
        root: Folder with one sub-folder per class.
        class_names: Classes that the bundle knows.
        unknown: Class folders of `root` that it does not know; their labels follow the known ones.
        half: Take every other image of each class only.
        sources: Options that name the sources.

    Raises:
        DataError: A class folder is missing, is not named, or the sources cannot be read.
    """
    if missing := [name for name in unknown if not (root / name).is_dir()]:
        raise DataError("no-classes", f"{root} holds no folder {missing[0]}, which --unknown names.")
    try:
        data = read_class_folders(root, (*class_names, *unknown))
    except DataError as error:
        if error.code != "unknown-class":
            raise
        raise DataError(error.code, f"{error.message} Name it with --unknown to measure it as an outlier.") from None
    if half:
        data = data.half(half)
    if sources.groups is None:
        say("warning: without --groups every image counts as independent; see pipelines/audit.py")
        return data
    return data.with_sources(sources.groups, sources.linked_groups)


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
