"""What several tests share: one Ray cluster, one small bundle, drawn slides, the real data where it is."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ.pop("RAY_ADDRESS", None)

import numpy as np
import pytest
import torch

from core.images.cells import CellFinder
from core.images.drawings import CLASS_NAMES, draw_field
from core.images.preprocessing import Preprocessing
from core.model.bundle import Bundle, load_bundle, save_bundle
from core.model.confidence import Confidence
from core.model.network import build_network
from core.model.record import BundleRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

PROJECT = Path(__file__).resolve().parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One Ray cluster for the whole session, on loopback, with bounded memory and a short path."""
    import ray

    with tempfile.TemporaryDirectory(prefix="lr", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=256 * 1024 * 1024,
            _temp_dir=folder,
            _node_ip_address="127.0.0.1",
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """The dashboard's address of a cluster of its own, for jobs."""
    from jobs import head_node

    with head_node() as address:
        yield address


@pytest.fixture(scope="session")
def shipped() -> Path:
    """The bundle in the repository."""
    return PROJECT / "models" / "blood-cells"


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with random weights and a small input: quick, and wrong about everything."""
    torch.manual_seed(7)
    network = build_network(len(CLASS_NAMES)).eval()
    folder = tmp_path_factory.mktemp("bundle") / "small"
    record = BundleRecord(
        preprocessing=Preprocessing(height=64, width=64, cell=CellFinder()),
        confidence=Confidence(min_confidence=0.26, chosen_on="nothing; a test"),
    )
    save_bundle(folder, network, CLASS_NAMES, record, None, "# A test\n")
    return folder


@pytest.fixture(scope="session")
def field_bundle(small_bundle: Path, shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small bundle with the shipped finder: it finds every cell, and is wrong about all of them."""
    small, finder = load_bundle(small_bundle), load_bundle(shipped).finder
    assert finder is not None
    folder = tmp_path_factory.mktemp("bundle") / "fields"
    save_bundle(folder, small.network, small.class_names, small.record, None, "# A test\n", finder=finder)
    return folder


@pytest.fixture(scope="session")
def exported_bundle(field_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, for OpenVINO too."""
    pytest.importorskip("openvino", reason="OpenVINO is an extra")
    from pipelines.export import ExportSettings, export

    folder = tmp_path_factory.mktemp("exported") / "bundle"
    shutil.copytree(field_bundle, folder)
    assert export(ExportSettings(bundle=folder, engine="openvino")) == 0
    return folder


@pytest.fixture(scope="session")
def bundle(small_bundle: Path) -> Bundle:
    return load_bundle(small_bundle)


@pytest.fixture(scope="session")
def fields() -> list[np.ndarray]:
    """Two drawn fields of each class."""
    rng = np.random.default_rng(11)
    return [draw_field(kind, rng) for kind in CLASS_NAMES for _ in range(2)]


@pytest.fixture(scope="session")
def blood_cells() -> Path:
    """The real data, where this machine has it."""
    root = os.environ.get("LEUKORAY_DATA")
    if root is None or not (Path(root) / "blood-cells").is_dir():
        pytest.skip("LEUKORAY_DATA does not name a folder with blood-cells/")
    return Path(root) / "blood-cells"


@contextlib.contextmanager
def browsing(*allowed: str) -> Iterator[Page]:
    """A page of a real browser; fails at a script error, a breach of the page's policy, or a request elsewhere."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if "Content Security" in line.text else None)
        page.on("request", lambda request: None if request.url.startswith(allowed) else problems.append(request.url))
        yield page
        browser.close()
        assert problems == []


@pytest.fixture
def page() -> Iterator[Page]:
    """A page that may ask for local files alone, all of which must be there."""
    failed: list[str] = []
    with browsing("file:") as page:
        page.on("requestfailed", lambda request: failed.append(request.url))
        yield page
    assert failed == []


@pytest.fixture(scope="session")
def served(small_bundle: Path) -> Iterator[str]:
    """The address of one service for the whole session."""
    from service import LIMITS, running

    limits = [part for name, value in LIMITS.items() for part in (f"--{name}", str(value))]
    with running("--bundle", str(small_bundle), *limits) as (address, _):
        yield address
