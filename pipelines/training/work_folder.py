"""The folder of checkpoints beside a bundle that is not finished."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["WorkFolder"]

_OURS = ("checkpoint", "final", "fold-*", "without-*", "finder")
"""Names of checkpoints, without their ending."""


class WorkFolder:
    """Checkpoints of an unfinished training run, in the hidden folder ``.NAME.training`` beside the bundle NAME.

    Args:
        out: Folder of the new bundle.
        resume: Whether a run that is there already shall be continued.

    Raises:
        SettingsError: With code ``unfinished-run`` where there is one that shall not be continued.
    """

    def __init__(self, out: Path, *, resume: bool) -> None:
        self.path = out.parent / f".{out.name}.training"
        if self.path.exists() and not resume:
            raise SettingsError("unfinished-run", f"{self.path} holds an unfinished run; give --resume, or remove it.")

    def checkpoint(self, name: str) -> Path:
        """Return the file of a network's checkpoint.

        Args:
            name: ``checkpoint``, ``final``, ``fold-N``, ``without-N`` or ``finder``.
        """
        return self.path / f"{name}.safetensors"

    def remove(self) -> list[Path]:
        """Delete the checkpoints, whole ones and what a kill left of one, and the folder if nothing else is in it.

        Returns:
            What else is in the folder; it stays.
        """
        for name in _OURS:
            for pattern in (f"{name}.safetensors", f".{name}.safetensors.*.tmp"):
                for path in self.path.glob(pattern):
                    path.unlink(missing_ok=True)
        rest = sorted(self.path.iterdir()) if self.path.exists() else []
        if not rest and self.path.exists():
            self.path.rmdir()
        return rest
