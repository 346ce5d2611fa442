"""What calibration error a perfectly calibrated network would show on a data set that is views of few fields.

    python benchmarks/calibration.py EVALUATION [--draws 400]

EVALUATION is what `pipelines/evaluate.py` wrote. The network keeps its confidences, and each prediction is made right
with exactly that probability; views of one field share their fate through a Gaussian copula (a normal deviate for the
field, of weight rho, one for the image, of weight 1 - rho). Which rho the data show is read off the share of the
squared residuals (right - confidence) that is common to a field's views. Prints, per rho, that share, the expected
calibration error (15 equal bins, as `evaluate` has it) and the share of errors among the least confident tenth.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from scipy.stats import norm

BINS = 15
LEVELS = (0.0, 0.5, 0.8, 0.9, 0.95)


def main() -> None:
    """Read the predictions, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path, help="report folder of pipelines/evaluate.py")
    parser.add_argument("--draws", type=int, default=400)
    options = parser.parse_args()
    with (options.evaluation / "predictions.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    confidence = np.array([float(row["confidence"]) for row in rows])
    right = np.array([row["label"] == row["predicted"] for row in rows])
    fields, field_of = np.unique([row["source"] for row in rows], return_inverse=True)
    print(f"{len(rows)} images of {len(fields)} sources; common share, calibration error, errors in the last tenth")
    print("observed", *(f"{value:.3f}" for value in measure(confidence, right, field_of)))
    rng = np.random.default_rng(0)
    threshold = norm.ppf(np.clip(confidence, 1e-6, 1 - 1e-6))
    for rho in LEVELS:
        drawn = np.array(
            [measure(confidence, deviates(rho, field_of, rng) < threshold, field_of) for _ in range(options.draws)]
        )
        low, middle, high = np.nanpercentile(drawn, [5, 50, 95], axis=0)
        numbers = [f"{m:.3f} ({a:.3f} to {b:.3f})" for a, m, b in zip(low, middle, high, strict=True)]
        print(f"rho {rho:.2f}", *numbers, f"error at most 0.03 in {np.mean(drawn[:, 1] <= 0.03):.0%}", sep="  ")


def deviates(rho: float, field_of: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a standard normal deviate per image; those of one field correlate with `rho`."""
    common = rng.standard_normal(field_of.max() + 1)[field_of]
    return np.sqrt(rho) * common + np.sqrt(1 - rho) * rng.standard_normal(len(field_of))


def measure(confidence: np.ndarray, right: np.ndarray, field_of: np.ndarray) -> tuple[float, float, float]:
    """Return common share, expected calibration error, and share of the errors in the least confident tenth."""
    residual = right - confidence
    count = np.bincount(field_of)
    mean = np.bincount(field_of, residual) / count
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    error = np.abs(np.bincount(place, residual, minlength=BINS)).sum() / len(right)
    least = np.argsort(confidence, kind="stable")[: len(right) // 10]
    wrong = ~right
    caught = wrong[least].sum() / wrong.sum() if wrong.any() else np.nan
    return float(count @ mean**2 / (residual**2).sum()), float(error), float(caught)


if __name__ == "__main__":
    main()
