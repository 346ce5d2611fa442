"""Images of another stain are told from those of the laboratories that were learnt."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from pydantic import ValidationError

from core.images.drawings import CLASS_NAMES, draw_field
from core.model.familiarity import Familiarity, fit_familiarity, stain_colours


@cache
def drawn() -> list[np.ndarray]:
    """Two hundred drawn fields, fifty of each class."""
    rng = np.random.default_rng(1)
    return [draw_field(CLASS_NAMES[number % 4], rng) for number in range(200)]


def fields(first: int, count: int, factors: tuple[float, float, float] = (1, 1, 1)) -> list[np.ndarray]:
    """Some of them, each channel multiplied."""
    return [np.asarray(np.clip(one * np.array(factors), 0, 255), np.uint8) for one in drawn()[first : first + count]]


def test_other_stains_are_unfamiliar_and_the_own_are_not() -> None:
    known = fit_familiarity({"violet": fields(0, 80), "pink": fields(80, 80, (1, 0.7, 0.8))})
    assert known is not None
    again = Familiarity.model_validate_json(known.model_dump_json())
    shares = {
        name: np.mean([again.unfamiliar(stain_colours(one)) for one in images])
        for name, images in {
            "violet": fields(160, 40),
            "pink": fields(160, 40, (1, 0.7, 0.8)),
            "green": fields(160, 40, (0.7, 1, 0.8)),
        }.items()
    }
    assert max(shares["violet"], shares["pink"]) <= 0.25
    assert shares["green"] >= 0.9


def test_the_nine_colours_are_means_of_the_darkest_the_next_and_the_rest() -> None:
    picture = np.full((100, 100, 3), 200, np.uint8)
    picture[:40] = (120, 90, 130)
    picture[:10] = (40, 20, 60)
    np.testing.assert_allclose(stain_colours(picture), [40, 20, 60, 120, 90, 130, 200, 200, 200], atol=12)


def test_what_was_filled_in_black_does_not_count() -> None:
    picture = fields(0, 1)[0]
    filled = picture.copy()
    filled[:20] = 0
    assert np.abs(stain_colours(filled) - stain_colours(picture))[3:].max() < 5  # cytoplasm and plasma
    assert np.isfinite(stain_colours(np.zeros((64, 64, 3), np.uint8))).all()


def test_too_few_images_teach_nothing() -> None:
    assert fit_familiarity({"few": fields(0, 5)}) is None
    assert fit_familiarity({}) is None


def test_a_record_of_another_shape_is_refused() -> None:
    known = fit_familiarity({"one": fields(0, 20)})
    assert known is not None
    content = known.model_dump()
    content["stains"][0]["mean"] = (1.0, 2.0)
    with pytest.raises(ValidationError):
        Familiarity.model_validate(content)


def test_what_was_learned_before_stays_known() -> None:
    first = fit_familiarity({"violet": fields(0, 60)})
    both = fit_familiarity({"green": fields(60, 60, (0.7, 1, 0.8))}, first)
    assert first is not None
    assert both is not None
    assert [stain.laboratory for stain in both.stains] == ["green", "violet"]
    assert np.mean([both.unfamiliar(stain_colours(one)) for one in fields(120, 40)]) <= 0.25
    assert np.mean([first.unfamiliar(stain_colours(one)) for one in fields(120, 40, (0.7, 1, 0.8))]) >= 0.9
    assert np.mean([both.unfamiliar(stain_colours(one)) for one in fields(120, 40, (0.7, 1, 0.8))]) <= 0.25
    assert fit_familiarity({"few": fields(0, 5)}, first) == first
