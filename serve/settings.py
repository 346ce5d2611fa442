"""Every setting of the service, in one place: Serve config, environment, command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from core.errors import SettingsError
from core.images.decoder import MAX_PIXELS
from core.model.opening import EngineName
from core.settings import Settings, describe_problems

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

__all__ = ["ENVIRONMENT_PREFIX", "ServeSettings", "read_settings"]

ENVIRONMENT_PREFIX = "LEUKORAY_SERVE_"
_SHIPPED = Path(__file__).resolve().parents[1] / "models" / "blood-cells"
_MIB = 1024 * 1024
_MOST_THREADS = 4


class ServeSettings(Settings):
    """Classify white blood cells over HTTP, on Ray Serve.

    Each option can also stand in the environment (LEUKORAY_SERVE_BATCH_SIZE=16), after the name of the application
    (serve run serve.app:app batch_size=16) and under args in a Serve config (deploy/serve.yaml).
    """

    bundle: Path = Field(
        _SHIPPED, description="folder of the model; user_config of the Classifier switches to another later"
    )
    model_name: str = Field("blood-cells", pattern=r"^[\w.-]{1,80}$", description="name under /v2/models")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    engine: EngineName = Field("auto", description="what runs the network; auto: openvino on CPUs if the bundle has it")
    layout: Literal["auto", "joint", "split"] = Field(
        "auto",
        description="joint: each process decodes and classifies; split: some decode, others classify; auto: joint, but"
        " where GPUs classify or there are several ingress replicas",
    )
    threads: int = Field(
        0, ge=0, description="threads that a classifier computes with; 0: the cores but one, at most 4"
    )
    replicas: int = Field(1, ge=1, description="classifiers that run at the least")
    max_replicas: int = Field(0, ge=0, description="classifiers that Serve may scale up to; 0: no scaling")
    gpus_per_replica: float | None = Field(
        None, ge=0, description="fractions share a GPU; otherwise 1 where the cluster has GPUs"
    )
    cpus_per_replica: float = Field(1.0, gt=0, description="logical CPUs that a classifier reserves")
    ingress_replicas: int = Field(
        1, ge=1, description="processes that take requests and decode images, in the split layout"
    )
    ingress_cpus: float = Field(0.5, gt=0, description="logical CPUs that each of these reserves")
    decoders: int = Field(2, ge=1, le=64, description="images that a process decodes at once")
    batch_size: int = Field(16, ge=1, le=512, description="most images in one forward pass")
    batch_wait_ms: float = Field(
        0.0, ge=0, le=10_000, description="how long a batch waits for more images; 0: it takes what is there"
    )
    max_queue: int = Field(
        48, ge=1, le=100_000, description="images accepted and not answered yet, per ingress; beyond: 429"
    )
    max_body_bytes: int = Field(32 * _MIB, ge=1024, description="largest request body, in bytes; beyond: 413")
    max_buffered_bytes: int = Field(
        256 * _MIB, ge=1024, description="bodies held at once by an ingress, in bytes; beyond: 503"
    )
    max_pixels: int = Field(MAX_PIXELS, ge=256, le=MAX_PIXELS, description="largest image, in pixels")
    max_cells: int = Field(500, ge=1, le=2_000, description="most white cells in one image, where all are asked for")
    max_images: int = Field(32, ge=1, le=10_000, description="most images in one request")
    timeout_s: float = Field(
        30.0, gt=0, description="seconds from the body's end until the answer, pictures included, is made; beyond: 504"
    )
    body_timeout_s: float = Field(30.0, gt=0, description="seconds in which the body must arrive; beyond: 408")
    lower_priority: bool = Field(
        False,
        description="let all but the forward pass give way to it: Linux's batch policy, and niceness 10 for the"
        " ingress; processes cannot take it back",
    )
    retry_after_s: int = Field(1, ge=1, description="Retry-After of a refusal, in seconds")
    api_keys: tuple[str, ...] = Field((), repr=False, description="keys of which a caller needs one; none: open")
    api_keys_file: Path | None = Field(None, description="file with one key per line, # begins a comment")
    cors_origins: tuple[str, ...] = Field((), description="web origins that may call from a browser; * for all")

    @field_validator("bundle", "api_keys_file")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        """Replicas work in a folder of their own."""
        return path if path is None else path.expanduser().absolute()

    @field_validator("api_keys", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Read ``a,b`` as two."""
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_replicas and self.max_replicas < self.replicas:
            raise ValueError("max_replicas is smaller than replicas")
        if self.layout == "joint" and self.ingress_replicas > 1:
            raise ValueError("ingress_replicas belongs to the split layout; a joint one is scaled by replicas")
        if any(len(key) < 16 for key in self.api_keys):
            raise ValueError("an API key needs at least 16 characters")
        if self.max_images > self.max_queue:
            raise ValueError("max_images is larger than max_queue, so that such a request could never be taken")
        if self.max_body_bytes > self.max_buffered_bytes:
            raise ValueError("max_body_bytes is larger than max_buffered_bytes")
        return self

    def keys(self) -> tuple[str, ...]:
        """Return all API keys, those of the file among them.

        Raises:
            SettingsError: With code ``no-keys`` where the file cannot be read, is empty or holds a short key.
        """
        if self.api_keys_file is None:
            return self.api_keys
        try:
            lines = self.api_keys_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeError) as error:
            raise SettingsError("no-keys", f"The keys in {self.api_keys_file} cannot be read ({error}).") from error
        keys = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
        if not keys or any(len(key) < 16 for key in keys):
            raise SettingsError(
                "no-keys", f"{self.api_keys_file} must hold keys of at least 16 characters, one per line."
            )
        return self.api_keys + keys

    def gpus(self, *, there: bool) -> float:
        """Return how many GPUs a classifier takes.

        Args:
            there: Whether there are any.
        """
        if self.engine == "openvino" or self.device == "cpu":
            return 0.0
        return float(there) if self.gpus_per_replica is None else self.gpus_per_replica

    def joint(self, *, gpus: bool) -> bool:
        """Whether the layout is the joint one.

        Args:
            gpus: Whether there are GPUs.
        """
        if self.layout != "auto":
            return self.layout == "joint"
        on_gpu = self.device.startswith("cuda") or self.gpus(there=gpus) > 0
        return not on_gpu and self.ingress_replicas == 1

    @property
    def compute_threads(self) -> int:
        """Threads that a classifier computes with."""
        return self.threads or max(1, min(_MOST_THREADS, (os.cpu_count() or 1) - 1))


def read_settings(given: Mapping[str, Any]) -> ServeSettings:
    """Combine what is given with the environment; what is given wins.

    Raises:
        SettingsError: With code ``bad-settings``, naming what is wrong.
    """
    known = {f"{ENVIRONMENT_PREFIX}{name.upper()}": name for name in ServeSettings.model_fields}
    found = {name: value for name, value in os.environ.items() if name.startswith(ENVIRONMENT_PREFIX)}
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise SettingsError("bad-settings", f"The environment variable {unknown[0]} is no setting of the service.")
    try:
        return ServeSettings.model_validate({known[name]: value for name, value in found.items()} | dict(given))
    except ValidationError as error:
        raise SettingsError("bad-settings", "; ".join(describe_problems(error.errors())) + ".") from None
