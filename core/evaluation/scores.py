"""What a bundle is worth on labelled images, with intervals that respect which images belong together.

Views of one microscope field are not independent, so every interval resamples sources, not images (the
cluster bootstrap; Field and Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x), within each class, since a
data set fixes how many sources of each class it has. Point values and intervals come from the same sums.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ConfigDict, Field
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from core.data.sources import number_sources
from core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from core.data.class_folders import Sample

    Array = NDArray[np.float64]

__all__ = [
    "ClassScores",
    "Comparison",
    "CoveragePoint",
    "Evaluation",
    "Interval",
    "Level",
    "Predicted",
    "ReliabilityBin",
    "compare",
    "evaluate",
    "separation",
]

_BINS = 15
_SMALLEST = 1e-12
_COVERAGES = np.linspace(0.02, 1.0, 50)
_FLAGGED_SHARE = 0.1
_BLOCK = 4_000_000


class Interval(Settings):
    """A value with its 95 % interval; both ends are missing where they cannot be had."""

    value: float = Field(description="value on the data as they are")
    low: float | None = Field(default=None, description="lower end of the interval")
    high: float | None = Field(default=None, description="upper end of the interval")


class ClassScores(Settings):
    """Scores of one class."""

    precision: Interval = Field(description="share of what was classified as this class that is labelled so")
    recall: Interval = Field(description="share of what is labelled as this class that was classified so")
    f1: Interval = Field(description="harmonic mean of precision and recall")
    support: int = Field(description="labelled images, or sources")


class ReliabilityBin(Settings):
    """Images, or sources, of nearly the same confidence."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    low: float = Field(validation_alias="from", serialization_alias="from", description="lowest confidence of the bin")
    high: float = Field(validation_alias="to", serialization_alias="to", description="highest confidence of the bin")
    count: float = Field(description="number of images, or sources")
    confidence: float = Field(description="mean confidence")
    accuracy: float = Field(description="share classified as labelled")


class CoveragePoint(Settings):
    """Error rate of what is left where the least confident are given to a person."""

    coverage: float = Field(description="share that is left, the most confident first")
    risk: float = Field(description="share of it that is wrong")


class Level(Settings):
    """Scores of images, or of sources."""

    n: int = Field(description="images, or sources")
    loss: Interval = Field(description="mean cross-entropy, nats")
    accuracy: Interval = Field(description="share classified as labelled")
    balanced_accuracy: Interval = Field(description="mean recall of the classes")
    macro_f1: Interval = Field(description="mean F1 of the classes")
    ece: Interval = Field(
        description="expected calibration error, 15 bins of equal width (Naeini et al. 2015); like every such estimate"
        " it is too high where there are few images; its interval is moved so that its middle is the value"
    )
    aurc: Interval = Field(description="area under the risk-coverage curve (Geifman et al. 2019, arXiv:1805.08206)")
    errors_caught: Interval | None = Field(
        description="share of the errors among the least confident tenth; none where there are no errors"
    )
    per_class: dict[str, ClassScores] = Field(description="scores by class name")
    confusion: list[list[int]] = Field(description="rows: labelled class, columns: predicted class")
    reliability: list[ReliabilityBin] = Field([], description="bins of confidence that are not empty")
    risk_coverage: list[CoveragePoint] = Field([], description="risk-coverage curve")

    def without_curves(self) -> Level:
        """Return the scores without the points of the two curves."""
        return self.model_copy(update={"reliability": [], "risk_coverage": []})


class Evaluation(Settings):
    """Scores of images and of sources, and what the flags of the bundle do."""

    sources: int = Field(description="different sources")
    image: Level = Field(description="scores that count images")
    source: Level = Field(
        description="scores of the mean probability of each source's images; a source with several labels counts"
        " once for each"
    )
    flags: dict[str, float] = Field(description="share flagged, share of the errors that are flagged, per flag")

    def without_curves(self) -> Evaluation:
        """Return the evaluation without the points of its curves, as a bundle keeps it."""
        return self.model_copy(update={"image": self.image.without_curves(), "source": self.source.without_curves()})


class Comparison(Settings):
    """One bundle against another on the same images, first minus second, paired by source."""

    image_accuracy: Interval = Field(description="difference of the accuracies by image")
    image_loss: Interval = Field(description="difference of the losses by image, nats")
    source_accuracy: Interval = Field(description="difference of the accuracies by source")
    source_loss: Interval = Field(description="difference of the losses by source, nats")
    only_first_right: int = Field(description="sources that only the first classifies right")
    only_second_right: int = Field(description="sources that only the second classifies right")
    p_value: float = Field(description="exact sign test on those sources (McNemar 1947)")


@dataclass(frozen=True)
class Predicted:
    """Predictions beside labels.

    Attributes:
        probabilities: (N, C), rows sum to 1.
        labels: Class indices (N,).
        sources: Number of each image's source (N,), any whole numbers.
        class_names: C names.
        named: Whether each image's source is known, (N,) bool; an image without a source is its own.
        flags: Each image's flag, empty where there is none.
        ood: Out-of-distribution scores (N,).
    """

    probabilities: Array
    labels: NDArray[np.int64]
    sources: NDArray[np.int64]
    class_names: tuple[str, ...]
    named: NDArray[np.bool_]
    flags: tuple[str, ...]
    ood: Array

    @classmethod
    def of_samples(
        cls,
        samples: Sequence[Sample],
        class_names: tuple[str, ...],
        probabilities: NDArray[np.floating],
        *,
        ood: NDArray[np.floating],
        flags: Sequence[str],
    ) -> Predicted:
        """Set predictions beside what the images are labelled as.

        Args:
            samples: Images, with labels and sources.
            class_names: C names.
            probabilities: Probabilities (N, C); they are scaled so that each row sums to 1 in float64.
            ood: Out-of-distribution scores (N,).
            flags: Flag of each image, empty where there is none.
        """
        exact = probabilities.astype(np.float64)
        return cls(
            probabilities=exact / exact.sum(axis=1, keepdims=True),
            labels=np.array([sample.label for sample in samples], np.int64),
            sources=number_sources(samples),
            class_names=class_names,
            named=np.array([sample.source is not None for sample in samples], bool),
            flags=tuple(flags),
            ood=ood.astype(np.float64),
        )

    def select(self, chosen: NDArray[np.bool_]) -> Predicted:
        """Return some of the images.

        Args:
            chosen: Images to take, (N,) bool.
        """
        return replace(
            self,
            probabilities=self.probabilities[chosen],
            labels=self.labels[chosen],
            sources=self.sources[chosen],
            named=self.named[chosen],
            flags=tuple(flag for flag, taken in zip(self.flags, chosen, strict=True) if taken),
            ood=self.ood[chosen],
        )

    def by_source(self) -> Predicted:
        """Return one row per source and label: the mean over its images; images without a source are left out.

        Where no source is named, every image is one.
        """
        rows = self.named if self.named.any() else ~self.named
        pairs = np.stack((self.sources[rows], self.labels[rows]), 1)
        keys, first, members = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
        members = members.ravel()
        counts = np.bincount(members, minlength=len(keys)).astype(float)
        mean = np.stack([np.bincount(members, column) for column in self.probabilities[rows].T], 1) / counts[:, None]
        return replace(
            self,
            probabilities=mean,
            labels=self.labels[rows][first],
            sources=keys[:, 0],
            named=np.ones(len(keys), bool),
            flags=("",) * len(keys),
            ood=np.bincount(members, self.ood[rows]) / counts,
        )


def evaluate(predicted: Predicted, *, resamples: int = 1000, seed: int = 0) -> Evaluation:
    """Measure predictions at both levels.

    Args:
        predicted: Predictions to measure.
        resamples: Number of bootstrap resamples; 0 for no intervals.
        seed: Seed of the resampling.
    """
    by_source = predicted.by_source()
    return Evaluation(
        sources=len(np.unique(predicted.sources)),
        image=_level(predicted, resamples, seed),
        source=_level(by_source, resamples, seed),
        flags=_flags(predicted),
    )


def compare(first: Predicted, second: Predicted, *, resamples: int = 1000, seed: int = 0) -> Comparison:
    """Compare two sets of predictions of the same images.

    Args:
        first: Predictions of one network.
        second: Predictions of the other; the labels and sources are those of `first`.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.
    """
    differences: dict[str, Interval] = {}
    for name, one, two in (("image", first, second), ("source", first.by_source(), second.by_source())):
        sums, other = _Sums.of(one), _Sums.of(two)
        drawn = _draw(sums, resamples, seed)
        for what in ("accuracy", "loss"):
            point = float(sums.statistics(None)[what][0] - other.statistics(None)[what][0])
            spread = sums.statistics(drawn)[what] - other.statistics(drawn)[what]
            differences[f"{name}_{what}"] = _interval(point, spread)
    right = [p.by_source() for p in (first, second)]
    one, two = (p.probabilities.argmax(axis=1) == p.labels for p in right)
    only_first, only_second = int((one & ~two).sum()), int((two & ~one).sum())
    decided = only_first + only_second
    p_value = float(binomtest(only_first, decided).pvalue) if decided else 1.0
    return Comparison(**differences, only_first_right=only_first, only_second_right=only_second, p_value=p_value)


def separation(
    known: Array, unknown: Array, sources: NDArray[np.int64], *, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Return the area under the ROC curve of a score that shall be higher on unknown images.

    Args:
        known: Scores of images of the known classes (N,).
        unknown: Scores of other images (M,).
        sources: Number of each image's source, the known ones' first, (N + M,); sources are what is resampled.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.
    """
    generator = np.random.default_rng(seed)
    truth, scores = np.r_[np.zeros(len(known)), np.ones(len(unknown))], np.r_[known, unknown]
    weights = np.zeros((resamples, len(scores)))
    for side in (truth == 0, truth == 1):
        keys, members = np.unique(sources[side], return_inverse=True)
        drawn = generator.multinomial(len(keys), np.full(len(keys), 1 / len(keys)), resamples)
        weights[:, side] = drawn[:, members]
    draws = [float(roc_auc_score(truth, scores, sample_weight=weight)) for weight in weights]
    return _interval(float(roc_auc_score(truth, scores)), np.array(draws))


@dataclass(frozen=True)
class _Sums:
    """What every score is a function of, summed per source, so that a resample is a weighted sum of rows."""

    class_names: tuple[str, ...]
    strata: NDArray[np.int64]
    confusion: Array
    loss: Array
    bins: Array
    members: NDArray[np.int64]
    order: NDArray[np.int64]
    wrong: Array

    @classmethod
    def of(cls, predicted: Predicted) -> _Sums:
        labels, probabilities = predicted.labels, predicted.probabilities
        classes = len(predicted.class_names)
        keys, first, members = np.unique(predicted.sources, return_index=True, return_inverse=True)
        confident = probabilities.max(axis=1)
        guess = probabilities.argmax(axis=1)
        right = (guess == labels).astype(float)
        nats = -np.log(np.clip(probabilities[np.arange(len(labels)), labels], _SMALLEST, 1.0))
        strata = labels[first].copy()
        strata[members[labels != strata[members]]] = classes  # sources with several labels: a stratum of their own
        confusion = np.zeros((len(keys), classes, classes))
        np.add.at(confusion, (members, labels, guess), 1.0)
        bins = np.zeros((len(keys), _BINS, 3))
        place = np.minimum((confident * _BINS).astype(int), _BINS - 1)
        np.add.at(bins, (members, place), np.stack((np.ones_like(confident), confident, right), 1))
        order = np.argsort(-confident, kind="stable")
        loss = np.bincount(members, nats, minlength=len(keys)).astype(float)
        return cls(predicted.class_names, strata, confusion, loss, bins, members, order, 1 - right)

    def statistics(self, weights: Array | None) -> dict[str, Array]:
        """Return every score for each row of weights per source (R, S); without weights, for all sources once."""
        weights = np.ones((1, len(self.loss))) if weights is None else weights
        confusion = np.tensordot(weights, self.confusion, 1)
        total = confusion.sum(axis=(1, 2))
        diagonal = np.diagonal(confusion, axis1=1, axis2=2)
        labelled, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
        recall = _ratio(diagonal, labelled)
        f1 = _ratio(2 * diagonal, labelled + predicted)
        present = labelled > 0
        bins = np.tensordot(weights, self.bins, 1)
        aurc, caught = self._selective(weights)
        return {
            "loss": weights @ self.loss / total,
            "accuracy": diagonal.sum(axis=1) / total,
            "balanced_accuracy": _ratio((recall * present).sum(axis=1), present.sum(axis=1)),
            "macro_f1": _ratio((f1 * present).sum(axis=1), present.sum(axis=1)),
            "ece": np.abs(bins[..., 1] - bins[..., 2]).sum(axis=1) / total,
            "aurc": aurc,
            "errors_caught": caught,
            "precision": _ratio(diagonal, predicted),
            "recall": recall,
            "f1": f1,
        }

    def _selective(self, weights: Array) -> tuple[Array, Array]:
        """Return the area under the risk-coverage curve, and the share of errors in the least confident tenth."""
        rows = max(1, _BLOCK // len(self.order))
        if not len(weights):
            return np.zeros(0), np.zeros(0)
        parts = [self._selective_block(weights[start : start + rows]) for start in range(0, len(weights), rows)]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def _selective_block(self, weights: Array) -> tuple[Array, Array]:
        weight = weights[:, self.members[self.order]]
        covered = weight.cumsum(axis=1)
        errors = (weight * self.wrong[self.order]).cumsum(axis=1)
        total, failed = covered[:, -1:], errors[:, -1:]
        aurc = (_ratio(errors, covered) * weight).sum(axis=1) / total[:, 0]
        # What lies past the first nine tenths; a weight that straddles the border counts by its part.
        inside = np.clip((1 - _FLAGGED_SHARE) * total - (covered - weight), 0, weight)
        missed = (inside * self.wrong[self.order]).sum(axis=1)
        return aurc, np.where(failed[:, 0] > 0, 1 - _ratio(missed, failed[:, 0]), np.nan)


def _ratio(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.zeros(np.broadcast_shapes(part.shape, whole.shape)), where=whole > 0)


def _draw(sums: _Sums, resamples: int, seed: int) -> Array:
    """Return how often each source is drawn in each resample (R, S): as many as there are, class by class."""
    generator = np.random.default_rng(seed)
    drawn = np.zeros((resamples, len(sums.strata)))
    for label in np.unique(sums.strata):
        members = np.flatnonzero(sums.strata == label)
        drawn[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), resamples)
    return drawn


def _interval(point: float, draws: Array) -> Interval:
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return Interval(value=point)
    low, high = np.quantile(draws, (0.025, 0.975))
    return Interval(value=point, low=float(low), high=float(high))


def _level(predicted: Predicted, resamples: int, seed: int) -> Level:
    sums = _Sums.of(predicted)
    point = sums.statistics(None)
    drawn = sums.statistics(_draw(sums, resamples, seed)) if resamples else {}

    def scored(name: str, index: int | None = None) -> Interval:
        where: Any = (slice(None),) if index is None else (slice(None), index)
        return _interval(float(point[name][where][0]), drawn[name][where] if resamples else np.zeros(0))

    confusion = sums.confusion.sum(axis=0).astype(int)
    names = ("loss", "accuracy", "balanced_accuracy", "macro_f1", "ece", "aurc")
    plain: dict[str, Any] = {name: scored(name) for name in names}
    if resamples:
        moved = drawn["ece"] - np.median(drawn["ece"]) + point["ece"][0]
        plain["ece"] = _interval(float(point["ece"][0]), np.maximum(moved, 0))
    plain["errors_caught"] = scored("errors_caught") if sums.wrong.any() else None
    return Level(
        n=len(predicted.labels),
        **plain,
        per_class={
            name: ClassScores(
                precision=scored("precision", index),
                recall=scored("recall", index),
                f1=scored("f1", index),
                support=int(confusion[index].sum()),
            )
            for index, name in enumerate(predicted.class_names)
        },
        confusion=confusion.tolist(),
        reliability=_reliability(sums),
        risk_coverage=_risk_coverage(sums),
    )


def _reliability(sums: _Sums) -> list[ReliabilityBin]:
    rows = sums.bins.sum(axis=0)
    edges = np.linspace(0, 1, _BINS + 1)
    return [
        ReliabilityBin(
            low=float(edges[index]),
            high=float(edges[index + 1]),
            count=float(count),
            confidence=float(confidence / count),
            accuracy=float(right / count),
        )
        for index, (count, confidence, right) in enumerate(rows)
        if count
    ]


def _risk_coverage(sums: _Sums) -> list[CoveragePoint]:
    wrong = sums.wrong[sums.order].cumsum()
    counts = np.maximum(1, np.ceil(_COVERAGES * len(wrong)).astype(int))
    return [
        CoveragePoint(coverage=float(share), risk=float(wrong[count - 1] / count))
        for share, count in zip(_COVERAGES, counts, strict=True)
    ]


def _flags(predicted: Predicted) -> dict[str, float]:
    wrong = predicted.probabilities.argmax(axis=1) != predicted.labels
    flags = np.array(predicted.flags, dtype=object)
    result: dict[str, float] = {}
    chosen: Sequence[tuple[str, Any]] = [
        ("any", flags != ""),
        *((name, flags == name) for name in sorted(set(predicted.flags) - {""})),
    ]
    for name, flagged in chosen:
        result[f"share_flagged_{name}"] = float(np.mean(flagged))
        result[f"errors_caught_{name}"] = float(wrong[flagged].sum() / max(1, wrong.sum()))
    return result
