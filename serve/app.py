"""The application that Ray Serve runs: ``serve run serve.app:app``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray
from ray import serve as ray_serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from core.model.opening import open_bundle
from runtime.cluster import WORKER_ENVIRONMENT
from serve.classifier import Classifier
from serve.ingress import Ingress
from serve.joint import Joint
from serve.settings import ServeSettings, read_settings

if TYPE_CHECKING:
    from ray.serve import Application

__all__ = ["app", "build", "check"]

_DRAIN_S = 5.0


def app(args: dict[str, Any]) -> Application:
    """Build the application from what stands under ``args``, and the environment.

    Raises:
        SettingsError: A setting cannot be used.
        BundleError: The bundle cannot be used; Serve would try to start it twenty times.
    """
    settings = read_settings(args)
    check(settings)
    return build(settings)


def check(settings: ServeSettings) -> None:
    """See that keys and bundle can be used, before anything is started for them.

    Raises:
        LeukorayError: Keys or bundle cannot be used.
    """
    settings.keys()
    open_bundle(settings.bundle, settings.engine, settings.device)


def build(settings: ServeSettings) -> Application:
    """Build the application from settings that `check` has passed."""
    gpus = ray.is_initialized() and ray.cluster_resources().get("GPU", 0) > 0
    options = _classifier_options(settings, settings.gpus(there=gpus))
    if settings.joint(gpus=gpus):
        options |= _door_options(settings)
        return ray_serve.deployment(ray_serve.ingress()(Joint)).options(**options).bind(settings)
    classifier = ray_serve.deployment(Classifier).options(**options).bind(settings)
    return _ingress(settings).bind(settings, classifier)


def _classifier_options(settings: ServeSettings, gpus: float) -> dict[str, Any]:
    """Return the options of what holds the network; it is called ``Classifier`` in both layouts."""
    most = settings.max_queue + settings.batch_size
    options: dict[str, Any] = {"num_replicas": settings.replicas}
    if settings.max_replicas:
        scaling = AutoscalingConfig(
            min_replicas=settings.replicas,
            max_replicas=settings.max_replicas,
            target_ongoing_requests=settings.batch_size,
        )
        options = {"autoscaling_config": scaling}
    return options | {
        "name": "Classifier",
        "max_ongoing_requests": most,
        "max_queued_requests": most,
        "health_check_period_s": 5,
        "health_check_timeout_s": 20,
        "graceful_shutdown_timeout_s": settings.timeout_s + _DRAIN_S,
        "user_config": {},
        "logging_config": {"enable_access_log": False},
        "ray_actor_options": {
            "num_cpus": settings.cpus_per_replica,
            "num_gpus": gpus,
            "runtime_env": {"env_vars": WORKER_ENVIRONMENT},
        },
    }


def _door_options(settings: ServeSettings) -> dict[str, Any]:
    """Return the options of what takes the requests."""
    return {
        "max_ongoing_requests": max(256, 4 * settings.max_queue),
        "max_queued_requests": max(64, settings.max_queue),
        "backpressure_config": BackpressureConfig(status_code=429, retry_after_s=settings.retry_after_s),
    }


def _ingress(settings: ServeSettings) -> ray_serve.Deployment:
    return ray_serve.deployment(ray_serve.ingress()(Ingress)).options(
        name="Ingress",
        num_replicas=settings.ingress_replicas,
        graceful_shutdown_timeout_s=settings.timeout_s + _DRAIN_S,
        logging_config={"enable_access_log": False},
        ray_actor_options={"num_cpus": settings.ingress_cpus},
        **_door_options(settings),
    )
