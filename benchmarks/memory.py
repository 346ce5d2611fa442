"""Memory of a run of ``pipelines/classify.py``: is it the same for ten times the images?

    python benchmarks/memory.py IMAGES [--counts 2000 20000]

Links as many images as asked for out of IMAGES (each may be linked several times), classifies them, and adds up,
every half second, the resident memory of the command and of everything that it started. Shared pages count once per
process (RSS), as tools like `ps` would count them; PSS shares them out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import psutil

PROJECT = Path(__file__).resolve().parents[1]


def link(source: Path, target: Path, count: int) -> None:
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    for number, path in enumerate(islice(cycle(files), count)):
        place = target / f"slide-{number // 1000:04d}" / f"{number:07d}{path.suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(path.resolve(), place)


def memory(process: psutil.Process) -> tuple[int, int]:
    """Summed RSS and PSS of a process and its descendants, in bytes."""
    rss = pss = 0
    for member in (process, *process.children(recursive=True)):
        try:
            full = member.memory_full_info()
        except psutil.Error:
            continue
        rss, pss = rss + full.rss, pss + full.pss
    return rss, pss


def peak(slides: Path, out: Path) -> tuple[int, int, float]:
    """Classify; return peak RSS, peak PSS and seconds."""
    started = time.perf_counter()
    command = [sys.executable, str(PROJECT / "pipelines" / "classify.py"), str(slides), "--out", str(out)]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    highest = (0, 0)
    while process.poll() is None:
        highest = tuple(max(pair) for pair in zip(highest, memory(process), strict=True))
        time.sleep(0.5)
    if process.returncode != 0:
        sys.exit(f"classify.py ended with {process.returncode}")
    return *highest, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=[2_000, 20_000])
    options = parser.parse_args()
    peaks: list[int] = []
    for count in options.counts:
        with tempfile.TemporaryDirectory() as folder:
            link(options.images, Path(folder, "slides"), count)
            rss, pss, seconds = peak(Path(folder, "slides"), Path(folder, "run"))
        peaks.append(rss)
        print(f"{count:7,} images: peak RSS {rss / 2**20:,.0f} MiB, peak PSS {pss / 2**20:,.0f} MiB, {seconds:.0f} s")
    print(f"peak RSS, last / first: {peaks[-1] / peaks[0]:.3f}   (aim: at most 1.10)")


if __name__ == "__main__":
    main()
