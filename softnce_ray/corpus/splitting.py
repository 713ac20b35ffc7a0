"""Which package goes to training and which to evaluation, so that no package lies in two splits."""

from __future__ import annotations

import random
from collections.abc import Mapping

# More than asked is set aside, because near duplicates of training codes are taken out afterwards.
_RESERVE = 1.1
# A package may give at most this share of a split, as long as there are smaller ones: many projects, not one.
_PACKAGE_SHARE = 0.25


def evaluation_size(asked: int, total: int) -> int:
    """Pairs that an evaluation split gets: what was asked, at most a tenth of all, but 1 if any was
    asked."""
    return min(asked, max(1, total // 10))


def assign_units(sizes: Mapping[str, int], targets: Mapping[str, int], *, seed: int) -> dict[str, str]:
    """The split of every unit (a package, or a file where there are too few packages).

    `sizes` counts the pairs of each unit, `targets` the pairs each evaluation split should get. Units are
    taken in a seeded order, small ones first, for the split that is furthest from its target; the rest, and
    always the largest, is `train`. A unit is never divided, so a split may get more than its target.
    """
    order = sorted(sizes)
    largest = max(order, key=lambda unit: sizes[unit], default="")
    order = [unit for unit in order if unit != largest]
    random.Random(seed).shuffle(order)
    wanted = {split: target * _RESERVE for split, target in targets.items() if target > 0}
    share = max(1.0, _PACKAGE_SHARE * min(targets.values(), default=0))
    order.sort(key=lambda unit: sizes[unit] if sizes[unit] > share else 0)
    filled = dict.fromkeys(wanted, 0)
    assigned = dict.fromkeys(sizes, "train")
    for unit in order:
        open_splits = [split for split in wanted if filled[split] < wanted[split]]
        if not open_splits:
            break
        split = min(open_splits, key=lambda name: filled[name] / wanted[name])
        assigned[unit] = split
        filled[split] += sizes[unit]
    return assigned
