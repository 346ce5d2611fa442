"""How far two readers agree on the same cells: Cohen's kappa, with its interval and the table behind it."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from sklearn.metrics import cohen_kappa_score

from core.evaluation.differential import Share, share
from pipelines.reviewing.state import SECOND, labels_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipelines.reviewing.state import CellState, ReviewState

__all__ = ["Agreement", "Kappa", "PairOfReviewers", "SecondReading", "agree", "between_reviewers", "second_reading"]

_Z = 1.959964
"""Standard normal quantile of a 95 % interval."""


class Kappa(NamedTuple):
    """Cohen's kappa, 1 where readers agree wholly and 0 where they agree as often as by chance.

    Attributes:
        value: Kappa.
        low: Lower limit of its 95 % interval; None where the standard error is 0, as it is where readers never differ.
        high: Upper limit.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Agreement:
    """What two readers said of the same cells.

    Attributes:
        labels: Labels that either of them used, in order.
        table: Cells by the first reader's label (rows) and the second one's (columns), (L, L) int64.
    """

    labels: tuple[str, ...]
    table: NDArray[np.int64]

    @property
    def n(self) -> int:
        """Cells that both said something of."""
        return int(self.table.sum())

    @property
    def observed(self) -> Share:
        """Share of the cells on which they agree, in percent, with its exact binomial interval."""
        return share(int(np.trace(self.table)), self.n)

    @property
    def kappa(self) -> Kappa | None:
        """Cohen's kappa (1960, doi:10.1177/001316446002000104); None where it is undefined: no cell, or only one label.

        The interval comes from the asymptotic standard error (Fleiss, Cohen and Everitt 1969,
        doi:10.1037/h0028106, for unweighted kappa); it is too narrow where cells are few.
        """
        chance = float(self.table.sum(0) @ self.table.sum(1)) / max(1, self.n) ** 2
        if not self.n or chance == 1:
            return None
        first, second = np.indices(self.table.shape).reshape(2, -1)
        value = float(cohen_kappa_score(first, second, sample_weight=self.table.ravel()))
        error = _standard_error(self.table, value, chance)
        if error < 1e-6:  # 0 but for rounding
            return Kappa(value, None, None)
        return Kappa(value, max(-1.0, value - _Z * error), min(1.0, value + _Z * error))

    def against_rest(self, label: str) -> Agreement:
        """Return the agreement on one question: is it this label or not?"""
        index = self.labels.index(label)
        both, first, second = self.table[index, index], self.table[index].sum(), self.table[:, index].sum()
        rest = self.n - first - second + both
        return Agreement((label, "other"), np.array([[both, first - both], [second - both, rest]], np.int64))


@dataclass(frozen=True)
class SecondReading:
    """A blind second reading beside the first one.

    Attributes:
        all: Both readings of all cells that both came to.
        slides: The same by slide, for slides with such cells.
        first: Cells of each reader of the first reading; "" where a sign-off accepted what the model says.
        second: Cells of each reader of the second one.
        waiting: Cells that the second reading came to and the first one did not yet, which are not compared.
    """

    all: Agreement
    slides: dict[str, Agreement]
    first: Counter[str]
    second: Counter[str]
    waiting: int


@dataclass(frozen=True)
class PairOfReviewers:
    """Two reviewers of the first reading, who may have seen what the other one said.

    Attributes:
        first: Name of one.
        second: Name of the other.
        agreement: Their last words on the cells of which both said something.
    """

    first: str
    second: str
    agreement: Agreement


def agree(first: Sequence[str], second: Sequence[str], order: Sequence[str] = ()) -> Agreement:
    """Compare what two readers said.

    Args:
        first: Labels of the first reader.
        second: Labels of the second one, of the same cells.
        order: Labels in the order in which the table has them; others come after.
    """
    used = {*first, *second}
    labels = tuple(name for name in dict.fromkeys((*order, *sorted(used))) if name in used)
    numbers = {name: number for number, name in enumerate(labels)}
    table = np.zeros((len(labels), len(labels)), np.int64)
    for pair, count in Counter(zip(first, second, strict=True)).items():
        table[numbers[pair[0]], numbers[pair[1]]] = count
    return Agreement(labels, table)


def second_reading(state: ReviewState) -> SecondReading | None:
    """Compare the blind second reading with the first one; None where there is none.

    The first reading came to a cell where a reviewer said something of it, or where its slide is signed off. Where
    several people read for the second time, a cell's newest answer counts.

    Args:
        state: What the review says; nobody may apply entries to it meanwhile.
    """
    pairs: dict[str, list[tuple[str, str]]] = defaultdict(list)
    readers: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    waiting = 0
    for row, said in state.touched.items():
        if not said.second:
            continue
        slide = state.slide_of(row)
        if not said.says and state.slides[slide].signed is None:
            waiting += 1
            continue
        pairs[state.cells.slides[slide]].append((said.label, said.second))
        readers[0][said.word.reviewer if said.word else ""] += 1
        readers[1][_second_reader(said)] += 1
    if not pairs and not waiting:
        return None
    order = labels_of(
        state.cells.class_names, sorted({name for said in pairs.values() for pair in said for name in pair})
    )
    return SecondReading(
        all=_agree([pair for said in pairs.values() for pair in said], order),
        slides={name: _agree(pairs[name], order) for name in state.cells.slides if name in pairs},
        first=readers[0],
        second=readers[1],
        waiting=waiting,
    )


def between_reviewers(state: ReviewState) -> list[PairOfReviewers]:
    """Compare every two reviewers of the first reading who said something of the same cells.

    Args:
        state: What the review says; nobody may apply entries to it meanwhile.
    """
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for said in state.touched.values():
        for names in combinations(sorted(said.says), 2):
            pairs[names[0], names[1]].append((said.says[names[0]], said.says[names[1]]))
    order = labels_of(
        state.cells.class_names, sorted({name for said in pairs.values() for pair in said for name in pair})
    )
    return [PairOfReviewers(*names, _agree(said, order)) for names, said in sorted(pairs.items())]


def _agree(pairs: Sequence[tuple[str, str]], order: Sequence[str]) -> Agreement:
    return agree([first for first, _ in pairs], [second for _, second in pairs], order)


def _second_reader(said: CellState) -> str:
    return next(entry.reviewer for entry in reversed(said.history) if entry.reading == SECOND)


def _standard_error(table: NDArray[np.int64], kappa: float, chance: float) -> float:
    """Return kappa's asymptotic standard error, by equation 13 of Fleiss, Cohen and Everitt (1969)."""
    shares = table / table.sum()
    first, second = shares.sum(1), shares.sum(0)
    agreed = np.diag(shares) @ (1 - (first + second) * (1 - kappa)) ** 2
    crossed = shares * (second[:, None] + first[None, :]) ** 2
    differed = (1 - kappa) ** 2 * (crossed.sum() - np.trace(crossed))
    variance = (agreed + differed - (kappa - chance * (1 - kappa)) ** 2) / ((1 - chance) ** 2 * table.sum())
    return float(np.sqrt(max(0.0, variance)))
