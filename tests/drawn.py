"""Class folders of drawn cells, with their sources and a small recipe."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from core.images.drawings import CLASS_NAMES, draw_field

PROJECT = Path(__file__).resolve().parents[1]


def draw_class_folders(root: Path, fields: int, *, recipe: str, training: dict[str, object]) -> None:
    """Draw two views of each field into ``root/cells``; write ``groups.csv`` and ``recipe.json`` beside it."""
    rng = np.random.default_rng(1)
    rows = ["path,source"]
    for kind in CLASS_NAMES:
        (root / "cells" / kind).mkdir(parents=True)
        for field in range(fields):
            rgb = draw_field(kind, rng)
            for view, picture in enumerate((rgb, rgb[:, ::-1])):
                name = f"{field}-{view}.jpg"
                cv2.imwrite(str(root / "cells" / kind / name), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
                rows.append(f"{kind}/{name},{kind}-{field}")
    (root / "groups.csv").write_text("\n".join(rows) + "\n")
    content = json.loads((PROJECT / "core" / "training" / "recipes" / f"{recipe}.json").read_text())
    content["preprocessing"] |= {"height": 64, "width": 64}
    content["training"] |= {"architecture": "test_efficientnet"} | training  # a hundredth of ResNet18's size
    (root / "recipe.json").write_text(json.dumps(content))
