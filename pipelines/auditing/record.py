"""The content of ``audit.json``."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from core.settings import Settings

__all__ = ["Agreement", "AuditRecord", "ClassCounts", "Found"]


class ClassCounts(Settings):
    """Images and sources of one class in one split."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)

    split: str = Field(description="name of the split; empty where the data set is not divided")
    label: str = Field(alias="class", description="name of the class")
    images: int = Field(description="readable images")
    sources: int = Field(description="groups of images that show one field")


class Agreement(Settings):
    """How the groups compare with named sources, over all pairs of images whose source is named."""

    images: int = Field(description="images with a named source")
    pairs: int = Field(description="pairs of these images")
    right: float = Field(description="share of the pairs that are decided as the names say")
    same_found: float = Field(description="share of the pairs of one named source that are in one group")
    found_same: float = Field(description="share of the pairs in one group that are of one named source")


class Found(Settings):
    """Figures of an audit."""

    images: int = Field(description="readable images")
    sources: int = Field(description="groups of images that show one field")
    sources_in_several_splits: int
    sources_with_conflicting_labels: int
    exact_duplicates: int = Field(description="images with the same pixels as an earlier one")
    near_duplicates: int = Field(description="images that look the same as an earlier one")
    unreadable: int = Field(description="files that could not be decoded")
    agreement: Agreement | None = Field(description="comparison with named sources, where some were given")


class AuditRecord(Settings):
    """An audit of a data set."""

    data: str = Field(description="folder of the data set")
    found: Found
    counts: list[ClassCounts]
