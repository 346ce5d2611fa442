"""The errors that core raises: one root, a stable code, a sentence a person can act on."""

from __future__ import annotations

__all__ = ["BundleError", "DataError", "ImageError", "LeukorayError", "SettingsError"]


class LeukorayError(Exception):
    """Root of everything that Leukoray raises on purpose.

    Attributes:
        code: Stable, machine-readable identifier in kebab-case, for example ``truncated``.
        message: One sentence for a person: what is wrong and, where there is one, the fix.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type[LeukorayError], tuple[str, str]]:
        """Survive the trip between Ray processes, which pickle exceptions."""
        return type(self), (self.code, self.message)

    def __str__(self) -> str:
        """Return the sentence, followed by its code in brackets."""
        return f"{self.message} [{self.code}]"


class ImageError(LeukorayError):
    """An image that cannot be used: a row in ``errors`` in batch, 422 over HTTP."""


class BundleError(LeukorayError):
    """A bundle that is missing, damaged, or not one of ours."""


class DataError(LeukorayError):
    """A data set or a slide folder that cannot be used as it stands."""


class SettingsError(LeukorayError):
    """Settings that contradict each other, the data, or a run that exists already."""
