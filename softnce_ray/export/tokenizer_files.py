"""The tokenizer of an exported folder, in the two forms in which libraries read one."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer

from softnce_ray.encoders import PAD_ID, Bag
from softnce_ray.model import Model


def plain(model: Model) -> Tokenizer:
    """A copy for the `tokenizers` library, which cuts texts at the length of code and does not pad."""
    tokenizer = Tokenizer.from_str(model.tokenizer.to_str())
    tokenizer.enable_truncation(model.config.tokens.code_length)
    tokenizer.no_padding()
    return tokenizer


def padding(model: Model) -> Tokenizer:
    """As `plain`, padding the texts of a batch to the longest."""
    tokenizer = plain(model)
    pad = _pad_id(model)
    tokenizer.enable_padding(pad_id=pad, pad_token=tokenizer.id_to_token(pad))
    return tokenizer


def wrapped(model: Model) -> Any:
    """A copy for the `transformers` library."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = plain(model)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=tokenizer.id_to_token(_pad_id(model)),
        model_max_length=model.config.tokens.code_length,
        model_input_names=["input_ids", "attention_mask"],
        split_special_tokens=True,  # as training reads texts: see `only_text`
    )


def lengths(model: Model) -> str:
    """The tokens that training read of each side, as Python for a recipe."""
    tokens = model.config.tokens
    return f'{{"query": {tokens.query_length}, "code": {tokens.code_length}}}'


def prompted(model: Model) -> tuple[str, str]:
    """Python for a recipe: a line that defines a model's prompts, and the texts, each after the prompt of its side."""
    inputs = model.config.encoder.inputs
    if not (inputs.query_prompt or inputs.code_prompt):
        return "", "texts"
    prompts = {"query": inputs.query_prompt, "code": inputs.code_prompt}
    return f"\nprompts = {prompts!r}", "[prompts[side] + text for text in texts]"


def _pad_id(model: Model) -> int:
    tower = model.encoder.tower
    return PAD_ID if isinstance(tower, Bag) else tower.pad_id
