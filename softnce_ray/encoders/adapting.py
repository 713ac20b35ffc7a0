"""How much of a network is trained: all of it, all but what is frozen, or adapters beside it.

Parameters that are not trained have `requires_grad` off: optimisers, the clipping of gradients and checkpoints leave
them out. `trained_state` is what training changes; the rest is told apart by `frozen_digest`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from softnce_ray.commands import command
from softnce_ray.config import FineTuned, LoRA
from softnce_ray.encoders.dual import DualEncoder
from softnce_ray.errors import MachineError, UserError

_QUERY_AND_VALUE = (
    ("query", "value"),
    ("q_proj", "v_proj"),
    ("q_lin", "v_lin"),
    ("query_proj", "value_proj"),
    ("q", "v"),
)
"""What architectures of transformers call the matrices that make an attention's queries and values."""


class EncoderError(UserError, ValueError):
    """An encoder that cannot be built from its settings."""


class MissingError(EncoderError, MachineError):
    """A model or a package that an encoder needs and this machine lacks."""


def adapt(network: nn.Module, settings: FineTuned) -> None:
    """Freeze what the settings say, in place, and put adapters in, whose random weights come from torch's generator.

    Raises:
      EncoderError: it has fewer layers than are to be frozen, or none that can be told, no matrix of a name that is to
        have adapters, or nothing is left to train; or peft is not installed.
    """
    trained_numbers(network, settings)
    for part in _frozen_parts(network, settings):
        part.requires_grad_(False)
    if settings.lora is not None:
        _add_adapters(network, settings.lora, adapted_matrices(network, settings))


def adapted_matrices(network: nn.Module, settings: FineTuned) -> dict[str, nn.Linear]:
    """The matrices that get adapters, by their full names.

    Raises:
      EncoderError: see `adapt`.
    """
    if settings.lora is None:
        return {}
    stack = layers(network)
    place = {id(module): number for number, part in enumerate(stack, 1) for module in part.modules()}
    everywhere = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    if not everywhere:
        raise EncoderError(
            f"encoder.lora: expected a network that has matrices of torch's Linear, got {type(network).__name__}; "
            "remove lora"
        )
    lowest = settings.freeze.layers
    matrices = {name: module for name, module in everywhere.items() if place.get(id(module), len(stack) + 1) > lowest}
    chosen: dict[str, nn.Linear] = {}
    for target in settings.lora.targets or _query_and_value(everywhere):
        found = {name: module for name, module in matrices.items() if _ends(name, target)}
        below = [place[id(module)] for name, module in everywhere.items() if not found and _ends(name, target)]
        if below:
            raise EncoderError(
                f"encoder.freeze.layers: expected at most {max(below) - 1} of {len(stack)} layers with lora, got "
                f"{lowest}: frozen layers get no adapters, and all matrices {target!r} are in them; lower it, or "
                + (_other_targets(matrices) if matrices else "remove lora")
            )
        if not found:
            raise EncoderError(
                f"encoder.lora.targets: expected the end of the name of a matrix of the network, got {target!r}, which "
                f"none has; possible: {', '.join(_last_names(matrices or everywhere))}"
            )
        chosen |= found
    return chosen


def layers(network: nn.Module) -> list[nn.Module]:
    """The layers of a network of transformers, the lowest first; none where they cannot be told."""
    count = getattr(getattr(network, "config", None), "num_hidden_layers", None)
    for module in network.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    return []


def trained_numbers(network: nn.Module, settings: FineTuned) -> int:
    """How many numbers training would change in a network that nothing was done to; needs no peft.

    Raises:
      EncoderError: see `adapt`.
    """
    parts = list(_frozen_parts(network, settings))
    if settings.lora is not None:
        matrices = adapted_matrices(network, settings).values()
        return sum(settings.lora.rank * (each.in_features + each.out_features) for each in matrices)
    frozen = {id(each) for part in parts for each in part.parameters()}
    trained = sum(each.numel() for each in network.parameters() if id(each) not in frozen)
    if not trained:
        count = settings.freeze.layers
        frozen_parts = ["its embeddings"] * settings.freeze.embeddings + [f"all its {count} layers"] * (count > 0)
        raise EncoderError(
            f"encoder.freeze: nothing is left to train: {' and '.join(frozen_parts)} are frozen, and the network has "
            "nothing else; lower freeze.layers or leave out embeddings, or, to evaluate the network as it is, remove "
            "freeze and set training.epochs: 0"
        )
    return trained


def recompute(encoder: DualEncoder) -> None:
    """Keep of each layer its input alone, and compute what is inside again for the gradients (Chen et al. 2016, arXiv
    1604.06174), with the same dropout: less memory for a second forward pass, the same numbers. A bag has no layers.

    Raises:
      EncoderError: the network does not know how.
    """
    network: Any = getattr(encoder.tower, "model", None)
    if network is None:
        return
    try:
        network.activation_checkpointing_enable()
    except (ValueError, AttributeError) as error:
        raise EncoderError(
            f"resources.gradient_checkpointing: expected a network that can compute its layers again, got "
            f"{type(network).__name__}, which cannot; set it to false"
        ) from error
    # Layers are also told to hand gradients down to the embeddings, which the way used here has no need of: frozen
    # layers would be computed backwards for nothing.
    network.disable_input_require_grads()


def merged(encoder: DualEncoder) -> DualEncoder:
    """The encoder, changed in place: adapters added to the matrices that they stand beside, and gone."""
    network: Any = getattr(encoder.tower, "model", None)
    if getattr(network, "peft_config", None) is None:
        return encoder
    from peft.tuners.lora import LoraLayer

    for name, module in list(network.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, last = name.rpartition(".")
            setattr(network.get_submodule(parent), last, module.get_base_layer())
    del network.peft_config
    return encoder


def trained_state(encoder: nn.Module) -> dict[str, Tensor]:
    """The state dict without what is frozen."""
    frozen = {name for name, parameter in encoder.named_parameters() if not parameter.requires_grad}
    return {name: tensor for name, tensor in encoder.state_dict().items() if name not in frozen}


def load_trained(encoder: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put back what `trained_state` gave.

    Raises:
      RuntimeError: it is the state of another encoder.
    """
    expected = trained_state(encoder).keys()
    if state.keys() != expected:
        differing = sorted(state.keys() ^ expected)
        raise RuntimeError(f"expected the trained weights of this encoder, got others: {', '.join(differing[:5])}")
    encoder.load_state_dict(state, strict=False)


def frozen_digest(encoder: nn.Module) -> str | None:
    """A hash of all that is frozen, names and numbers; None where all is trained."""
    digest, found = hashlib.sha256(), False
    for name, parameter in sorted(encoder.named_parameters(), key=lambda each: each[0]):
        if not parameter.requires_grad:
            found = True
            numbers = parameter.detach().cpu().contiguous()
            digest.update(f"{name} {numbers.dtype} {tuple(numbers.shape)}\n".encode())
            digest.update(numbers.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest() if found else None


def _frozen_parts(network: nn.Module, settings: FineTuned) -> Iterator[nn.Module]:
    freeze = settings.freeze
    if freeze.embeddings:
        below = getattr(network, "embeddings", None)
        yield below if isinstance(below, nn.Module) else network.get_input_embeddings()  # type: ignore[operator]
    if not freeze.layers:
        return
    stack = layers(network)
    if not stack:
        raise EncoderError(
            f"encoder.freeze.layers: expected a network whose layers are a list, got {type(network).__name__}: freeze "
            "embeddings alone, or use lora"
        )
    if freeze.layers > len(stack):
        raise EncoderError(
            f"encoder.freeze.layers: expected at most {len(stack)}, the layers of the network, got {freeze.layers}"
        )
    yield from stack[: freeze.layers]


def _add_adapters(network: nn.Module, settings: LoRA, matrices: Mapping[str, nn.Linear]) -> None:
    if find_spec("peft") is None:
        install = command("pip", "install", "softnce-ray[lora]")
        raise MissingError(f"encoder.lora: expected peft, which is not installed: `{install}`")
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # which takes any number
        lora_dropout=settings.dropout,
        target_modules=list(matrices),
        bias="none",
    )
    inject_adapter_in_model(config, network)


def _other_targets(matrices: Mapping[str, nn.Linear]) -> str:
    return f"give encoder.lora.targets of {', '.join(_last_names(matrices))}"


def _query_and_value(matrices: Mapping[str, nn.Linear]) -> tuple[str, ...]:
    for pair in _QUERY_AND_VALUE:
        if all(any(_ends(name, target) for name in matrices) for target in pair):
            return pair
    raise EncoderError(
        "encoder.lora: cannot tell the query and value of this network's attention: give targets, of "
        f"{', '.join(_last_names(matrices))}"
    )


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _last_names(matrices: Mapping[str, nn.Linear]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in matrices})
