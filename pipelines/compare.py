"""Say what changed between two runs: ``python pipelines/compare.py RUN_A RUN_B --out FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pydantic import Field
from pydantic_settings import CliPositionalArg

from core.errors import SettingsError
from core.settings import time_stamp
from pipelines.comparing.reading import open_finished, read_run
from pipelines.comparing.record import CHANGED, SAME, UNKNOWN, ComparisonRecord, Finding, Limits, Side, Verdict
from pipelines.comparing.report import write_report
from pipelines.comparing.runs import RunComparison, compare_runs
from pipelines.comparing.text import finding_line, summary_line
from pipelines.comparing.training import compare_with_training, is_bundle, open_reference, training_side
from runtime.command import refuse_existing, run_command
from runtime.progress import say

__all__ = ["SOMETHING_CHANGED", "CompareSettings", "compare", "main"]

SOMETHING_CHANGED = 3
"""Exit code where something changed; 0 where nothing is known to have."""


class CompareSettings(Limits):
    """Say what changed between two finished runs of classify, or between training images and a run.

    RUN_A and RUN_B are paths or URIs of runs. In the place of RUN_A may stand the folder of the bundle that RUN_B was
    made with, or the word training for it: what it records of its training images, colours above all, is then compared.
    Writes compare.json and index.html. The exit code is 0 where nothing is known to have changed, 3 where something
    has, and 2 where a run cannot be used.
    """

    run_a: CliPositionalArg[str] = Field(description="run from before; or a bundle, or the word training", repr=False)
    run_b: CliPositionalArg[str] = Field(description="run of now", repr=False)
    out: Path = Field(description="folder of the report; new")
    embeddings: int = Field(5000, ge=0, description="cells of each run whose embeddings are compared; 0: none")
    resamples: int = Field(1000, ge=100, le=20000, description="how often the slides are resampled")
    seed: int = Field(0, ge=0, description="seed of the resampling and of the folds")


def compare(settings: CompareSettings) -> int:
    """Run the command; return its exit code.

    Raises:
        LeukorayError: A run, a bundle or the options cannot be used.
    """
    refuse_existing(settings.out)
    limits = Limits.model_validate({name: getattr(settings, name) for name in Limits.model_fields})
    drawn = {"resamples": settings.resamples, "seed": settings.seed}
    training = is_bundle(settings.run_a)
    opened = [open_finished(place) for place in ([] if training else [settings.run_a]) + [settings.run_b]]
    run, record = opened[-1]
    if not training and opened[0][0].folder.location.shown == run.folder.location.shown:
        raise SettingsError("same-run", f"{run.folder.shown} is given twice; a run is compared with another one.")
    if training:
        bundle = open_reference(settings.run_a, record)
        first, second = None, read_run(run, record, 0)
        sides = training_side(bundle), second.side()
        compared = compare_with_training(bundle, second, limits, **drawn)
    else:
        first, second = (read_run(*one, settings.embeddings) for one in opened)
        sides = first.side(), second.side()
        compared = compare_runs(first, second, limits, **drawn)
    result = _record(settings, limits, sides, compared)
    write_report(settings.out, result, compared, first, second)
    for finding in result.findings:
        print(finding_line(finding))
    for note in result.notes:
        say(note)
    say(f"{summary_line(result)}; report: {settings.out / 'index.html'}")
    return SOMETHING_CHANGED if result.verdict == CHANGED else 0


def _record(
    settings: CompareSettings, limits: Limits, sides: tuple[Side, Side], compared: RunComparison
) -> ComparisonRecord:
    return ComparisonRecord(
        first=sides[0],
        second=sides[1],
        paired=compared.paired,
        limits=limits,
        resamples=settings.resamples,
        seed=settings.seed,
        verdict=_overall(compared.findings),
        findings=compared.findings,
        notes=compared.notes,
        created=time_stamp(),
    )


def _overall(findings: list[Finding]) -> Verdict:
    verdicts = {finding.verdict for finding in findings}
    return CHANGED if CHANGED in verdicts else UNKNOWN if UNKNOWN in verdicts or not findings else SAME


def main() -> int:
    """Entry point of the command."""
    return run_command(CompareSettings, compare)


if __name__ == "__main__":
    sys.exit(main())
