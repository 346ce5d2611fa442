"""What ingress and classifier say to each other; nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.images.preprocessing import Prepared, Preprocessing
    from core.model.prediction import Prediction

__all__ = ["Answer", "Item", "Model"]


@dataclass(frozen=True, slots=True)
class Model:
    """What the rest of the service needs to know of a bundle.

    Attributes:
        id: Identity of the bundle.
        class_names: In the order of the probabilities.
        preprocessing: How a picture becomes the network's input.
        map_shape: Height and width of a class map.
        facts: What ``/v1/model`` says of it.
    """

    id: str
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    map_shape: tuple[int, int]
    facts: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Item:
    """One image on its way to the network.

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
