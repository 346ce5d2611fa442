"""``compare.json``: what was compared, and what changed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.settings import Settings

__all__ = ["CHANGED", "SAME", "UNKNOWN", "ComparisonRecord", "Finding", "Limits", "Side", "Verdict"]

Verdict = Literal["same", "changed", "cannot say"]
SAME: Verdict = "same"
CHANGED: Verdict = "changed"
UNKNOWN: Verdict = "cannot say"


class Limits(Settings):
    """What a difference must be to count, and how much must be there to say anything."""

    share_effect: float = Field(
        0.2, gt=0, description="Cohen's h from which a share has changed; 0.2 is small: 5 % to 10 %, or 40 % to 50 %"
    )
    shift_effect: float = Field(
        0.15, gt=0, lt=1, description="Cliff's delta from which confidence or out-of-distribution scores have changed"
    )
    colour_effect: float = Field(
        0.5, gt=0, description="difference of a mean colour, in standard deviations of the cells, that is a change"
    )
    embedding_effect: float = Field(
        0.3, gt=0, lt=1, description="how well unseen slides are told apart by their embeddings: 2 x AUC - 1"
    )
    fewest_slides: int = Field(5, ge=3, description="slides of each run below which nothing is said")
    fewest_cells: int = Field(100, ge=1, description="cells of each run below which nothing is said")


class Side(Settings):
    """One of the two things that were compared."""

    kind: Literal["run", "training"] = Field(description="a run, or what a bundle records of its training images")
    where: str = Field(description="folder of the run or of the bundle, without secrets")
    bundle: str = Field(description="identity of the bundle that classified")
    classes: tuple[str, ...] = Field(description="class names of the bundle")
    slides: int = Field(0, description="slides with a white cell")
    cells: int = Field(0, description="white cells")
    embeddings: int = Field(0, description="cells whose embeddings were compared")


class Finding(Settings):
    """One thing that was compared; differences are the second less the first."""

    group: Literal["classes", "confidence", "images", "colours", "embeddings"] = Field(description="what it is about")
    name: str = Field(description="what was compared")
    unit: Literal["share", "score", "levels", "auc"] = Field(
        description="a share from 0 to 1, a number, 8-bit levels, or an area under the ROC curve"
    )
    first: float | None = Field(None, description="share, median or mean of the first")
    second: float | None = Field(None, description="the same of the second")
    first_spread: float | None = Field(None, description="standard deviation of the cells of the first, for colours")
    second_spread: float | None = Field(None, description="the same of the second")
    measure: Literal["Cohen's h", "Cliff's delta", "standardised difference", "2 x AUC - 1"] = Field(
        description="how the size of the difference is measured"
    )
    effect: float | None = Field(None, description="size of the difference")
    low: float | None = Field(None, description="lower end of its 95 % interval, by resampling slides")
    high: float | None = Field(None, description="upper end")
    limit: float = Field(gt=0, description="size from which it counts, either way")
    verdict: Verdict = Field(description="where the interval lies: within the limit, beyond it, or neither")
    why: str = Field("", description="why nothing can be said; empty otherwise")


class ComparisonRecord(Settings):
    """The content of ``compare.json``."""

    format: Literal[1] = Field(1, description="version of this layout")
    first: Side = Field(description="what it was before")
    second: Side = Field(description="what it is now")
    paired: bool = Field(description="whether both are of the same slides, which are then resampled together")
    limits: Limits = Field(description="what counts as a change")
    resamples: int = Field(description="how often the slides were resampled")
    seed: int = Field(description="seed of the resampling")
    verdict: Verdict = Field(description="changed where anything is; same where everything is; else cannot say")
    findings: list[Finding] = Field(description="everything that was compared")
    notes: list[str] = Field(description="what a reader must know: what differs beside, and what could not be compared")
    created: str = Field(description="time, ISO 8601, UTC")

    def with_verdict(self, verdict: Verdict) -> list[Finding]:
        """Return the findings of one verdict."""
        return [finding for finding in self.findings if finding.verdict == verdict]
