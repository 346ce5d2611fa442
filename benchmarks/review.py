"""How quickly a review of many cells answers, and how much memory page and server take.

    python benchmarks/review.py [--cells 10000] [--corrections 100]

Writes a finished run of drawn cells (`tests/finished_run.py`), serves it by ``pipelines/review.py``, opens the page in
headless Chromium, and prints: time until the first cells are on the screen, the time of a correction over HTTP, the
same in the page from the key to "Everything is saved", the time of a jump through the whole gallery, and the memory
of server and page.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path[0] = str(PROJECT)
sys.path.append(str(PROJECT / "tests"))

import psutil
from conftest import CHROMIUM
from finished_run import write_run
from playwright.sync_api import Page, sync_playwright
from review_server import TOKEN, Reviewing, reviewing

_SAVED = "document.getElementById('saved').textContent === 'Everything is saved'"
_SEEN = (
    "[...document.querySelectorAll('.tile img')].filter((image) => image.complete && image.naturalWidth).length >= 12"
)
_SHOWN = """(first) => { const tile = document.querySelector('.tile.active');
    return tile && tile.dataset.row !== first && tile.firstChild.complete && tile.firstChild.naturalWidth > 0; }"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--corrections", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = write_run(Path(folder), options.cells, ["a smear"])
        began = time.perf_counter()
        with reviewing(run.path) as server:
            print(f"server started {time.perf_counter() - began:5.1f} s")
            measure(server, options.corrections)


def measure(server: Reviewing, corrections: int) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport={"width": 1300, "height": 900})
        context.add_init_script("localStorage.setItem('leukoray-reviewer', 'Ann')")
        page = context.new_page()
        began = time.perf_counter()
        page.goto(f"{server.address}/?token={TOKEN}")
        _wait(page, _SEEN)
        print(f"first cells    {time.perf_counter() - began:5.2f} s")
        print(f"correction     {_describe(over_http(server, corrections))} over HTTP")
        print(f"               {_describe(by_key(page, corrections))} from the key to the sign that it is saved")
        print(f"jump to an end {_describe(jumps(page))}")
        megabyte = 1 << 20
        memory = psutil.Process(server.process.pid).memory_info().rss / megabyte
        heap = context.new_cdp_session(page).send("Runtime.getHeapUsage")["usedSize"] / megabyte
        tiles = page.locator(".tile").count()
        print(f"memory         server {memory:.0f} MiB, the page's scripts {heap:.0f} MiB, {tiles} cells in the page")
        browser.close()


def over_http(server: Reviewing, count: int) -> list[float]:
    seconds = []
    for number in range(count):
        began = time.perf_counter()
        answer = server.act(
            "label", f"measured-{number}", reviewer="Ann", seen=number, cells=[number], label="MONOCYTE"
        )
        seconds.append(time.perf_counter() - began)
        answer.raise_for_status()
    return seconds


def by_key(page: Page, count: int) -> list[float]:
    page.reload()
    _wait(page, _SEEN)
    page.locator("#gallery").focus()
    seconds = []
    for number in range(count):
        began = time.perf_counter()
        page.keyboard.press(str(1 + number % 4))
        _wait(page, _SAVED)
        seconds.append(time.perf_counter() - began)
    return seconds


def jumps(page: Page) -> list[float]:
    seconds = []
    for number in range(20):
        first = page.locator(".tile.active").get_attribute("data-row")
        began = time.perf_counter()
        page.keyboard.press("End" if number % 2 == 0 else "Home")
        _wait(page, _SHOWN, first)
        seconds.append(time.perf_counter() - began)
    return seconds


def _wait(page: Page, condition: str, argument: str | None = None) -> None:
    """Wait until the page fulfils a condition; its policy lets no script of ours wait inside."""
    while not page.evaluate(condition, argument):
        time.sleep(0.002)


def _describe(seconds: list[float]) -> str:
    ordered = sorted(1000 * value for value in seconds)
    return f"{statistics.median(ordered):5.0f} ms median, {ordered[int(0.95 * len(ordered))]:.0f} ms 95 %"


if __name__ == "__main__":
    main()
