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
    """The split of every unit (a package, or a file where there are too few packages) of one language; see
    `assign_everywhere`."""
    return assign_everywhere({"": sizes}, {"": targets}, seed=seed)


def assign_everywhere(
    sizes: Mapping[str, Mapping[str, int]], targets: Mapping[str, Mapping[str, int]], *, seed: int
) -> dict[str, str]:
    """The split of every unit, the same in all languages that it has pairs of.

    `sizes` counts the pairs of each unit, by language, `targets` the pairs each evaluation split of a language
    should get. Units are taken in a seeded order, small ones first, for the split that is furthest from its target
    in the unit's language; where it has several, in that with the fewest units, which has the least choice. The rest,
    and always the largest of each language, is `train`. A unit is never divided, so a split may get more than its
    target.
    """
    largest = {max(sorted(units), key=lambda unit: units[unit], default="") for units in sizes.values()}
    languages_of: dict[str, list[str]] = {}
    for language in sorted(sizes, key=lambda name: (len(sizes[name]), name)):
        for unit in sizes[language]:
            languages_of.setdefault(unit, []).append(language)
    order = [unit for unit in sorted(languages_of) if unit not in largest]
    random.Random(seed).shuffle(order)
    wanted = {
        language: {split: target * _RESERVE for split, target in targets[language].items() if target > 0}
        for language in sizes
    }
    share = {name: max(1.0, _PACKAGE_SHARE * min(targets[name].values(), default=0)) for name in sizes}

    def large(unit: str) -> int:
        of_languages = [(sizes[language][unit], share[language]) for language in languages_of[unit]]
        return max(size if size > most else 0 for size, most in of_languages)

    order.sort(key=large)
    filled = {language: dict.fromkeys(wanted[language], 0) for language in sizes}
    assigned = dict.fromkeys(languages_of, "train")
    for unit in order:
        needs: dict[str, tuple[float, ...]] = {}
        for split in dict.fromkeys(name for language in languages_of[unit] for name in wanted[language]):
            shares = [
                filled[language][split] / wanted[language][split] if split in wanted[language] else 1.0
                for language in languages_of[unit]
            ]
            if min(shares) < 1:
                needs[split] = tuple(min(each, 1.0) for each in shares)
        if not needs:
            continue
        split = min(needs, key=lambda name: needs[name])
        assigned[unit] = split
        for language in languages_of[unit]:
            if split in filled[language]:
                filled[language][split] += sizes[language][unit]
    return assigned
