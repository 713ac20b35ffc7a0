"""Settings of the encoders, and what each of them is fed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from softnce_ray.config.settings import Settings, wrong

PUBLISHED_LENGTHS = {"query_length": 128, "code_length": 256}
"""Tokens that the published encoders read unless `tokens` says otherwise (arXiv 2310.08069)."""


@dataclass(frozen=True)
class Inputs:
    """What an encoder reads of a text.

    Attributes:
      tokenizer: name or folder of the model whose tokenizer it is; None: one is trained on the corpus.
      special: each text stands between the special tokens of its tokenizer.
      prefix: a token of the vocabulary that stands before each text, between `<s>` and a `</s>` of its own.
      flow_length: nodes of a function's data-flow graph that are read beside its tokens; None: no graph.
      query_prompt, code_prompt: text that is put before each query or function.
    """

    tokenizer: str | None = None
    special: bool = True
    prefix: str | None = None
    flow_length: int | None = None
    query_prompt: str = ""
    code_prompt: str = ""


class Freeze(Settings):
    """What keeps its weights as they are. Dropout stays on there."""

    embeddings: bool = Field(False, description="all that comes before the first layer")
    layers: int = Field(
        0, ge=0, le=1000, description="the lowest layers; with lora, those that get no adapters of their own"
    )


class LoRA(Settings):
    """Low-rank adapters (Hu et al. 2022, arXiv 2106.09685): W + alpha / rank · B A in the place of each chosen matrix
    W, where only A and B are trained. Trained models have them merged into W."""

    rank: int = Field(8, ge=1, le=4096, description="rows of A")
    alpha: float = Field(16.0, gt=0, le=100_000, description="B A is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="of what A is given")
    targets: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        None,
        min_length=1,
        description="matrices by the ends of their names, such as dense or attention.output.dense; null: query and "
        "value of attention",
    )


class FineTuned(Settings):
    """What every kind with a network of transformers has: how much of the network is trained."""

    # Left out while they say nothing: such a trial is the one that it was before there was either.
    freeze: Freeze = Field(
        Freeze(), exclude_if=lambda freeze: freeze == Freeze(), description="what keeps its weights as they are"
    )
    lora: LoRA | None = Field(
        None,
        exclude_if=lambda lora: lora is None,
        description="train adapters of small rank instead of the network, which needs a model; null: no adapters",
    )


class BagEncoder(Settings):
    """Mean of learned subword vectors, each scaled by a learned weight of its subword."""

    kind: Literal["bag"] = "bag"
    width: int = Field(256, ge=1, le=8192, description="length of a vector")

    @model_validator(mode="before")
    @classmethod
    def _no_network(cls, given: Any) -> Any:
        for key in FineTuned.model_fields:
            if isinstance(given, Mapping) and key in given:
                raise wrong(key, f"encoder bag has no network: expected no {key} here, or another kind of encoder")
        return given

    @property
    def inputs(self) -> Inputs:
        return Inputs(special=False)


class TransformerEncoder(FineTuned):
    """A transformers model by name or folder, or a small RoBERTa from scratch when `model` is null."""

    kind: Literal["transformer"] = "transformer"
    model: str | None = Field(None, description="name or local folder; null: from scratch")
    width: int = Field(128, ge=8, le=8192, description="hidden size, from scratch only")
    layers: int = Field(2, ge=1, le=96, description="layers, from scratch only")
    heads: int = Field(2, ge=1, le=128, description="attention heads, from scratch only")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout, from scratch only")
    pooling: Literal["mean", "first", "pooler"] = Field(
        "mean", description="mean unless the files of the model say otherwise, as sentence-transformers writes them"
    )

    # Left out where there is none: such a trial is the one that it was before there were prompts.
    query_prompt: str | None = Field(
        None,
        exclude_if=lambda prompt: prompt is None,
        description="text before each query; null: as the files of the model say",
    )
    code_prompt: str | None = Field(
        None,
        exclude_if=lambda prompt: prompt is None,
        description="text before each function; null: as the files of the model say",
    )

    @model_validator(mode="after")
    def _check(self) -> TransformerEncoder:
        if self.model is None and self.width % self.heads:
            raise wrong("heads", f"expected a divisor of width {self.width}, got {self.heads}")
        if self.model is None and self.freeze.layers > self.layers:
            raise wrong("freeze.layers", f"expected at most layers {self.layers}, got {self.freeze.layers}")
        if self.model is None and self.lora is not None:
            raise wrong(
                "lora",
                "adapters change a little of what a network has learned: expected a model, got a network from scratch; "
                "give encoder.model, or remove lora",
            )
        return self

    @property
    def inputs(self) -> Inputs:
        return Inputs(self.model, query_prompt=self.query_prompt or "", code_prompt=self.code_prompt or "")


class CodeBERTEncoder(FineTuned):
    """CodeBERT (Feng et al. 2020, arXiv 2002.08155): `<s> … </s>`, and the pooler's output as the text's vector."""

    pooling: ClassVar[Literal["pooler"]] = "pooler"

    kind: Literal["codebert"] = "codebert"
    model: str = Field("microsoft/codebert-base", description="name or local folder")

    @property
    def inputs(self) -> Inputs:
        return Inputs(self.model)


class UniXcoderEncoder(FineTuned):
    """UniXcoder (Guo et al. 2022, arXiv 2203.03850): `<s> <encoder-only> </s> … </s>`, and the mean over all of these
    as the text's vector."""

    pooling: ClassVar[Literal["mean"]] = "mean"

    kind: Literal["unixcoder"] = "unixcoder"
    model: str = Field("microsoft/unixcoder-base", description="name or local folder")

    @property
    def inputs(self) -> Inputs:
        return Inputs(self.model, prefix="<encoder-only>")


class GraphCodeBERTEncoder(FineTuned):
    """GraphCodeBERT (Guo et al. 2021, arXiv 2009.08366): `<s> … </s>`, of functions with the data flow of their
    variables, and the pooler's output as the text's vector. See `graph_inputs`."""

    pooling: ClassVar[Literal["pooler"]] = "pooler"

    kind: Literal["graphcodebert"] = "graphcodebert"
    model: str = Field("microsoft/graphcodebert-base", description="name or local folder")
    flow_length: int = Field(
        64,
        ge=0,
        le=8192,
        description="places for nodes of a function's data flow; what these or tokens.code_length leave is the other's",
    )

    @property
    def inputs(self) -> Inputs:
        return Inputs(self.model, flow_length=self.flow_length)


class MiniLMEncoder(FineTuned):
    """all-MiniLM-L6-v2 (6 layers, width 384), a sentence encoder whose weights a Python package brings: no network is
    needed. `[CLS] … [SEP]`, and the mean over all of these as the text's vector."""

    pooling: ClassVar[Literal["mean"]] = "mean"
    model: ClassVar[str] = "minilm"

    kind: Literal["minilm"] = "minilm"

    @property
    def inputs(self) -> Inputs:
        return Inputs(self.model)


PublishedEncoder = CodeBERTEncoder | UniXcoderEncoder | GraphCodeBERTEncoder
"""Kinds with weights and inputs of their authors; another pooling is `kind: transformer` with their model."""

NetworkEncoder = TransformerEncoder | MiniLMEncoder | PublishedEncoder
"""Kinds whose network is one of transformers."""

Encoder = Annotated[BagEncoder | NetworkEncoder, Field(discriminator="kind")]

PUBLISHED_KINDS = frozenset({"codebert", "unixcoder", "graphcodebert"})
PUBLISHED_MODELS = frozenset(
    str(each.model_fields["model"].default) for each in (CodeBERTEncoder, UniXcoderEncoder, GraphCodeBERTEncoder)
)
"""Names of their models, whose files say nothing but what their networks are."""


def how_to_get(model: str, key: str = "encoder.model") -> str:
    """What to do where no model can be loaded under a name or path, which `key` gives: the end of an error's line."""
    if os.path.isdir(model) or model.startswith((".", "/", "~")):
        return "give the folder of a model, with its config.json, weights and tokenizer, or a name on the hub"
    return (
        f"on a machine with network: hf download {model} --local-dir DIR; then copy DIR to all machines here and give "
        f"{key}: DIR, or copy that machine's cache and set HF_HOME to it"
    )
