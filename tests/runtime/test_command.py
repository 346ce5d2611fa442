"""Command lines: options, exit codes, sentences."""

from __future__ import annotations

import pytest
from pydantic import Field

from core.errors import SettingsError
from core.settings import Settings
from runtime.command import run_command


class Sample(Settings):
    """A command."""

    size: int = Field(3, ge=1, description="a number")


def test_a_wrong_option_is_a_sentence_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(Sample, lambda settings: settings.size, ["--size", "5"]) == 5
    assert run_command(Sample, lambda settings: settings.size, ["--size", "0"]) == 2
    assert "--size: Input should be greater than or equal to 1" in capsys.readouterr().err

    def refuse(_: Sample) -> int:
        raise SettingsError("no", "That cannot be.")

    assert run_command(Sample, refuse, []) == 2
    assert "error: That cannot be. [no]" in capsys.readouterr().err


class Continuable(Sample):
    """A command that can be continued."""

    resume: bool = Field(False, description="continue")


@pytest.mark.parametrize(("model", "said"), [(Sample, "stopped\n"), (Continuable, "stopped; continue with --resume\n")])
def test_only_a_command_that_can_be_continued_says_so(
    model: type[Sample], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: Sample) -> int:
        raise KeyboardInterrupt

    assert run_command(model, interrupted, []) == 130
    assert capsys.readouterr().err == said
