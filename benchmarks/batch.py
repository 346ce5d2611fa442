"""How much of the bare network's speed a run of ``pipelines/classify.py`` keeps, and what Grad-CAM costs.

    python benchmarks/batch.py IMAGES [--images N] [--rounds R]

Everything is measured side by side in one call, on the same images, threads and batch size, in turns, and
compared as ratios of medians:

- ceiling: forward passes alone, on tensors in memory, with as many torch threads as the run has in all;
- end to end: files on disk to Parquet and overlays, as a user starts it, in its own process, counted from the
  moment the first worker begins (starting Ray and importing torch is reported beside it);
- Grad-CAM: ``--gradcam all`` against ``none``; and the one-pass map against the grad-cam package;
- engines: all of this in PyTorch; and OpenVINO against it, alone and end to end, where the bundle has it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path[0] = str(PROJECT)

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from core.images.decoder import decode
from core.model.bundle import load_bundle
from core.model.engine import normalise_maps
from core.model.exported import OpenVinoEngine, load_exported
from core.model.gradcam import one_pass_gradcam
from core.model.torch_engine import fold_batch_norm, forward
from pipelines.classification.slides import list_slides
from pipelines.classification.storage import open_folder

BATCH = 32


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", help="folder of slides")
    parser.add_argument("--count", type=int, default=2_000, help="images per run")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of everything")
    parser.add_argument("--model", type=Path, default=PROJECT / "models" / "blood-cells")
    return parser.parse_args()


def classify(options: argparse.Namespace, gradcam: str, engine: str = "torch") -> dict:
    """Run the command in its own process; return its run.json."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(PROJECT / "pipelines" / "classify.py"), options.images, "--out", f"{folder}/run"]
        command += ["--limit", str(options.count), "--gradcam", gradcam, "--batch-size", str(BATCH)]
        command += ["--model", str(options.model), "--max-error-rate", "1", "--engine", engine]
        subprocess.run(command, check=True, capture_output=True)
        return json.loads(Path(folder, "run", "run.json").read_text())


def load_pixels(options: argparse.Namespace) -> np.ndarray:
    """Prepare the first images in memory, (N, H, W, 3) uint8."""
    preprocessing = load_bundle(options.model).record.preprocessing
    entries = islice((entry for entry in list_slides(open_folder(options.images)) if entry and not entry.code), BATCH)
    return np.stack(
        [preprocessing.prepare(decode(Path(entry.path.decode()).read_bytes()).rgb).pixels for entry in entries]
    )


def forward_rate(network: torch.nn.Module, batch: torch.Tensor, threads: int, count: int) -> float:
    """Images per second of forward passes alone."""
    torch.set_num_threads(threads)
    with torch.inference_mode():
        for _ in range(3):
            forward(network, batch)
        started = time.perf_counter()
        for _ in range(count // len(batch)):
            forward(network, batch)
    return count // len(batch) * len(batch) / (time.perf_counter() - started)


def engine_rate(engine: OpenVinoEngine, pixels: np.ndarray, count: int) -> float:
    """Images per second of an engine alone."""
    engine.answer(pixels, gradcam=False)
    started = time.perf_counter()
    for _ in range(count // len(pixels)):
        engine.answer(pixels, gradcam=False)
    return count // len(pixels) * len(pixels) / (time.perf_counter() - started)


def gradcam_seconds(network: torch.nn.Module, batch: torch.Tensor) -> tuple[float, float]:
    """Seconds for one batch's predictions and maps: ours, and the grad-cam package's."""
    classes = torch.zeros(len(batch), dtype=torch.long)
    started = time.perf_counter()
    with torch.inference_mode():
        outputs = forward(network, batch)
        maps = one_pass_gradcam(outputs.feature_map, network.get_classifier().weight, classes)
        normalise_maps(maps.numpy())
    ours = time.perf_counter() - started
    with GradCAM(network, [network.get_submodule("layer4" if hasattr(network, "layer4") else "bn2")]) as package:
        started = time.perf_counter()
        package(batch, [ClassifierOutputTarget(0)] * len(batch))
        return ours, time.perf_counter() - started


def main() -> None:
    options = parse()
    bundle = load_bundle(options.model)
    plain = bundle.network.to(memory_format=torch.channels_last)
    pixels = load_pixels(options)
    batch = bundle.record.preprocessing.normalise(torch.from_numpy(pixels))
    batch = batch.contiguous(memory_format=torch.channels_last)
    folded = fold_batch_norm(plain, batch[:1]).to(memory_format=torch.channels_last)
    threads = torch.get_num_threads()
    fast = load_exported(options.model).engine("cpu", threads) if bundle.record.export else None
    rows: list[dict[str, float]] = []
    for number in range(1, options.rounds + 1):
        row = {
            "ceiling": forward_rate(plain, batch, threads, options.count),
            "folded": forward_rate(folded, batch, threads, options.count),
        }
        for gradcam in ("all", "none"):
            record = classify(options, gradcam)
            row[gradcam] = record["throughput"]["images_per_s_once_started"]
            row[f"{gradcam}_whole"] = record["throughput"]["images_per_s"]
            row[f"{gradcam}_starting"] = record["sessions"][0]["starting_s"]
        if fast is not None:
            row["fast_ceiling"] = engine_rate(fast, pixels, options.count)
            row["fast"] = classify(options, "all", "openvino")["throughput"]["images_per_s_once_started"]
        torch.set_num_threads(threads)
        row["ours"], row["package"] = gradcam_seconds(plain, batch)
        rows.append(row)
        print(f"round {number}: " + ", ".join(f"{name} {value:.3g}" for name, value in row.items()), flush=True)
    median = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    size = "x".join(str(side) for side in batch.shape[2:])
    print(
        f"\n{options.count} images, input {size}, batch {BATCH}, {threads} threads; medians of {options.rounds} rounds"
    )
    print(f"ceiling (bare forward pass)           {median['ceiling']:8.1f} images/s")
    print(f"ceiling with batch norm folded        {median['folded']:8.1f} images/s")
    print(f"end to end, Grad-CAM all              {median['all']:8.1f} images/s")
    print(f"end to end, Grad-CAM none             {median['none']:8.1f} images/s")
    print(f"starting Ray's workers                {median['all_starting']:8.1f} s")
    print(f"end to end / ceiling                  {median['all'] / median['ceiling']:8.2f}   (aim: at least 0.85)")
    print(f"end to end / folded ceiling           {median['all'] / median['folded']:8.2f}")
    print(f"the same with starting counted        {median['all_whole'] / median['ceiling']:8.2f}")
    if fast is not None:
        print(f"OpenVINO / PyTorch, alone             {median['fast_ceiling'] / median['folded']:8.2f}")
        print(f"OpenVINO / PyTorch, end to end        {median['fast'] / median['all']:8.2f}")
    print(f"time of all / time of none            {median['none'] / median['all']:8.2f}   (aim: at most 1.10)")
    print(
        f"grad-cam package / one pass           {median['package'] / median['ours']:8.2f}   times as long for one batch"
    )


if __name__ == "__main__":
    main()
