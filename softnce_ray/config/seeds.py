"""The seeds of a study: a list of them, or as many as a precision takes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from softnce_ray.config.settings import Settings, wrong

MOST = 1_000
"""Entries of a list in a study, such as seeds: more are a slip, and are refused before they are work."""

Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Precision(Settings):
    """As many seeds, from 1 upwards, as make every difference from the baseline that certain."""

    at_least: int = Field(ge=2, le=MOST, description="seeds that every language gets; one says nothing of another")
    at_most: int = Field(ge=2, le=MOST, description="seeds that no language gets more of, however wide its intervals")
    half_width: float = Field(
        gt=0,
        lt=1,
        description="of MRR: seeds are added to a language until every difference from the baseline is known to ± "
        "this, by its 95 % interval that holds together with those of all other differences",
    )

    @model_validator(mode="after")
    def _check(self) -> Precision:
        if self.at_most < self.at_least:
            raise wrong("at_most", f"expected at_most >= at_least = {self.at_least}, got {self.at_most}: raise it")
        return self

    def first(self, count: int) -> tuple[int, ...]:
        """Return the seeds that the first `count` are."""
        return tuple(range(1, count + 1))


def _kind_of_seeds(value: Any) -> str:
    return "precision" if isinstance(value, dict | Precision) else "list"


Seeds = Annotated[
    Annotated[tuple[Seed, ...], Field(min_length=1, max_length=MOST), Tag("list")]
    | Annotated[Precision, Tag("precision")],
    Discriminator(_kind_of_seeds),
]
"""Seeds as a study file has them."""
