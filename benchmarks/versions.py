"""The whole command beside an earlier version of itself, and beside the notebook's way, in turns in one run.

    git worktree add ../before COMMIT
    python benchmarks/versions.py IMAGES --before ../before [--count 1500] [--rounds 3]

Each version classifies the same images with the bundle that it ships, files to Parquet and overlays for all. Counted:
images per second once the workers run, wall clock of the command from start to end, seconds from its start to the first
part of rows, and the highest sum of memory of all its processes: resident (shared pages count for each of them) and
proportional (PSS: shared out). The notebook's way is one image at a time: OpenCV, ResNet18 at 224x224, the grad-cam
package, its overlay, written; two threads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path[0] = str(PROJECT)

import cv2
import numpy as np
import psutil
import torch
import torchvision
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import show_cam_on_image

from benchmarks.memory import memory

NOTEBOOK_IMAGES = 60


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of slides")
    parser.add_argument("--before", type=Path, help="the earlier version, checked out")
    parser.add_argument("--count", type=int, default=1_500)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    trees = {"now": PROJECT} | ({"before": options.before} if options.before else {})
    rows: list[dict[str, dict[str, float]]] = []
    for number in range(1, options.rounds + 1):
        row = {name: classify(tree, options.images, options.count) for name, tree in trees.items()}
        row["notebook"] = {"rate": notebook_rate(options.images)}
        rows.append(row)
        for name, found in row.items():
            print(
                f"round {number}, {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in found.items()),
                flush=True,
            )
    print(f"\n{options.count} images; medians of {options.rounds} rounds, and the ratios of each round")
    for key in rows[0]["now"]:
        told = ", ".join(f"{name} {statistics.median(row[name][key] for row in rows):.4g}" for name in trees)
        ratios = [row["now"][key] / row["before"][key] for row in rows] if options.before else []
        print(
            f"{key}: {told}"
            + (f"; now / before {', '.join(f'{ratio:.2f}' for ratio in sorted(ratios))}" * bool(ratios))
        )
    ratios = sorted(row["now"]["rate"] / row["notebook"]["rate"] for row in rows)
    print(f"rate, now / the notebook's way: {', '.join(f'{ratio:.1f}' for ratio in ratios)}")


def classify(tree: Path, images: Path, count: int) -> dict[str, float]:
    """Run the command of one version; return what it took."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        command = [sys.executable, str(tree / "pipelines" / "classify.py"), str(images), "--out", str(out)]
        command += ["--limit", str(count), "--max-error-rate", "1"]
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
        begun = time.perf_counter()
        process = psutil.Popen(command, cwd=tree, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        first, looked, highest = 0.0, 0.0, (0, 0)
        while process.poll() is None:
            now = time.perf_counter() - begun
            if not first and any((out / "predictions").glob("*.parquet")):
                first = now
            if now - looked > 1:
                looked = now
                highest = tuple(max(pair) for pair in zip(highest, memory(process), strict=True))
            time.sleep(0.05)
        wall = time.perf_counter() - begun
        if process.returncode:
            sys.exit(f"classify.py of {tree} ended with {process.returncode}")
        rate = json.loads((out / "run.json").read_text())["throughput"]["images_per_s_once_started"]
    resident, proportional = (size / 2**20 for size in highest)
    return {
        "rate": rate,
        "wall_s": wall,
        "first_row_s": first,
        "resident_mib": resident,
        "proportional_mib": proportional,
    }


def notebook_rate(images: Path) -> float:
    """Images per second of the notebook's way."""
    files = sorted(path for path in images.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    files = files[:: max(1, len(files) // NOTEBOOK_IMAGES)][:NOTEBOOK_IMAGES]
    torch.set_num_threads(os.cpu_count() or 1)
    network = torchvision.models.resnet18(weights=None, num_classes=4).eval()
    with tempfile.TemporaryDirectory() as folder, GradCAM(network, [network.layer4[-1]]) as package:
        begun = time.perf_counter()
        for number, file in enumerate(files):
            rgb = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
            small = cv2.resize(rgb, (224, 224)).astype(np.float32) / 255
            batch = torch.from_numpy(small).permute(2, 0, 1)[None]
            with torch.no_grad():
                network(batch).softmax(dim=1)
            drawn = show_cam_on_image(small, package(batch, None)[0], use_rgb=True)
            cv2.imwrite(f"{folder}/{number}.jpg", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
        return len(files) / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
