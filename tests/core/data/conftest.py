from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two classes of twelve images, three views of each of four sources."""
    root = tmp_path / "TRAIN"
    rows = ["path,source"]
    for name in ("A", "B"):
        (root / name).mkdir(parents=True)
        for number in range(12):
            cv2.imwrite(str(root / name / f"{number}.png"), np.full((20, 30, 3), number * 20, np.uint8))
            rows.append(f"TRAIN/{name}/{number}.png,{name}{number // 3}")
    (tmp_path / "groups.csv").write_text("\n".join(rows) + "\n")
    return root
