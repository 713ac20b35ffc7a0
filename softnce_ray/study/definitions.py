"""Names and hashes of what cells of a study mean: what depends on settings that change is another thing."""

from __future__ import annotations

import hashlib
import json

from softnce_ray.config import METHOD_VERSION, Choices, StudyConfig, arm_settings, revisions, with_values
from softnce_ray.study.cells import Cell


def search_name(study: StudyConfig, cell: Cell, content: str) -> str:
    """Name of a cell's search in the store. It says all that the answers depend on besides the values searched:
    another arm, space (conditions included), seed or corpus is another search; more trials are the same one."""
    return f"{study.study}/{cell.arm}/{cell.language}/{definition(study, cell.arm, content, cell.language)}"


def definition(study: StudyConfig, arm: str, content: str, language: str) -> str:
    """Hash of what an arm means in this study: its settings, what is searched and how, the corpus and, where it is
    trained or tested on several languages, which. Trials of another definition say nothing of it. Languages, seeds
    and the number of search trials may grow within one."""
    space = study.space(arm)
    # The arm's own value of a setting says nothing where the setting is searched in every trial.
    always = [path for path, each in space.items() if not each.when]
    fixed = with_values(arm_settings(study.arms[arm]), dict.fromkeys(always))
    spaces = {path: values.model_dump(mode="json") for path, values in space.items()}
    named = {"seed", "early_stopping", "mode", "sampler"}
    is_searched = study.search is not None and (space or study.is_joint)
    rules = study.search.model_dump(mode="json", include=named) if study.search and is_searched else None
    several = study.training_set(language)
    languages = [] if several.is_language else [several.train, several.test]
    choices = {path: each.choices for path, each in space.items() if isinstance(each, Choices)}
    revised = revisions(arm_settings(study.arms[arm]), choices)
    text = json.dumps(
        [METHOD_VERSION, content, fixed, spaces, rules, *languages, *([revised] if revised else [])], sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]
