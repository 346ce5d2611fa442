"""Names of Ray's that it does not promise to keep, each of which the service uses: one test says when it goes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from ray import serve as ray_serve
from ray.serve import handle
from ray.serve._private import constants, handle_options
from ray.serve.handle import DeploymentHandle

from serve.ingress import Ingress
from serve.run import _TUNED, _direct


@pytest.mark.parametrize("name", ["_by_reference", "request_serialization", "response_serialization"])
def test_options_of_a_handle(name: str) -> None:
    assert name in inspect.signature(DeploymentHandle.options).parameters
    fields = handle_options.DynamicHandleOptions.__dataclass_fields__
    assert name in fields
    if name != "_by_reference":
        assert fields[name].default in {"cloudpickle", "pickle"}
    assert "_by_reference" in inspect.getsource(handle)


@pytest.mark.parametrize("name", sorted(name for name in {**_TUNED, **_direct(1)} if name.startswith("RAY_SERVE_")))
def test_environment_of_serve(name: str) -> None:
    folder = Path(constants.__file__).parents[1]
    assert any(f'"{name}"' in path.read_text(encoding="utf-8") for path in folder.rglob("*.py")), name


def test_every_other_name_is_known_here() -> None:
    assert {name for name in {**_TUNED, **_direct(1)} if not name.startswith("RAY_SERVE_")} == {"RAY_worker_niceness"}


def test_an_application_that_is_built_in_the_replica() -> None:
    class WithoutBuilder:
        pass

    assert hasattr(Ingress, "__serve_build_asgi_app__")
    deployed: Any = ray_serve.ingress()(Ingress)
    assert issubclass(deployed, Ingress)
    with pytest.raises(ValueError, match="__serve_build_asgi_app__"):
        ray_serve.ingress()(WithoutBuilder)


def test_niceness_of_workers_is_a_setting_of_the_raylet() -> None:
    """The name stands in C++ alone."""
    import ray

    raylet = Path(ray.__file__).parent / "core" / "src" / "ray" / "raylet" / "raylet"
    with raylet.open("rb") as binary:
        before = b""
        while block := binary.read(1 << 24):
            if b"worker_niceness" in before + block:
                return
            before = block[-64:]
    pytest.fail("the raylet knows no worker_niceness any more")
