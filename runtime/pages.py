"""Static pages that open from disk, without a server or the internet."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

from jinja2 import DictLoader, Environment, StrictUndefined

from core.model.card import RESEARCH_ONLY

__all__ = ["render"]


def render(package: str, template: str, **content: object) -> str:
    """Fill in a page template; everything in `content` is escaped.

    Args:
        package: Package whose ``templates`` folder holds the template, beside the common ones of ``runtime``.
        template: File name of the template.
        content: Variables of the template; ``research_only`` is always there.
    """
    return _environment(package).get_template(template).render(research_only=RESEARCH_ONLY, **content)


@cache
def _environment(package: str) -> Environment:
    folders = [files(name).joinpath("templates") for name in ("runtime", package)]
    templates = {entry.name: entry.read_text(encoding="utf-8") for folder in folders for entry in folder.iterdir()}
    environment = Environment(
        loader=DictLoader(templates), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["json"] = json.dumps
    environment.filters["percent"] = lambda value: f"{value:.1f}"
    environment.filters["count"] = lambda value: f"{value:,}"
    return environment
