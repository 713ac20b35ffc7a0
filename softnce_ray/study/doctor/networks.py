"""What arms do with their networks, as far as nodes may be unable to: from the networks' shapes alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from pydantic import ValidationError

from softnce_ray.commands import command
from softnce_ray.config import (
    ArmConfig,
    BagEncoder,
    Choices,
    FineTuned,
    Freeze,
    StudyConfig,
    TransformerEncoder,
    arm_settings,
    with_values,
)
from softnce_ray.config.search_space import searched
from softnce_ray.errors import UserError
from softnce_ray.study.cluster import workers_on
from softnce_ray.study.doctor.asking import Node
from softnce_ray.study.doctor.finding import Finding, of_arms

if TYPE_CHECKING:
    from torch import nn


_COMBINATIONS = 64
"""Of searched settings of an encoder that are tried at most."""


def trained_share(arm: ArmConfig, folder: str | None) -> float:
    """Trained numbers for each number of the network; more than 1 where adapters are larger than it. 1, which is too
    much rather than too little, where the network is unknown or cannot be trained as the arm says.

    Args:
      folder: of the arm's model on this machine; None: it has none, or it is not here.
    """
    network = _shape(arm, folder)
    if network is None:
        return 1.0
    from softnce_ray.encoders import trained_numbers

    try:
        return trained_numbers(network, _settings(arm)) / sum(each.numel() for each in network.parameters())
    except UserError:
        return 1.0


def misfits(study: StudyConfig, folder_of: Callable[[ArmConfig], str | None]) -> Iterator[Finding]:
    """Layers and matrices that the study's arms name and that their networks do not have, and networks of which
    nothing is left to train.

    Args:
      folder_of: an arm's folder, as for `trained_share`.
    """
    told: dict[str, list[str]] = {}
    for name, arm in study.arms.items():
        for each in (arm, *_reached(study, name)):
            problem = _misfit(each, folder_of(each))
            if problem and name not in told.setdefault(problem, []):
                told[problem].append(name)
    for problem, arms in told.items():
        text, _, remedy = problem.partition("; ")
        yield Finding("models", "error", f"{of_arms(arms)}: {text}", remedy)


def _misfit(arm: ArmConfig, folder: str | None) -> str:
    network = _shape(arm, folder)
    if network is None:
        return ""
    from softnce_ray.encoders import trained_numbers

    try:
        trained_numbers(network, _settings(arm))
    except UserError as error:
        return str(error)
    return ""


def _reached(study: StudyConfig, arm: str) -> Iterator[ArmConfig]:
    """The arm with each combination of ends of what is searched of its encoder, up to a number of them."""
    space, wanted = study.space(arm), [path for path in study.space(arm) if path.startswith("encoder.")]
    for path in wanted:  # which grows by what conditions name
        wanted += [other for other in space[path].when or () if other not in wanted]
    part = {path: space[path] for path in wanted}
    ends = [each.choices if isinstance(each, Choices) else (each.low, each.high) for each in part.values()]
    settings, seen = arm_settings(study.arms[arm]), []
    for chosen in itertools.islice(itertools.product(*ends) if part else (), _COMBINATIONS):
        values = dict(zip(part, chosen, strict=True))
        values = {path: values[path] for path in searched(part, values)}
        if values in seen:
            continue
        seen.append(values)
        try:
            yield ArmConfig.model_validate(with_values(settings, values))
        except ValidationError:  # told where the study is read
            continue


def adapters(study: StudyConfig, nodes: Sequence[Node]) -> list[Finding]:
    """Whether nodes have what arms with `lora` need."""
    arms = [name for name, arm in study.arms.items() if getattr(arm.encoder, "lora", None) is not None]
    if not arms:
        return []
    return [
        Finding(
            "versions",
            "error",
            f"{node.name}: encoder.lora of {of_arms(arms)} needs peft, which is not installed there",
            f"`{command('pip', 'install', 'softnce-ray[lora]')}` on every node, and restart Ray there",
        )
        for node in nodes
        if node.facts is not None and "peft" not in node.facts.versions
    ]


def precision(study: StudyConfig, nodes: Sequence[Node]) -> list[Finding]:
    """Whether bf16 is asked of processors that reckon in it as fast as in float32, or faster."""
    resources = study.resources
    if resources.gpus:
        return []
    arms = []
    for name, arm in study.arms.items():
        space = study.space(name).get("training.precision")
        asked = {arm.training.precision, *(space.choices if isinstance(space, Choices) else ())}
        if "bf16" in asked and arm.encoder.kind != "bag":  # which never reckons in it
            arms.append(name)
    if not arms:
        return []
    return [
        Finding(
            "precision",
            "warning",
            f"{node.name}: training.precision of {of_arms(arms)} is bf16, and the processor has no matrix units for "
            "it: steps are likely to take longer than in float32",
            "set training.precision: float32, or train on a GPU or on processors with amx_bf16",
        )
        for node in nodes
        if node.facts is not None and node.facts.bf16 is False and workers_on(node.resources, resources)
    ]


def _settings(arm: ArmConfig) -> FineTuned:
    assert isinstance(arm.encoder, FineTuned)
    return arm.encoder


def _shape(arm: ArmConfig, folder: str | None) -> nn.Module | None:
    """The arm's network without numbers; None where all of it is trained, or its model is not here."""
    encoder = arm.encoder
    if isinstance(encoder, BagEncoder) or (encoder.freeze == Freeze() and encoder.lora is None):
        return None
    from softnce_ray.encoders.building import shape_of

    if isinstance(encoder, TransformerEncoder) and encoder.model is None:
        return shape_of(arm, None)
    try:
        return None if folder is None else shape_of(arm, folder)
    except (OSError, ValueError, KeyError):  # a damaged configuration is told by the trial that loads it
        return None
