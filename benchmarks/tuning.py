"""What Ray Tune costs: the same trials under it and in a plain loop, and what each further trial takes.

Wall time of a search (start of Ray, decoding and the best bundle included, nothing stopped early) beside the same
trials one after the other in one process on the same cores; both decode, train, validate and save every epoch.
Then several trials at once: seconds to the first training step and memory of each.

    python benchmarks/tuning.py DATA [--trials 4] [--epochs 4] [--samples 1280] [--groups CSV]
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

import psutil
import torch

from core.training.run import TrainingRun, TrainingSettings
from tuning.record import SearchRecord
from tuning.space import configure
from tuning.trials import read_trials

MIB = 1024 * 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="class folders")
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--samples", type=int, default=1280, help="per epoch")
    parser.add_argument("--groups", help="as for search.py; without it every held out image is watched")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=4, help="trials at once whose memory is looked at")
    options = parser.parse_args()
    ratios: list[float] = []
    with tempfile.TemporaryDirectory(prefix="bt", dir="/tmp") as folder:
        for number in range(options.rounds):
            out = Path(folder) / f"search-{number}"
            under_tune, _ = search(options, out, options.trials, ())
            plain = plain_loop(options, out, Path(folder))
            ratios.append(under_tune / plain)
            print(f"{options.trials} trials under Tune {under_tune:.1f} s, in a plain loop {plain:.1f} s", flush=True)
        out = Path(folder) / "at-once"
        _, memory = search(options, out, options.at_once, ("--max-concurrent", str(options.at_once)))
        show_memory(out, memory)
    print(f"wall time under Tune / in a plain loop: {statistics.median(ratios):.2f}")


def search(
    options: argparse.Namespace, out: Path, trials: int, more: tuple[str, ...]
) -> tuple[float, dict[int, tuple[int, int]]]:
    """Run the command; return its seconds, and per trial process its largest resident and unshared bytes."""
    command = [sys.executable, str(PROJECT / "tuning" / "search.py"), str(options.data), "--out", str(out)]
    command += ["--weights", "none", "--num-samples", str(trials), "--epochs", str(options.epochs)]
    command += ["--samples-per-epoch", str(options.samples), "--search", "random", "--stopping", "none", *more]
    command += ["--groups", options.groups] if options.groups else []
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    memory: dict[int, tuple[int, int]] = {}
    if more:  # looking at memory takes time, so not while time is measured
        threading.Thread(target=watch, args=(process, memory)).start()
    _, said = process.communicate()
    seconds = time.perf_counter() - started
    if process.returncode:
        sys.exit(said)
    return seconds, memory


def watch(process: subprocess.Popen[str], memory: dict[int, tuple[int, int]]) -> None:
    """Look at the trials' processes every second."""
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if "ImplicitFunc" in "".join(child.cmdline()):
                        now = child.memory_full_info()
                        before = memory.get(child.pid, (0, 0))
                        memory[child.pid] = (max(before[0], now.rss), max(before[1], now.uss))
        time.sleep(1)


def plain_loop(options: argparse.Namespace, out: Path, folder: Path) -> float:
    """Train what the search has trained, one trial after the other; return the seconds."""
    started = time.perf_counter()
    settings = TrainingSettings.model_validate(
        {
            "data": options.data,
            "recipe": "cell-crop-step",
            "weights": "none",
            "epochs": options.epochs,
            "samples_per_epoch": options.samples,
            "groups": options.groups,
        }
    )
    run = TrainingRun.prepare(settings, threads=torch.get_num_threads())
    training, validation = run.split()
    for trial in read_trials(str(out / "tune")).records:
        recipe = run.recipe.model_copy(update={"training": configure(run.recipe.training, trial.values)})
        checkpoint = folder / f"{trial.number}.safetensors"
        one = TrainingRun(settings, recipe, run.data, run.images, run.starts, run.device)
        one.trainer(training, validation, checkpoint=checkpoint, name="plain", epochs=None).fit()
        checkpoint.unlink()
    return time.perf_counter() - started


def show_memory(out: Path, memory: dict[int, tuple[int, int]]) -> None:
    """Print what each of the trials at once took."""
    record, trials = SearchRecord.load(out), read_trials(str(out / "tune")).records
    side = TrainingSettings.model_validate({"data": ".", "recipe": "cell-crop-step"}).load_recipe()
    edge = round(side.preprocessing.height * side.training.augmentation.margin)
    shared = record.images.training * edge * edge * 3
    print(f"{len(trials)} trials at once; the images that they share: {shared / MIB:,.0f} MiB")
    for trial in trials:
        resident, own = memory[trial.process or 0]
        print(
            f"  trial {trial.number}: first step after {trial.first_step or 0.0:.1f} s,"
            f" resident {resident / MIB:,.0f} MiB, of it unshared {own / MIB:,.0f} MiB"
        )


if __name__ == "__main__":
    main()
