"""Settings that all trials share, told once, and those in which they differ."""

from __future__ import annotations

from collections import Counter

from softnce_ray.results import StudyResults

# Settings that a row's own columns, or the line beneath the table, already say.
COLUMN_SETTINGS = {"arm", "language", "seed", "train_languages", "test_languages"}


def factored(results: StudyResults) -> tuple[dict[tuple[str, str], dict[str, str]], dict[str, str]]:
    """(arm, language) -> what differs, and what all ``confirm`` trials have in common."""
    values: dict[tuple[str, str], dict[str, dict[str, None]]] = {}
    trials = [t for t in results.trials if t.phase == "confirm"]
    for trial in trials:
        cell = values.setdefault((trial.arm, trial.language), {})
        for key, value in trial.settings.items():
            if key.rpartition(".")[2] not in COLUMN_SETTINGS:
                cell.setdefault(key, {})[value] = None
    agreements = Counter(item for trial in trials for item in trial.settings.items())
    common = {
        key: value
        for (key, value), count in agreements.items()
        if count == len(trials) and key.rpartition(".")[2] not in COLUMN_SETTINGS
    }
    differing = {
        at: {key: " | ".join(found) for key, found in cell.items() if key not in common} for at, cell in values.items()
    }
    return differing, common
