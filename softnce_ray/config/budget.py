"""Budgets of studies, in hours or trials."""

from __future__ import annotations

from pydantic import Field, model_validator

from softnce_ray.config.settings import Settings, wrong


class Budget(Settings):
    """Bound what a study takes: end searches early, evenly over cells, and leave enough for confirmations.

    A budget is never part of an identity.
    """

    hours: float | None = Field(None, gt=0, description="of all launches of the study together")
    trials: int | None = Field(None, ge=1, description="of the whole study, searches and confirmations")

    @model_validator(mode="after")
    def _check(self) -> Budget:
        if self.hours is None and self.trials is None:
            raise wrong("hours", "expected hours or trials, got neither")
        return self

    def __str__(self) -> str:
        hours = "" if self.hours is None else f"{self.hours:g} hour{'' if self.hours == 1 else 's'}"
        return " and ".join(filter(None, [hours, "" if self.trials is None else f"{self.trials} trials"]))
