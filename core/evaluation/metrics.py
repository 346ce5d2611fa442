"""What a set of predictions is worth: loss, accuracy, scikit-learn's report, confusion matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from pydantic import Field
from sklearn.metrics import classification_report, confusion_matrix, log_loss

from core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Metrics", "measure"]


class Metrics(Settings):
    """The evaluation of one set of images."""

    n: int = Field(description="images, or sources")
    loss: float = Field(description="mean cross-entropy, nats")
    accuracy: float = Field(description="share classified as labelled")
    report: dict[str, Any] = Field(description="scikit-learn's classification report")
    confusion: list[list[int]] = Field(description="rows: labelled class, columns: predicted class")


def measure(probabilities: NDArray[np.floating], labels: NDArray[np.integer], class_names: Sequence[str]) -> Metrics:
    """Compare predictions with labels.

    Args:
        probabilities: (N, C), rows sum to 1.
        labels: Class indices (N,), or one-hot (N, C).
        class_names: C names in the order of the columns.
    """
    truth = labels.argmax(axis=1) if labels.ndim == 2 else labels
    indices = list(range(len(class_names)))
    predicted = probabilities.argmax(axis=1)
    report: Any = classification_report(
        truth,
        predicted,
        labels=indices,
        target_names=list(class_names),
        output_dict=True,
        zero_division=cast("Any", 0.0),
    )
    clipped = np.clip(probabilities.astype(np.float64), 1e-12, 1.0)
    return Metrics(
        n=len(truth),
        loss=float(log_loss(truth, clipped / clipped.sum(axis=1, keepdims=True), labels=indices)),
        accuracy=float((predicted == truth).mean()),
        report=dict(report),
        confusion=confusion_matrix(truth, predicted, labels=indices).tolist(),
    )
