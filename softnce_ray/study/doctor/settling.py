"""Settings that an arm leaves to the model that it names: read from the model's files before anything else is done.

What is read becomes part of the arm's settings, as if its study had given it: identities, MLflow, stored models and
exports have it, and no machine that runs a trial reads it again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from softnce_ray.config import BagEncoder, MiniLMEncoder, StudyArm, StudyConfig, with_values
from softnce_ray.described import Described, Unseen, described
from softnce_ray.errors import UserError
from softnce_ray.study.doctor.finding import Finding, Level, of_arms
from softnce_ray.study.laws import LEFT_TO_MODELS, is_given, same_arms, search_problems
from softnce_ray.study.problems import text_of

_Said = tuple[Level, str, str]
"""Level, text and remedy of a finding."""


def settled(study: StudyConfig) -> tuple[StudyConfig, list[Finding]]:
    """Return the study with what the files of its models settle, and findings.

    An arm's own settings stand: it is a warning where the files say otherwise. What no encoder here does is an error.
    A model that is not on this machine is left to those that look for models.
    """
    look = functools.cache(described)
    said: dict[_Said, list[str]] = {}
    arms = {}
    for name, arm in study.arms.items():
        arms[name], found = _settled(arm, look)
        for each in found:
            said.setdefault(each, []).append(name)
    findings = [
        Finding("models", level, f"{of_arms(names)}: {text}", remedy) for (level, text, remedy), names in said.items()
    ]
    if any(each.level == "error" for each in findings):
        return study, findings
    changed = arms != study.arms
    whole = study.model_copy(update={"arms": arms}) if changed else study
    broken = [*(search_problems(whole) if changed else ()), *same_arms(whole, settled=True)]
    return whole, findings + [
        Finding("models", "error", f"{'.'.join(map(str, key))}: with what the files of its model say, {text}")
        for key, text in broken
    ]


def _settled(arm: StudyArm, look: Callable[[str], Described | None]) -> tuple[StudyArm, list[_Said]]:
    encoder = arm.encoder
    if isinstance(encoder, BagEncoder | MiniLMEncoder) or encoder.model is None:
        return arm, []
    model = encoder.model
    try:
        found = look(model)
    except Unseen as error:
        needed = [path for path in LEFT_TO_MODELS if not path.endswith("_prompt")]  # which plain networks have not
        if all(is_given(arm, path) for path in needed):
            return arm, []
        text = f"encoder.model: {error}: whether its files say how to pool, what prompts and what lengths is not known"
        return arm, [("warning", text, f"launch where they are, or give {', '.join(needed)} as they say")]
    except UserError as error:
        text, _, remedy = str(error).rpartition("; ")
        return arm, [("error", text or remedy, remedy if text else "")]
    if found is None:
        return arm, []
    refused = [(key, text) for key, text in found.problems if key == "encoder.model" or not is_given(arm, key)]
    if refused:
        return arm, [
            (
                "error",
                f"encoder.model: {model!r}, {found.origin}, {text}, which no encoder here does",
                "take another model" if key == "encoder.model" else f"give {key} to have it so, or take another model",
            )
            for key, text in refused
        ]
    if encoder.kind not in found.kinds:
        return arm, [
            (
                "error",
                f"encoder.model: expected a network for the inputs of encoder {encoder.kind}, got {model!r}, "
                f"{found.origin}, which makes its vectors in another way",
                f"use kind: {found.kinds[0]}, which reads it as its files say",
            )
        ]
    said: list[_Said] = [
        ("warning", f"{key} is {_value(arm, key)!r}, and {model!r} {text}", "") for key, text in found.problems
    ]
    values = {}
    for key, value in found.settings.items():
        own = _value(arm, key)
        if (own or "") == value:
            continue
        if is_given(arm, key):
            said.append(
                ("warning", f"{key} is {own!r}, and {model!r} has {value!r}", f"remove {key} to take the model's")
            )
        else:
            values[key] = value
    if found.unused and not is_given(arm, "encoder.code_prompt"):
        names = ", ".join(found.unused)
        said.append(
            (
                "warning",
                f"encoder.model: {model!r} has prompts for {names}, which neither queries nor functions get, as in "
                "encode_query and encode_document of sentence-transformers",
                "give encoder.query_prompt or encoder.code_prompt to have them",
            )
        )
    try:
        return StudyArm.model_validate(with_values(arm.model_dump(mode="json"), values)) if values else arm, said
    except ValidationError as error:
        first = error.errors()[0]
        shown = ", ".join(f"{key} {value!r}" for key, value in values.items())
        return arm, [
            (
                "error",
                f"encoder.model: {model!r} has {shown}: {text_of(first, first['loc'])}",
                "give others in the study",
            )
        ]


def _value(arm: StudyArm, key: str) -> Any:
    settings: Any = arm
    for name in key.split("."):
        settings = getattr(settings, name, None)
    return settings
