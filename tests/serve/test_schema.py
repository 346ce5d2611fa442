"""schemathesis drives every operation of the OpenAPI document with what the document allows, and what it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HOOKS = """
import base64
import schemathesis
from hypothesis import strategies as st
from hostile import encoded, picture

GOOD = [encoded(picture(seed), "JPEG") for seed in range(2)]
for kind in ("image/jpeg", "image/png", "image/tiff", "image/bmp", "image/webp", "application/octet-stream"):
    schemathesis.openapi.media_type(kind, st.sampled_from(GOOD))
schemathesis.openapi.format("binary", st.sampled_from(GOOD))
"""


@pytest.mark.slow
def test_schemathesis_finds_nothing(served: str, tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text(HOOKS)
    path = f"{Path(__file__).resolve().parents[1]}:{tmp_path}:{Path(__file__).resolve().parents[2]}"
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{served}/openapi.json"]
    # A schema cannot say that a tensor's data fit its shape, so that not all it allows can be accepted.
    command += ["--exclude-checks=positive_data_acceptance", "--max-examples=40", "--seed=1", "--no-color"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert "Unresolvable" not in done.stdout
    assert "Selected: 15/15" in done.stdout
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
