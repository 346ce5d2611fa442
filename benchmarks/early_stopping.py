"""What ASHA saves and what it costs: the same random trials with and without it, at the same seeds.

python benchmarks/early_stopping.py DATA [--groups sources.csv] [--seeds 0 1] [--trials 12] [--epochs 9]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from tuning.record import SearchRecord

RECIPE = PROJECT / "core" / "training" / "recipes" / "cell-crop-step.json"


def main() -> None:
    """Search with both and print epochs and best validation accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="class folders")
    parser.add_argument("--groups")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--samples", type=int, default=1280, help="per epoch")
    parser.add_argument("--side", type=int, default=64, help="of the input, pixels")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="be", dir="/tmp") as folder:
        content = json.loads(RECIPE.read_text())
        content["preprocessing"] |= {"height": options.side, "width": options.side}
        content["training"] |= {"epochs": options.epochs, "samples_per_epoch": options.samples}
        recipe = Path(folder) / "recipe.json"
        recipe.write_text(json.dumps(content))
        for seed in options.seeds:
            whole, stopped = (search(options, recipe, Path(folder), seed, kind) for kind in ("none", "asha"))
            saved = 1 - stopped[0] / whole[0]
            print(
                f"seed {seed}: {whole[0]} epochs without, {stopped[0]} with ASHA ({saved:.0%} saved); best validation"
                f" accuracy {100 * whole[1]:.2f} and {100 * stopped[1]:.2f} %, loss {whole[2]:.4f} and"
                f" {stopped[2]:.4f}; best trial {whole[3]} and {stopped[3]}",
                flush=True,
            )


def search(
    options: argparse.Namespace, recipe: Path, folder: Path, seed: int, stopping: str
) -> tuple[int, float, float, int]:
    """Return the epochs trained, the best trial's accuracy and loss on the measured images, and its number."""
    out = folder / f"{stopping}-{seed}"
    command = [sys.executable, str(PROJECT / "tuning" / "search.py"), str(options.data), "--out", str(out)]
    command += ["--recipe", str(recipe), "--weights", "none", "--search", "random", "--stopping", stopping]
    command += ["--seed", str(seed), "--num-samples", str(options.trials), "--validation-share", "0.2"]
    command += ["--groups", options.groups] if options.groups else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    record = SearchRecord.load(out)
    if record.result is None or record.counts is None:
        sys.exit(f"no trial of {out} ended with weights")
    image = record.result.metrics.image
    return record.counts.epochs, image.accuracy.value, image.loss.value, record.result.trial


if __name__ == "__main__":
    main()
