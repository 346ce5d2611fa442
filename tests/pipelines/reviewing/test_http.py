"""The review over HTTP: what it answers, and whom it does not let in."""

from __future__ import annotations

import shutil
import signal
from typing import TYPE_CHECKING

import httpx
import pytest
from finished_run import FinishedRun, write_run
from review_server import TOKEN, Reviewing, reviewing

from core.images.decoder import decode
from core.images.drawings import CLASS_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTILE = ("a+b %41 #1?", "<script>alert(1)</script>", "'\";--")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    names = [name.replace("/", "") for name in HOSTILE]
    return write_run(tmp_path_factory.mktemp("run"), slides=names)


@pytest.fixture(scope="module")
def server(run: FinishedRun) -> Iterator[Reviewing]:
    with reviewing(run.path, "--further", "BASOPHIL") as server:
        yield server


def test_the_run_and_its_cells_are_told(server: Reviewing, run: FinishedRun) -> None:
    told = server.client.get("/api/run").json()
    assert told["labels"] == [*CLASS_NAMES, "BASOPHIL", "unidentified", "no-cell"]
    assert {slide["name"] for slide in told["slides"].values()} == {name.replace("/", "") for name in HOSTILE}
    every = server.client.get("/api/cells").json()["columns"]
    assert len(every["row"]) == 41
    one = server.client.get("/api/cells", params={"slide": 1}).json()["columns"]
    assert one["row"] == [row for row, slide in zip(every["row"], every["slide"], strict=True) if slide == 1]
    assert server.client.get("/api/cells", params={"slide": 3}).status_code == 404


def test_pictures_are_of_the_slides(server: Reviewing) -> None:
    cell = server.client.get("/pictures/cells/0.jpg", params={"side": 160})
    assert (cell.status_code, cell.headers["content-type"]) == (200, "image/jpeg")
    assert decode(cell.content).rgb.shape == (160, 160, 3)
    field = decode(server.client.get("/pictures/fields/0.jpg").content).rgb
    assert field.shape[1] > field.shape[0]
    for path in ("/pictures/cells/41.jpg", "/pictures/heatmaps/0.jpg", "/pictures/fields/-1.jpg"):
        assert server.client.get(path).status_code == 404
    assert server.client.get("/pictures/cells/0.jpg", params={"side": 10**6}).status_code == 400


def test_without_the_slides_the_runs_own_pictures_are_shown(tmp_path_factory: pytest.TempPathFactory) -> None:
    run = write_run(tmp_path_factory.mktemp("bare"), 8, drawn=False)
    with reviewing(run.path) as server:
        cell = server.client.get("/pictures/cells/0.jpg", params={"side": 96})
        assert decode(cell.content).rgb.shape == (96, 96, 3)
        field = server.client.get("/pictures/fields/0.jpg")
        assert (field.status_code, field.json()["error"]["code"]) == (404, "no-picture")
        shutil.rmtree(f"{run.path}/report")
        assert server.client.get("/pictures/cells/3.jpg").status_code == 200  # the sheet is in memory
    with reviewing(run.path) as server:
        assert server.client.get("/pictures/cells/0.jpg").status_code == 404


def test_cells_alike_are_found_by_their_features(server: Reviewing, run: FinishedRun) -> None:
    cells = run.cells()
    alike = server.client.get("/api/cells/0/alike", params={"most": 5}).json()
    assert alike[0] == 0
    assert {int(cells.label[row]) for row in alike} == {int(cells.label[0])}
    assert server.client.get("/api/cells/40/alike").json() == []  # an image without a cell
    shutil.copytree(run.path, f"{run.path}-bare", ignore=lambda *_: ["embeddings"])
    with reviewing(f"{run.path}-bare") as bare:
        assert bare.client.get("/api/cells/0/alike").status_code == 404


def test_a_change_is_told_to_all(server: Reviewing) -> None:
    seen = server.client.get("/api/run").json()["last"]
    saved = server.act("label", "first-action", seen=seen, cells=[0, 1], label="BASOPHIL")
    assert saved.status_code == 200
    told = server.client.get("/api/changes", params={"after": seen}).json()
    assert saved.json() == told
    assert [(cell["row"], cell["label"], cell["reviewer"]) for cell in told["cells"]] == [(0, 4, "Ann"), (1, 4, "Ann")]
    conflict = server.act("label", "second-action", reviewer="Bob", seen=seen, cells=[1], label="no-cell")
    assert (conflict.status_code, conflict.json()["error"]["cells"]) == (409, [1])
    history = server.client.get("/api/cells/1/history").json()
    assert [(entry["reviewer"], entry["after"]) for entry in history] == [("Ann", "BASOPHIL")]
    undone = server.act("undo", "third-action", seen=told["last"])
    assert undone.json()["undone"] == [0, 1]


def test_a_blind_reader_is_told_nothing(run: FinishedRun, server: Reviewing) -> None:
    server.act("label", "open-reading", reviewer="Ann", seen=10**6, cells=[2], label="MONOCYTE")
    with reviewing(run.path, "--reading", "second", "--reviewer", "Eve") as blind:
        cells = blind.client.get("/api/cells").json()
        assert not {"label", "flag", "probabilities"} & set(cells["columns"])
        assert cells["columns"]["row"] != sorted(cells["columns"]["row"])
        assert all(cell["label"] == -1 for cell in cells["cells"])
        assert blind.client.get("/api/changes", params={"after": 0}).json()["cells"] == []
        assert blind.client.get("/api/cells/2/history").json() == []
        assert "counts" not in blind.client.get("/api/run").text
        assert blind.client.get("/pictures/heatmaps/2.jpg").status_code == 409
        saved = blind.act("label", "blind-reading", reviewer="somebody", cells=[2], label="LYMPHOCYTE")
        assert saved.json()["cells"] == [{"row": 2, "label": 1, "said": True}]
        assert blind.client.get("/api/cells/2/history").json()[0]["reviewer"] == "Eve"
    assert all(cell["row"] != 2 for cell in server.client.get("/api/changes", params={"after": 10**5}).json()["cells"])


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"headers": {"Authorization": ""}}, 401),
        ({"headers": {"Authorization": "Bearer wrong"}}, 401),
        ({"headers": {"Authorization": "", "Cookie": "leukoray_review_1=wrong"}}, 401),
        ({"headers": {"Origin": "http://evil.example"}}, 403),
        ({"headers": {"Sec-Fetch-Site": "cross-site"}}, 403),
        ({"headers": {"Host": "evil.example"}}, 421),
        ({"headers": {"Content-Type": "text/plain"}}, 415),
        ({"content": b"x" * (1 << 20 | 1)}, 413),
        ({"content": b"{"}, 400),
        ({"content": b"[]"}, 400),
        ({"content": b"\xff\xfe"}, 400),
        ({"json": {"reviewer": "Ann"}}, 400),
        ({"json": {"reviewer": "\x00", "request": "r" * 8, "seen": 0, "cells": [0], "label": "MONOCYTE"}}, 400),
        ({"json": {"reviewer": "Ann", "request": "r" * 8, "seen": 0, "cells": [0], "label": "<script>"}}, 409),
        ({"json": {"reviewer": "Ann", "request": "r" * 8, "seen": 0, "cells": [10**9], "label": "MONOCYTE"}}, 404),
        ({"json": {"reviewer": "Ann", "request": "' OR 1=1", "seen": 0, "cells": [0], "label": "MONOCYTE"}}, 400),
        ({"json": {"reviewer": "Ann", "request": "r" * 8, "seen": 0, "cells": [0], "label": "MONOCYTE", "x": 1}}, 400),
        ({"json": {"reviewer": "Ann", "request": "r" * 8, "seen": 0, "cells": [], "label": "MONOCYTE"}}, 400),
    ],
)
def test_hostile_requests_change_nothing(server: Reviewing, change: dict[str, object], status: int) -> None:
    before = server.client.get("/api/run").json()["last"]
    good = {"json": {"reviewer": "Ann", "request": "hostile-1", "seen": before, "cells": [0], "label": "MONOCYTE"}}
    request = {"headers": {"Content-Type": "application/json"}} | (good if "content" not in change else {}) | change
    if "content" in change:
        request["headers"] = {"Content-Type": "application/json"}
    answer = server.client.post("/api/label", **request)
    assert answer.status_code == status, answer.text
    assert set(answer.json()["error"]) >= {"code", "message"}
    assert server.client.get("/api/run").json()["last"] == before


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/pictures/cells/..%2f..jpg", "/docs"]
)
def test_no_other_file_is_served(server: Reviewing, path: str) -> None:
    assert server.client.get(path).status_code in {400, 404}


def test_the_token_becomes_a_cookie(server: Reviewing) -> None:
    with httpx.Client(base_url=server.address, trust_env=False) as stranger:
        assert stranger.get("/").status_code == 401
        assert stranger.get("/", params={"token": "wrong"}).status_code == 401
        come_in = stranger.get("/", params={"token": TOKEN})
        assert (come_in.status_code, come_in.headers["location"]) == (303, "/")
        assert {"httponly", "samesite=strict"} <= set(come_in.headers["set-cookie"].lower().replace(" ", "").split(";"))
        page = stranger.get("/")
        assert page.status_code == 200
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert page.headers["x-frame-options"] == "DENY"
        assert stranger.get("/api/run").status_code == 200


def test_stopping_it_leaves_the_outcome(tmp_path_factory: pytest.TempPathFactory) -> None:
    run = write_run(tmp_path_factory.mktemp("stopped"), 8, drawn=False)
    with reviewing(run.path) as server:
        assert server.act("label", "one-cell", cells=[0], label="MONOCYTE").status_code == 200
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=30) == 0
    assert "MONOCYTE" in run.folder.folder.read("review/slides_reviewed.csv").decode()
    assert run.folder.folder.exists("review/report.html")
