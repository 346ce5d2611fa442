"""Adapting a bundle to unlabelled slides: which images are looked at, and where the result is kept."""

from __future__ import annotations

import hashlib
import heapq
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from core.errors import DataError, ImageError
from core.finding.record import FINDER
from core.images.decoder import MAX_BYTES
from core.images.reading import prepare_image
from core.model.adaptation import adapt_statistics, even_batches
from core.model.bundle import Bundle, load_bundle, save_bundle
from core.model.card import write_adapted_card
from core.model.record import CONFIG, WEIGHTS, AdaptationRecord
from runtime.progress import say

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from pipelines.classification.run_folder import ImageList, RunFolder
    from pipelines.classification.slides import Entry
    from pipelines.classification.storage import Folder

__all__ = ["FEWEST_IMAGES", "MOST_IMAGES", "SHARE", "adapt_bundle", "adapt_for_run", "choose_images"]

FEWEST_IMAGES, MOST_IMAGES = 50, 512
"""Images with a white cell that adapting needs, and that it looks at."""
SHARE = 0.5
"""Weight of the slides' statistics against the training images'."""
_THREADS = 2
_KEPT = "bundle"
"""Folder of the adapted bundle in the run."""


def choose_images(entries: Iterable[Entry], most: int) -> list[Entry]:
    """Choose images evenly over the slides, by a hash of their names: the same ones at every call.

    Args:
        entries: Images of all slides, in any order.
        most: Most images to choose.
    """
    return heapq.nsmallest(most, (entry for entry in entries if not entry.code), key=_hash)


def adapt_bundle(
    bundle: Bundle, source: Folder, entries: Iterable[Entry], folder: Path, *, most: int, share: float
) -> Bundle:
    """Adapt a bundle to some of the images, and write it as a new one.

    Args:
        bundle: Bundle to adapt; it is not changed.
        source: Folder of slides.
        entries: Images in it.
        folder: Folder of the new bundle; missing or empty.
        most: Most images to look at.
        share: Weight of the images' statistics, from 0 to 1.

    Raises:
        DataError: With code ``too-few-images`` where too few of the chosen ones show a white cell.
        SettingsError: With code ``no-batch-norm`` where the network has nothing to adapt.
        StorageError: The storage fails.
    """
    chosen = choose_images(entries, most)
    seen = [(entry, pixels) for entry, pixels in _read(source, chosen, bundle) if pixels is not None]
    if len(seen) < FEWEST_IMAGES:
        raise DataError(
            "too-few-images",
            f"White cells are found in {len(seen)} of the {len(chosen)} images looked at; adapting needs"
            f" {FEWEST_IMAGES}.",
        )
    inputs = torch.from_numpy(np.stack([pixels for _, pixels in seen]))
    network = adapt_statistics(bundle.network, even_batches(inputs, bundle.record.preprocessing), share)
    names = "\n".join(f"{entry.slide}\0{entry.image}" for entry, _ in seen)
    record = AdaptationRecord(
        bundle=bundle.id,
        images=len(inputs),
        slides=len({entry.slide for entry, _ in seen}),
        share=share,
        chosen=hashlib.sha256(names.encode()).hexdigest(),
    )
    card = write_adapted_card(folder.name, bundle, record)
    # With other statistics the features that the bundle keeps are not the network's any more.
    adapted = bundle.record.model_copy(update={"adaptation": record, "replay": None})
    return save_bundle(
        folder,
        network,
        bundle.class_names,
        adapted,
        None,
        card,
        architecture=bundle.architecture,
        finder=bundle.finder,
    )


def adapt_for_run(bundle: Bundle, source: Folder, run: RunFolder, images: ImageList) -> Bundle:
    """Return the bundle that a run with ``--adapt`` classifies with; after a resume it is the one kept in the run.

    Args:
        bundle: Bundle that the run was started with.
        source: Folder of slides.
        run: Folder of the run, with its list of images.
        images: What is known of the list.

    Raises:
        BundleError: The kept one is damaged.
        LeukorayError: The bundle or the slides cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="leukoray-") as temporary:
        folder = Path(temporary) / "adapted"
        if run.folder.exists(f"{_KEPT}/{CONFIG}"):
            folder.mkdir()
            for name in (WEIGHTS, CONFIG, *([FINDER] if bundle.finder else [])):
                (folder / name).write_bytes(run.folder.read(f"{_KEPT}/{name}"))
            return load_bundle(folder)
        entries = (entry for part in range(images.parts) for entry in run.read_list_part(part))
        adapted = adapt_bundle(bundle, source, entries, folder, most=MOST_IMAGES, share=SHARE)
        for path in sorted(folder.iterdir(), key=lambda path: path.name == CONFIG):  # what says that it is whole: last
            run.folder.write(f"{_KEPT}/{path.name}", path.read_bytes())
    record = adapted.record.adaptation
    if record:
        say(f"adapted to {record.images:,} images of {record.slides:,} slides; bundle {adapted.id[:12]}")
    return adapted


def _hash(entry: Entry) -> bytes:
    return hashlib.sha256(f"{entry.slide}\0{entry.image}".encode()).digest()


def _read(source: Folder, chosen: Sequence[Entry], bundle: Bundle) -> Iterator[tuple[Entry, NDArray[np.uint8] | None]]:
    """Yield the network's input of each image; None where it cannot be used or shows no white cell."""
    cells = bundle.cell_search()

    def read(entry: Entry) -> NDArray[np.uint8] | None:
        try:
            _, prepared = prepare_image(source.read_path(entry.path, MAX_BYTES + 1), cells)
        except (ImageError, OSError):
            return None  # the run itself says why
        return prepared.pixels if prepared.found else None

    with ThreadPoolExecutor(_THREADS) as pool:
        yield from zip(chosen, pool.map(read, chosen), strict=True)
