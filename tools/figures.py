"""Every figure of a bundle's card and of the README: ``python tools/figures.py DATA --out FIGURES``.

DATA holds `blood-cells` and `labs`, laid out as their own pages describe. Each evaluation is written into the bundle.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pydantic import Field
from pydantic_settings import CliPositionalArg

from core.errors import BundleError, DataError
from core.files import replace_file, write_table
from core.model.bundle import load_bundle
from core.settings import Settings
from pipelines.evaluate import EvaluateSettings, evaluate
from runtime.command import refuse_existing, run_command

if TYPE_CHECKING:
    from core.evaluation.scores import Interval
    from core.model.metrics import BundleMetrics

__all__ = ["FiguresSettings", "figures", "main", "readme_table"]

_PROJECT = Path(__file__).resolve().parents[1]
BARCELONA, TEHRAN = "Barcelona test", "Tehran"
_UNKNOWN = ["BASOPHIL", "ERYTHROBLAST", "IMMATURE_GRANULOCYTE", "PLATELET"]
_MARKS = re.compile(r"(<!-- figures -->\n).*?(<!-- end of figures -->)", re.DOTALL)


class FiguresSettings(Settings):
    """Evaluate the bundle that ships on everything that its card and the README speak of, and write them anew."""

    data: CliPositionalArg[Path] = Field(description="folder that holds blood-cells and labs")
    out: Path = Field(description="folder of the reports")
    bundle: Path = Field(_PROJECT / "models" / "blood-cells", description="the bundle")
    readme: Path = Field(_PROJECT / "README.md", description="its table of figures is replaced")


def figures(settings: FiguresSettings) -> int:
    """Run the command; return its exit code.

    Raises:
        LeukorayError: The data or the bundle cannot be used.
    """
    for name in ("blood-cells", "labs"):
        if not (settings.data / name).is_dir():
            raise DataError("not-found", f"{settings.data} holds no folder {name}.")
    text = settings.readme.read_text(encoding="utf-8")
    if not _MARKS.search(text):
        raise DataError("no-marks", f"{settings.readme} has no place for the figures (<!-- figures -->).")
    refuse_existing(settings.out)
    cells = settings.data / "blood-cells"
    test: dict[str, Any] = {
        "data": cells / "images" / "TEST",
        "groups": str(cells / "sources.csv"),
        "protocol": "notebook",
    }
    away = settings.data / "labs"
    evaluations: dict[str, dict[str, Any]] = {
        "TEST": test,
        "TEST_SIMPLE": {"data": cells / "images" / "TEST_SIMPLE"},
        BARCELONA: {"data": away / "pbc" / "test", "unknown": _UNKNOWN},
        TEHRAN: {
            "data": away / "lisc",
            "unknown": ["BASOPHIL"],
            "groups": str(_blocks(away / "lisc", settings.out.parent / "tehran.csv")),
        },
    }
    for name, options in evaluations.items():
        out = settings.out / name.lower().replace(" ", "-")
        evaluate(EvaluateSettings.model_validate({"bundle": settings.bundle, "out": out, "record": name} | options))
    metrics = load_bundle(settings.bundle).metrics
    if metrics is None:  # the evaluations above have been written into it
        raise BundleError("bundle-without-record", f"{settings.bundle} has no metrics of this version.")
    table = readme_table(metrics)
    replace_file(settings.readme, _MARKS.sub(lambda found: found[1] + table + found[2], text))
    return 0


def _blocks(root: Path, file: Path) -> Path:
    """Name the sources of Tehran's crops: those of one cell have numbers that follow each other; tens of them are one.

    Returns:
        The file that was written, a CSV with the columns path and source.
    """
    paths = sorted(path for kind in root.iterdir() if kind.is_dir() for path in kind.glob("*.*"))
    rows = ((f"{path.parent.name}/{path.name}", f"{path.parent.name}-{path.stem[:-1]}") for path in paths)
    write_table(file, ("path", "source"), rows)
    return file


def readme_table(metrics: BundleMetrics) -> str:
    """Return the README's table of figures, Markdown.

    Args:
        metrics: Metrics of a bundle that was evaluated on TEST, in Barcelona and in Tehran.
    """
    rows = [
        ("sources left out of training, all laboratories", metrics.validation),
        ("TEST, the home laboratory", metrics.evaluations["TEST"].evaluation),
        ("Barcelona, images left out of training", metrics.evaluations[BARCELONA].evaluation),
        ("Tehran, a laboratory that it never saw", metrics.evaluations[TEHRAN].evaluation),
    ]
    rows += [
        (f"{name.capitalize()}, by a network that never saw it", evaluation)
        for name, evaluation in metrics.away.items()
    ]
    lines = ["| | images right | sources right | loss | calibration error |", "|---|---|---|---|---|"]
    for name, evaluation in rows:
        image, source = evaluation.image, evaluation.source
        right = sum(source.confusion[index][index] for index in range(len(source.confusion)))
        mark = "\\*" if evaluation is metrics.validation and metrics.calibration == "same-images" else ""
        lines.append(
            f"| {name} | {_percent(image.accuracy)} of {image.n:,} | {right} of {source.n}"
            f" | {image.loss.value:.2f}{mark} | {image.ece.value:.3f}{mark} |"
        )
    if metrics.calibration == "same-images":
        lines += ["", "\\* somewhat too good: the temperature was chosen on these images"]
    return "\n".join(lines) + "\n"


def _percent(interval: Interval) -> str:
    text = f"{100 * interval.value:.1f} %"
    if interval.low is None or interval.high is None:
        return text
    return f"{text} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def main() -> int:
    """Entry point of the command."""
    return run_command(FiguresSettings, figures)


if __name__ == "__main__":
    sys.exit(main())
