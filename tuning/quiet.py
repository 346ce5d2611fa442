"""Silence from Optuna, for a while: its log level is a setting of the whole process, so it is put back."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import optuna

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["quiet_optuna"]


@contextmanager
def quiet_optuna() -> Generator[None]:
    """Keep Optuna from telling of each study and trial, and from warning of what is experimental in it."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="optuna")
            warnings.filterwarnings("ignore", message="The reported value is ignored")  # of a continued trial
            yield
    finally:
        optuna.logging.set_verbosity(before)
