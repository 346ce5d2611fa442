"""What calibration error a perfectly calibrated network would show on a data set that is views of few fields.

    python benchmarks/calibration.py EVALUATION [--draws 400]

EVALUATION is what `pipelines/evaluate.py` wrote. The network keeps its confidences, and each prediction is made right
with exactly that probability; views of one field share their fate through a Gaussian copula (a normal deviate for the
field, of weight rho, one for the image, of weight 1 - rho). Which rho the data show is read off the share of the
squared residuals (right - confidence) that is common to a field's views. Prints, per rho, that share, the expected
calibration error and the share of errors among the least confident tenth, both as `core.evaluation.scores` has them.
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import replace
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from scipy.stats import norm

from core.evaluation.scores import Predicted, evaluate

LEVELS = (0.0, 0.5, 0.8, 0.9, 0.95)


def main() -> None:
    """Read the predictions, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path, help="report folder of pipelines/evaluate.py")
    parser.add_argument("--draws", type=int, default=400)
    options = parser.parse_args()
    with (options.evaluation / "predictions.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    predicted = as_predicted(rows)
    confidence, guess = predicted.probabilities.max(axis=1), predicted.probabilities.argmax(axis=1)
    count = predicted.sources.max() + 1
    print(f"{len(rows)} images of {count} sources; common share, calibration error, errors in the last tenth")
    print("observed", *(f"{value:.3f}" for value in measure(predicted)))
    rng = np.random.default_rng(0)
    threshold = norm.ppf(np.clip(confidence, 1e-6, 1 - 1e-6))
    for rho in LEVELS:
        drawn = np.array(
            [
                measure(replace(predicted, labels=np.where(right, guess, (guess + 1) % len(predicted.class_names))))
                for right in (deviates(rho, predicted.sources, rng) < threshold for _ in range(options.draws))
            ]
        )
        low, middle, high = np.nanpercentile(drawn, [5, 50, 95], axis=0)
        numbers = [f"{m:.3f} ({a:.3f} to {b:.3f})" for a, m, b in zip(low, middle, high, strict=True)]
        print(f"rho {rho:.2f}", *numbers, f"error at most 0.03 in {np.mean(drawn[:, 1] <= 0.03):.0%}", sep="  ")


def deviates(rho: float, field_of: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a standard normal deviate per image; those of one field correlate with `rho`."""
    common = rng.standard_normal(field_of.max() + 1)[field_of]
    return np.sqrt(rho) * common + np.sqrt(1 - rho) * rng.standard_normal(len(field_of))


def as_predicted(rows: list[dict[str, str]]) -> Predicted:
    """Read the rows of predictions.csv."""
    names = tuple(name.removeprefix("p_") for name in rows[0] if name.startswith("p_"))
    _, field_of = np.unique([row["source"] for row in rows], return_inverse=True)
    return Predicted(
        probabilities=np.array([[float(row[f"p_{name}"]) for name in names] for row in rows]),
        labels=np.array([names.index(row["label"]) for row in rows]),
        sources=field_of,
        class_names=names,
        named=np.ones(len(rows), bool),
        flags=tuple(row["flag"] for row in rows),
        ood=np.array([float(row["ood"]) for row in rows]),
    )


def measure(predicted: Predicted) -> tuple[float, float, float]:
    """Return common share, expected calibration error, and share of the errors in the least confident tenth."""
    right = predicted.probabilities.argmax(axis=1) == predicted.labels
    residual = right - predicted.probabilities.max(axis=1)
    count = np.bincount(predicted.sources)
    mean = np.bincount(predicted.sources, residual) / count
    level = evaluate(predicted, resamples=0).image
    caught = np.nan if level.errors_caught is None else level.errors_caught.value
    return float(count @ mean**2 / (residual**2).sum()), level.ece.value, caught


if __name__ == "__main__":
    main()
