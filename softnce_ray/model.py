"""A model: an encoder with its tokenizer, as training yields it, stores keep it and export converts it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from softnce_ray import json_text
from softnce_ray.commands import command
from softnce_ray.config import ArmConfig
from softnce_ray.corpus.dataflow import GraphLimits
from softnce_ray.corpus.graph_tokens import graph_texts
from softnce_ray.corpus.ragged import Ragged, concatenate
from softnce_ray.corpus.tokens import only_text, token_texts
from softnce_ray.digests import changed_file, write_digests
from softnce_ray.encoders import Bag, DualEncoder, build_encoder, tensors_of
from softnce_ray.errors import UserError
from softnce_ray.exported import EXPORT_SETTINGS
from softnce_ray.files import expect_file, read_file

_CHUNK_TOKENS = 16_384
_CHUNK_TEXTS = 2_000


class ExportError(UserError, ValueError):
    """A model that cannot be exported, or an export that is none or does not give the same vectors."""


class LanguageError(UserError, ValueError):
    """Functions whose language is not given to an encoder that must know it."""


@dataclass(frozen=True)
class Model:
    """An encoder, its tokenizer and the settings that both were made from."""

    encoder: DualEncoder
    tokenizer: Tokenizer
    config: ArmConfig

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """(n, width) float32 vectors of queries."""
        length, prompt = self.config.tokens.query_length, self.config.encoder.inputs.query_prompt
        return self._encode(texts, lambda part: self._tokens(texts[part], length, prompt))

    def encode_codes(self, texts: Sequence[str], languages: str | Sequence[str] | None = None) -> np.ndarray:
        """(n, width) float32 vectors of functions.

        Args:
          languages: one for all functions, or that of each: where the encoder reads their data flow it must be known.

        Raises:
          LanguageError: it is not given there.
          CorpusError: the data flow of such a language is not known.
        """
        limits = self.graph_limits
        if limits is None:
            length, prompt = self.config.tokens.code_length, self.config.encoder.inputs.code_prompt
            return self._encode(texts, lambda part: self._tokens(texts[part], length, prompt))
        if languages is None:
            raise LanguageError(
                f"encoder {self.config.encoder.kind} reads the data flow of functions: expected the language of each, "
                "got none"
            )
        named = languages

        def read(part: slice) -> Ragged:
            return graph_texts(texts[part], named if isinstance(named, str) else named[part], self.tokenizer, limits)

        return self._encode(texts, read)

    @property
    def graph_limits(self) -> GraphLimits | None:
        """How much of functions and their graphs the encoder reads; None where it reads no graph."""
        flow_length = self.config.encoder.inputs.flow_length
        return None if flow_length is None else GraphLimits(self.config.tokens.code_length, flow_length)

    def _tokens(self, texts: Sequence[str], length: int, prompt: str) -> Ragged:
        return token_texts(list(texts), self.tokenizer, length, special=True, prompt=prompt)

    def _encode(self, texts: Sequence[str], read: Callable[[slice], Ragged]) -> np.ndarray:
        # Encodings are a hundred times as large as the ids in them: some thousand texts are read at a time.
        parts = [read(slice(start, start + _CHUNK_TEXTS)) for start in range(0, max(1, len(texts)), _CHUNK_TEXTS)]
        return encode(self.encoder, concatenate(parts)).cpu().numpy()


@torch.inference_mode()
def encode(encoder: DualEncoder, texts: Ragged, *, chunk_tokens: int = _CHUNK_TOKENS) -> torch.Tensor:
    """Vectors of many texts, without gradient and without dropout: (n, width) float32 on the encoder's device.

    Texts are taken in order of length, about `chunk_tokens` tokens at a time, so that memory stays bounded.
    """
    device = next(encoder.parameters()).device
    was_training = encoder.training
    encoder.eval()
    order = np.argsort(texts.places, kind="stable")
    ends = np.cumsum(texts.places[order])
    cuts = np.searchsorted(ends, np.arange(chunk_tokens, ends[-1] if len(ends) else 0, chunk_tokens))
    vectors = []
    for rows in np.split(order, np.unique(cuts)):
        if len(rows) or not len(texts):  # the encoder says how wide no vectors are
            vectors.append(encoder(*tensors_of(texts.take(rows), device)))
    encoder.train(was_training)
    return torch.cat(vectors)[torch.from_numpy(np.argsort(order)).to(device)]


def save_model(model: Model, folder: Path) -> None:
    """Write `settings.json`, `tokenizer.json` and `model.safetensors` (and a transformer's own
    `transformer.json`) into an empty folder, and the SHA-256 of each."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.encoder.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    model.tokenizer.no_truncation()
    model.tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "settings.json").write_text(settings_json(model.config))
    network = getattr(model.encoder.tower, "model", None)
    if network is not None:
        (folder / "transformer.json").write_text(network.config.to_json_string())
    write_digests(folder)


def settings_json(config: ArmConfig) -> str:
    """The settings that a model was made from, as JSON; a trial's language and seed are not among them."""
    return config.model_dump_json(indent=1, include=set(ArmConfig.model_fields))


def load_model(folder: Path) -> Model:
    """The model that `save_model` wrote.

    Raises:
      OSError: a file is missing, of a model of an earlier version.
      ValueError: a file is not what it should be, or not there.
    """
    if changed := changed_file(folder):
        raise ValueError(f"expected the model that was written in {folder}, got {changed}")
    config = ArmConfig.model_validate_json(read_file(folder / "settings.json"))
    stored = read_file(folder / "tokenizer.json").decode()
    try:
        tokenizer = only_text(Tokenizer.from_str(stored))
    except Exception as error:  # tokenizers raises nothing more special
        raise ValueError(f"expected a tokenizer in {folder / 'tokenizer.json'}, got {error}") from error
    architecture = folder / "transformer.json"
    network = json_text.load(read_file(architecture)) if architecture.exists() else None
    encoder = build_encoder(config, tokenizer.get_vocab_size(), network=network)
    weights = folder / "model.safetensors"
    try:
        encoder.load_state_dict(load_file(expect_file(weights)))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"expected the weights of {folder / 'settings.json'} in {weights}, got {error}") from error
    return Model(encoder.eval(), tokenizer, config)


def load_kept_model(folder: Path, run_id: str) -> Model:
    """Load the model that a run keeps, from a copy of its folder.

    Raises:
      ExportError: it is damaged.
    """
    try:
        return load_model(folder)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).replace(f"{folder}/", "").replace(f" in {folder}", "").split())
        raise ExportError(
            f"expected the model that run {run_id} keeps, got a damaged one ({reason}): delete that run and launch its "
            "study again, which trains it anew, or take another run"
        ) from error


def load_export(folder: str | Path) -> Model:
    """The model of an exported folder, from that folder alone.

    Raises:
      ExportError: the folder is no export.
    """
    root = Path(folder)
    try:
        config = ArmConfig.model_validate(json_text.load(read_file(root / EXPORT_SETTINGS)))
        tokenizer = only_text(Tokenizer.from_str(read_file(root / "tokenizer.json").decode()))
        if config.encoder.kind == "bag":
            table = load_file(expect_file(root / "model.safetensors"))["embedding.weight"]
            bag = Bag(*table.shape)
            with torch.no_grad():
                bag.table.copy_(table)
            return Model(DualEncoder(bag, config.similarity).eval(), tokenizer, config)
        network = json_text.load(read_file(root / "config.json"))
        encoder = build_encoder(config, tokenizer.get_vocab_size(), network=network)
        weights = load_file(expect_file(root / "model.safetensors"))
        encoder.tower.model.load_state_dict(weights, strict=False)  # type: ignore[operator, union-attr]
        return Model(encoder.eval(), tokenizer, config)
    except FileNotFoundError as error:
        name = Path(error.filename or "model.safetensors").name
        raise ExportError(
            f"expected an exported model in {root}, got no {name}: make one with "
            f"`{command('softnce-ray', 'export', 'STUDY', '--to', 'DIR')}`"
        ) from None
    except Exception as error:  # what reads tokenizers and weights has no common type of error
        reason = (str(error).splitlines() or [""])[0]
        raise ExportError(
            f"expected an exported model in {root}, got a damaged one: {reason}; export it again"
        ) from error
