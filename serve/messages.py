"""What ingress and classifier say to each other; nothing here needs torch but a finder that runs in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.finding.search import CellSearch
    from core.images.preprocessing import Prepared, Preprocessing
    from core.model.prediction import Prediction

__all__ = ["Answer", "Item", "Model"]


@dataclass(frozen=True, slots=True)
class Model:
    """What the rest of the service needs to know of a bundle.

    Attributes:
        id: Identity of the bundle.
        class_names: In the order of the probabilities.
        cells: How a picture's cells are found and become the network's input.
        map_shape: Height and width of a class map.
        facts: What ``/v1/model`` says of it.
    """

    id: str
    class_names: tuple[str, ...]
    cells: CellSearch = field(repr=False)
    map_shape: tuple[int, int]
    facts: dict[str, Any] = field(repr=False)

    @property
    def preprocessing(self) -> Preprocessing:
        """How a cell becomes the network's input."""
        return self.cells.preprocessing


@dataclass(frozen=True, slots=True)
class Item:
    """One cell on its way to the network.

    Attributes:
        bundle: Identity of the bundle that it was prepared for.
        prepared: The network's input.
        gradcam: Whether the map is wanted.
    """

    bundle: str
    prepared: Prepared
    gradcam: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one image.

    Attributes:
        prediction: None where the bundle that the image was prepared for is served no more.
        successor: The bundle that is served now, where it is another one.
        batch_size: Images in the same forward pass.
        seconds: That the pass took.
        error: A sentence, where the network failed on this image.
    """

    prediction: Prediction | None
    successor: Model | None = None
    batch_size: int = 0
    seconds: float = 0.0
    error: str = ""
