"""Steps of searched ranges that do not come out at their ends."""

from __future__ import annotations

from collections.abc import Iterator

from softnce_ray.config import Range, StudyConfig
from softnce_ray.study.doctor.finding import Finding, of_arms


def uneven_steps(study: StudyConfig) -> Iterator[Finding]:
    """Warn of ranges whose `high` is never searched, with the highest value that is."""
    arms: dict[tuple[str, Range], list[str]] = {}
    for arm in study.arms:
        for path, space in study.space(arm).items():
            if isinstance(space, Range) and space.highest < space.high:
                arms.setdefault((path, space.model_copy(update={"when": None})), []).append(arm)
    for (path, space), names in arms.items():
        yield Finding(
            "search",
            "warning",
            f"{of_arms(names)}: {path}: steps of {space.step:g} from {space.low:g} do not meet high: {space.high:g}, "
            f"which becomes {space.highest:g}",
            f"write high: {space.highest:g}, or another step",
        )
