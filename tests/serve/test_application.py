"""Room, time, keys and changes of bundles: the application without Ray, where each can be brought about."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import shutil
import threading
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hostile import encoded, picture
from local_service import local_application, local_classifier, talk

from core.errors import BundleError
from core.images import reading
from core.images.preprocessing import Preprocessing
from core.model.bundle import load_bundle, save_bundle
from serve import service
from serve.app import app as build_from_args
from serve.app import build
from serve.messages import Answer
from serve.settings import ServeSettings

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

GOOD = encoded(picture(), "JPEG")
KEYS = ("first-key-of-the-lab", "second-key-of-the-lab")


@pytest.fixture
def settings(small_bundle: Path) -> ServeSettings:
    return ServeSettings(bundle=small_bundle, device="cpu", batch_size=4, max_queue=8, max_images=4)


@pytest.fixture
def other_bundle(small_bundle: Path, tmp_path: Path) -> Path:
    """The same with other weights."""
    first = load_bundle(small_bundle)
    torch.manual_seed(99)
    with torch.no_grad():
        for parameter in first.network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    save_bundle(tmp_path / "other", first.network, first.class_names, first.record, None, "# Other\n")
    return tmp_path / "other"


class Held:
    """Holds the network until it is told to go on."""

    def __init__(self, classifier: Any) -> None:
        self.gate, self.sizes = threading.Event(), []
        process = classifier._batcher._process

        def held(items: list[Any]) -> list[Any]:
            self.sizes.append(len(items))
            self.gate.wait(10)
            return process(items)

        classifier._batcher._process = held


def post(client: httpx.AsyncClient, **more: Any) -> asyncio.Task[httpx.Response]:
    return asyncio.ensure_future(client.post("/v1/classify", content=GOOD, **more))


def test_waiting_images_share_a_batch_and_the_rest_is_refused(settings: ServeSettings) -> None:
    app, classifier = local_application(settings)
    held = Held(classifier)

    async def conversation(client: httpx.AsyncClient) -> None:
        accepted = [post(client) for _ in range(8)]
        await asyncio.sleep(0.5)
        refused = await client.post("/v1/classify", content=GOOD)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "busy"
        protocol = await client.post("/v2/models/blood-cells/infer", content=b"{}")
        assert protocol.status_code == 429
        assert isinstance(protocol.json()["error"], str)
        held.gate.set()
        assert [answer.status_code for answer in await asyncio.gather(*accepted)] == [200] * 8
        assert (await client.post("/v1/classify", content=GOOD)).status_code == 200

    talk(app, conversation)
    assert sum(held.sizes) == 9
    assert max(held.sizes) == 4


def test_too_slow_frees_the_slot(settings: ServeSettings) -> None:
    app, classifier = local_application(settings.model_copy(update={"timeout_s": 0.5}))
    held = Held(classifier)

    async def conversation(client: httpx.AsyncClient) -> None:
        answers = await asyncio.gather(*(post(client) for _ in range(8)))
        assert {answer.status_code for answer in answers} == {504}
        assert "leukoray_waiting_images 0.0" in (await client.get("/metrics")).text
        held.gate.set()
        await asyncio.sleep(0.3)
        assert (await client.post("/v1/classify", content=GOOD)).status_code == 200

    talk(app, conversation)
    assert sum(held.sizes) < 8  # what nobody waits for is not computed


def test_a_caller_that_goes_away_frees_the_slot(settings: ServeSettings) -> None:
    app, classifier = local_application(settings)
    held = Held(classifier)

    async def conversation(client: httpx.AsyncClient) -> None:
        gone = [post(client) for _ in range(8)]
        await asyncio.sleep(0.5)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        assert "leukoray_waiting_images 0.0" in (await client.get("/metrics")).text
        held.gate.set()
        assert (await client.post("/v1/classify", content=GOOD)).status_code == 200

    talk(app, conversation)


def test_large_bodies_together(settings: ServeSettings) -> None:
    tight = settings.model_copy(update={"max_body_bytes": 60_000, "max_buffered_bytes": 60_000})
    app, classifier = local_application(tight)
    held = Held(classifier)

    async def conversation(client: httpx.AsyncClient) -> None:
        first = asyncio.ensure_future(client.post("/v1/classify", content=GOOD + b"\0" * 20_000))
        second = asyncio.ensure_future(client.post("/v1/classify", content=GOOD + b"\0" * 20_000))
        await asyncio.sleep(0.5)
        third = await client.post("/v1/classify", content=GOOD + b"\0" * 40_000)
        assert third.status_code == 503
        assert third.headers["retry-after"]
        held.gate.set()
        assert {(await first).status_code, (await second).status_code} <= {200, 503}
        assert (await client.post("/v1/classify", content=GOOD)).status_code == 200

    talk(app, conversation)


def test_keys(settings: ServeSettings, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"# of the lab\n{KEYS[1]}\n\n")
    app, _ = local_application(settings.model_copy(update={"api_keys": KEYS[:1], "api_keys_file": tmp_path / "keys"}))

    async def conversation(client: httpx.AsyncClient) -> None:
        for path in ("/v1/model", "/metrics", "/v2", "/nothing"):
            answer = await client.get(path)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["error"]
        for path in ("/", "/healthz", "/readyz", "/docs", "/openapi.json", "/v2/health/live", "/assets/page.js"):
            assert (await client.get(path)).status_code == 200, path
        for headers in (
            {"x-api-key": KEYS[0]},
            {"x-api-key": KEYS[1]},
            {"authorization": f"Bearer {KEYS[1]}"},
            {"authorization": f"bearer {KEYS[0]}"},
        ):
            assert (await client.get("/v1/model", headers=headers)).status_code == 200
        for headers in (
            {"x-api-key": KEYS[0][:-1]},
            {"x-api-key": ""},
            {"authorization": f"Basic {KEYS[0]}"},
            {"authorization": "Bearer"},
        ):
            assert (await client.get("/v1/model", headers=headers)).status_code == 401
        assert "securitySchemes" in (await client.get("/openapi.json")).json()["components"]

    talk(app, conversation)


def test_other_web_origins(settings: ServeSettings) -> None:
    app, _ = local_application(settings.model_copy(update={"cors_origins": ("https://lab.example",)}))

    async def conversation(client: httpx.AsyncClient) -> None:
        asked = {"origin": "https://lab.example", "access-control-request-method": "POST"}
        answer = await client.options("/v1/classify", headers=asked)
        assert answer.headers["access-control-allow-origin"] == "https://lab.example"
        stranger = await client.options("/v1/classify", headers={**asked, "origin": "https://other.example"})
        assert "access-control-allow-origin" not in stranger.headers

    talk(app, conversation)


def test_bundles_change_without_a_failed_request(
    settings: ServeSettings, other_bundle: Path, small_bundle: Path
) -> None:
    app, classifier = local_application(settings)
    before, after = load_bundle(small_bundle).id, load_bundle(other_bundle).id

    async def conversation(client: httpx.AsyncClient) -> list[httpx.Response]:
        answers: list[httpx.Response] = []
        going = True

        async def ask() -> None:
            while going:
                answers.append(await client.post("/v1/classify", content=GOOD))

        tasks = [asyncio.ensure_future(ask()) for _ in range(4)]
        for folder in (other_bundle, small_bundle, other_bundle):
            await asyncio.sleep(0.3)
            await classifier.reconfigure({"bundle": str(folder)})
        await asyncio.sleep(0.3)
        going = False
        await asyncio.gather(*tasks)
        return answers

    answers = talk(app, conversation)
    assert {answer.status_code for answer in answers} == {200}
    seen = [answer.json()["bundle"] for answer in answers]
    assert set(seen) == {before, after}
    assert seen[-1] == after
    by_bundle = {(one.json()["bundle"], round(one.json()["confidence"], 4)) for one in answers}
    assert len(by_bundle) == 2  # each result is the one of the bundle that it names


def test_a_bundle_of_another_size_is_prepared_for(settings: ServeSettings, small_bundle: Path, tmp_path: Path) -> None:
    first = load_bundle(small_bundle)
    larger = first.record.preprocessing.model_copy(update={"height": 96, "width": 96})
    record = first.record.model_copy(update={"preprocessing": larger})
    save_bundle(tmp_path / "larger", first.network, first.class_names, record, None, "# Larger\n")
    app, classifier = local_application(settings)

    async def conversation(client: httpx.AsyncClient) -> None:
        for folder in (tmp_path / "larger", small_bundle, tmp_path / "larger"):
            await classifier.reconfigure({"bundle": str(folder)})
            first, second = [await client.post("/v1/classify", content=GOOD) for _ in range(2)]
            assert first.status_code == second.status_code == 200
            assert second.json()["bundle"] == load_bundle(folder).id

    talk(app, conversation)


@pytest.mark.parametrize("damage", ["missing", "weights", "config", "unknown"])
def test_a_bundle_that_cannot_be_used_is_refused(
    settings: ServeSettings, other_bundle: Path, small_bundle: Path, damage: str
) -> None:
    config: dict[str, Any] = {"bundle": str(other_bundle)}
    if damage == "missing":
        shutil.rmtree(other_bundle)
    elif damage == "weights":
        weights = other_bundle / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "config":
        (other_bundle / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    else:
        config = {"bundel": str(other_bundle)}
    app, classifier = local_application(settings)

    async def conversation(client: httpx.AsyncClient) -> None:
        await classifier.reconfigure(config)
        facts = (await client.get("/v1/model")).json()
        assert facts["refused"]["reason"]
        assert facts["bundle"] == load_bundle(small_bundle).id
        assert (await client.post("/v1/classify", content=GOOD)).status_code == 200
        await classifier.reconfigure({})
        assert (await client.get("/v1/model")).json()["refused"] is None

    talk(app, conversation)


def test_an_image_that_breaks_the_network_fails_alone(settings: ServeSettings) -> None:
    app, classifier = local_application(settings)
    predict = classifier.bundles.current.predictor.predict
    calls = 0

    def picky(images: Any, *, gradcam: bool = True) -> Any:
        nonlocal calls
        calls += 1
        if any(image.pixels.mean() < 90 for image in images):
            raise RuntimeError("no")
        return predict(images, gradcam=gradcam)

    classifier.bundles.current.predictor.predict = picky  # pyright: ignore[reportAttributeAccessIssue]
    dark = encoded(picture().point(lambda value: value // 4), "PNG")

    async def conversation(client: httpx.AsyncClient) -> None:
        good = [post(client) for _ in range(3)]
        bad = await client.post("/v1/classify", content=dark)
        assert bad.status_code == 500
        assert bad.json()["error"]["code"] == "internal"
        assert [answer.status_code for answer in await asyncio.gather(*good)] == [200] * 3

    talk(app, conversation)


def test_a_bundle_that_cannot_be_used_is_refused_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle"):
        build_from_args({"bundle": str(tmp_path / "nothing")})


def test_the_access_log_is_structured_and_says_nothing_of_the_images(
    settings: ServeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    app, _ = local_application(settings)

    async def conversation(client: httpx.AsyncClient) -> None:
        files = [("images", ("patient-jane-doe.jpg", GOOD)), ("images", ("b.jpg", b"bad"))]
        await client.post("/v1/classify", files=files, headers={"x-request-id": "seven"})
        await client.get("/nothing/" + "x" * 300)

    logger = logging.getLogger("ray.serve")
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, "ray.serve"):
        talk(app, conversation)
    logger.removeHandler(caplog.handler)
    lines = [json.loads(record.message) for record in caplog.records if record.message.startswith('{"event"')]
    first, second = {line["path"]: line for line in lines}.values()
    assert first["id"] == "seven"
    assert (first["method"], first["path"], first["status"], first["images"]) == ("POST", "/v1/classify", 200, 2)
    assert first["bytes"] > len(GOOD)
    assert first["ms"] > 0
    assert second["status"] == 404
    assert len(second["path"]) <= 128
    assert "jane" not in caplog.text


@pytest.mark.parametrize("layout", ["joint", "split"])
def test_replicas_and_scaling_reach_serve(settings: ServeSettings, layout: str) -> None:
    def classifier(**changes: Any) -> Any:
        changed = ServeSettings.model_validate({**settings.model_dump(), "layout": layout, **changes})
        deployment = build(changed)._bound_deployment
        if layout == "split":
            assert deployment.name == "Ingress"
            deployment = deployment.init_args[1]._bound_deployment
        assert deployment.name == "Classifier"
        return deployment._deployment_config

    assert classifier(replicas=2).num_replicas == 2
    scaling = classifier(replicas=1, max_replicas=3).autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 3)
    fixed = classifier()
    assert fixed.max_ongoing_requests >= settings.batch_size
    assert 0 < fixed.max_queued_requests < 1_000


@pytest.mark.parametrize(
    ("changes", "gpus", "joint"),
    [
        ({}, False, True),
        ({}, True, False),
        ({"device": "cpu"}, True, True),
        ({"engine": "openvino"}, True, True),
        ({"gpus_per_replica": 0}, True, True),
        ({"device": "cuda:0"}, False, False),
        ({"ingress_replicas": 2}, False, False),
        ({"layout": "split"}, False, False),
        ({"layout": "joint"}, True, True),
    ],
)
def test_the_layout_is_joint_where_cpus_classify(changes: dict[str, Any], gpus: bool, joint: bool) -> None:
    assert ServeSettings.model_validate(changes).joint(gpus=gpus) is joint


def test_drawing_counts_for_time_and_places(settings: ServeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    app, _ = local_application(settings.model_copy(update={"timeout_s": 1.0}))
    drawing, leave = threading.Event(), threading.Event()

    def slow(*_: Any, **__: Any) -> bytes:
        drawing.set()
        leave.wait(10)
        return b""

    for module in ("serve.v1", "serve.v2"):
        monkeypatch.setattr(f"{module}.draw", slow)
    asked = {
        "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(GOOD).decode()]}]
    }

    async def conversation(client: httpx.AsyncClient) -> None:
        for route, how in (
            ("/v1/classify?gradcam=true", {"content": GOOD}),
            ("/v1/gradcam", {"content": GOOD}),
            ("/v2/models/blood-cells-gradcam/infer", {"json": asked}),
        ):
            drawing.clear()
            answer = asyncio.ensure_future(client.post(route, **how))
            await asyncio.to_thread(drawing.wait, 5)
            assert "leukoray_waiting_images 1.0" in (await client.get("/metrics")).text
            assert (await answer).status_code == 504, route
            assert "leukoray_waiting_images 0.0" in (await client.get("/metrics")).text
        leave.set()

    talk(app, conversation)


def test_the_heatmaps_of_a_form_are_drawn_at_the_same_time(
    settings: ServeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, _ = local_application(settings.model_copy(update={"decoders": 4}))
    together = threading.Barrier(4)

    def waits_for_the_others(*_: Any, **__: Any) -> bytes:
        together.wait(10)
        return b"picture"

    monkeypatch.setattr("serve.v1.draw", waits_for_the_others)

    async def conversation(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/classify?gradcam=true", files=[("a", (f"{n}", GOOD)) for n in range(4)])
        assert [one["gradcam"]["overlay_png"] for one in answer.json()["results"]] == ["cGljdHVyZQ=="] * 4

    talk(app, conversation)


@pytest.mark.parametrize("protocol", ["form", "v2"])
def test_an_image_that_fails_a_request_cancels_its_siblings(settings: ServeSettings, protocol: str) -> None:
    app, classifier = local_application(settings.model_copy(update={"batch_size": 1}))
    waiting: list[bool] = []
    cancelled: list[bool] = []

    async def one_fails(item: Any) -> Answer:
        if item.prepared.pixels.mean() < 90:
            while len(waiting) < 2:
                await asyncio.sleep(0.01)
            return Answer(None, error="The network failed on this image.")
        waiting.append(True)
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        return Answer(None)

    classifier.classify = one_fails  # pyright: ignore[reportAttributeAccessIssue]
    images = [GOOD, encoded(picture().point(lambda value: value // 4), "PNG"), GOOD]
    texts = [base64.b64encode(one).decode() for one in images]

    async def conversation(client: httpx.AsyncClient) -> None:
        if protocol == "form":
            answer = await client.post("/v1/classify", files=[("a", (f"{n}", one)) for n, one in enumerate(images)])
        else:
            tensor = {"name": "image", "shape": [3], "datatype": "BYTES", "data": texts}
            answer = await client.post("/v2/models/blood-cells/infer", json={"inputs": [tensor]})
        assert answer.status_code == 500
        assert "leukoray_waiting_images 0.0" in (await client.get("/metrics")).text
        await asyncio.sleep(0.05)  # what the handle's own task needs to see it

    talk(app, conversation)
    assert cancelled == [True, True]


def test_slow_files_do_not_wedge_an_ingress(settings: ServeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that takes a minute for a file is answered with 504, and the next callers are served at once."""
    app, _ = local_application(settings.model_copy(update={"timeout_s": 0.5, "decoders": 2}))
    leave, prepared = threading.Event(), []
    decode, prepare = reading.decode, Preprocessing.prepare

    def slow(data: bytes, **more: Any) -> Any:
        if data.startswith(b"slow"):
            leave.wait(20)
            data = data[4:]
        return decode(data, **more)

    def counted(self: Preprocessing, *given: Any) -> Any:
        prepared.append(1)
        return prepare(self, *given)

    monkeypatch.setattr(reading, "decode", slow)
    monkeypatch.setattr(Preprocessing, "prepare", counted)

    async def conversation(client: httpx.AsyncClient) -> None:
        slow_ones = [client.post("/v1/classify", content=b"slow" + GOOD) for _ in range(3)]
        assert {answer.status_code for answer in await asyncio.gather(*slow_ones)} == {504}
        assert (await client.post("/v1/classify", content=GOOD)).status_code == 200
        leave.set()
        await asyncio.sleep(0.3)
        assert (await client.post("/v1/classify", content=GOOD)).status_code == 200

    talk(app, conversation)
    assert len(prepared) == 2  # nothing goes on for the requests that were answered


def test_what_nobody_foresaw_is_answered_as_documented(
    settings: ServeSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app, _ = local_application(settings.model_copy(update={"cors_origins": ("https://lab.example",)}))

    async def breaks(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("nobody foresaw this")

    monkeypatch.setattr(service.Service, "classify_file", breaks)
    monkeypatch.setattr(service.Service, "describe", breaks)

    async def conversation(client: httpx.AsyncClient) -> list[httpx.Response]:
        origin = {"origin": "https://lab.example"}
        return [
            await client.post("/v1/classify", content=GOOD, headers=origin),
            await client.get("/v2/models/blood-cells", headers={**origin, "x-request-id": "mine"}),
        ]

    logger = logging.getLogger("ray.serve")
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, "ray.serve"):
        first, second = talk(app, conversation)
    logger.removeHandler(caplog.handler)
    assert (first.status_code, second.status_code) == (500, 500)
    assert first.json()["error"]["code"] == "internal"
    assert isinstance(second.json()["error"], str)
    assert "foresaw" not in first.text + second.text
    for answer in (first, second):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"]
        assert answer.headers["access-control-allow-origin"] == "https://lab.example"
    lines = [json.loads(record.message) for record in caplog.records if record.message.startswith('{"event"')]
    assert [line["status"] for line in lines] == [500, 500]
    assert [line["id"] for line in lines] == [first.headers["x-request-id"], "mine"]
    assert "nobody foresaw this" in caplog.text  # the reason is in the log, beside the id


def test_priority_is_lowered_only_where_it_is_asked_for(
    settings: ServeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    lowered: list[bool] = []
    monkeypatch.setattr("serve.classifier.lower_priority", lambda: lowered.append(True))
    local_classifier(settings)
    assert not lowered
    local_classifier(settings.model_copy(update={"lower_priority": True}))
    assert lowered == [True]
