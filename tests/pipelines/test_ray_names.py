"""What a run uses of Ray beyond its documented interface: each test fails when Ray drops a name."""

from __future__ import annotations

import inspect
import logging

import ray.data
from ray.data._internal.execution.operators import map_operator
from ray.data.context import DataContext


def test_memory_of_workers_is_polled_only_where_asked_for() -> None:
    """`memory_usage_poll_interval_s` None ends a thread in every worker that asks for its memory each second."""
    assert hasattr(DataContext.get_current(), "memory_usage_poll_interval_s")
    assert "memory_usage_poll_interval_s" in inspect.getsource(map_operator)


def test_ray_data_logs_under_its_own_name() -> None:
    logger, level = logging.getLogger("ray.data"), logging.getLogger("ray.data").level
    try:
        for level_of_all in (logging.ERROR, logging.INFO):
            logger.setLevel(level_of_all)
            assert ray.data.dataset.logger.getEffectiveLevel() == level_of_all
    finally:
        logger.setLevel(level)
