"""A model that turns queries and functions into vectors: an export of this system or any other sentence encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from tokenizers import Tokenizer

from softnce_ray.commands import command
from softnce_ray.exported import EXPORT_SETTINGS
from softnce_ray.folders import recover
from softnce_ray.model import ExportError, load_export
from softnce_ray.named import located, model_content, sentence_model_problem

CHUNK = 2_000
"""Texts that are encoded between two steps of a progress display."""

Steps = Callable[[int, int], None]
"""Called with (texts done, texts in all)."""


@dataclass(frozen=True)
class Embedder:
    """Vectors whose dot product is the score.

    Attributes:
      folder: where the model is, absolute.
      content: hash of its files; another model has another one.
      encode_queries: texts in, (n, width) float32 out.
      encode_codes: functions and the language of each in, (n, width) float32 out.
      measure: what the product of two vectors is: their `cosine`, where they have length one, or any `dot` product.
      reads: whether the model knows any token of each text; a vector of a text of which it knows none says nothing.
    """

    folder: Path
    content: str
    encode_queries: Callable[[Sequence[str]], np.ndarray]
    encode_codes: Callable[[Sequence[str], Sequence[str]], np.ndarray]
    measure: Literal["cosine", "dot"] = "cosine"
    reads: Callable[[Sequence[str]], list[bool]] = lambda texts: [True] * len(texts)

    def codes(
        self, texts: Sequence[str], languages: Sequence[str], steps: Steps = lambda done, total: None
    ) -> np.ndarray:
        """(n, width) float32 vectors of functions, n >= 1, with progress."""
        parts = []
        for start in range(0, len(texts), CHUNK):
            part = slice(start, start + CHUNK)
            parts.append(self.encode_codes(texts[part], languages[part]))
            steps(min(start + CHUNK, len(texts)), len(texts))
        return np.concatenate(parts)


def open_embedder(model: str | Path) -> Embedder:
    """The model in a folder, or one that a package brings: `minilm`.

    An export of this system cuts queries and functions where its training cut them. Any other folder is read by
    sentence-transformers, with the model's own length and prompts and, unless it says `dot`, the cosine; of a folder
    of transformers alone, sentence-transformers takes the mean of the tokens' vectors.

    Raises:
      ExportError: there is no such folder, or what is in it cannot be loaded.
      UserError: the package of a named model is not installed.
    """
    folder = Path(model) if Path(model).is_dir() else Path(located(str(model)))
    if not folder.is_dir():
        for each in (folder.parent, folder):  # a process may have died while it replaced it
            recover(each)
    if not folder.is_dir():
        got = "a file" if folder.exists() else "nothing there"
        make = command("softnce-ray", "export", "STUDY", "--to", "DIR")
        raise ExportError(
            f"expected the folder of a model at {folder}, got {got}: make one with `{make}`, or give the folder of a "
            "sentence-transformers or Hugging Face model"
        )
    if problem := sentence_model_problem(str(folder)):
        raise ExportError(problem)
    folder = folder.resolve()
    if (folder / EXPORT_SETTINGS).is_file():
        exported = load_export(folder)
        return Embedder(
            folder,
            model_content(str(folder)),
            exported.encode_queries,
            exported.encode_codes,
            exported.config.similarity,
            lambda texts: [knows_any(exported.tokenizer, text) for text in texts],
        )
    return _foreign(folder)


def _foreign(folder: Path) -> Embedder:
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        encoder = SentenceTransformer(str(folder))
    except Exception as error:  # each of the libraries that read a model's files has its own
        reason = (str(error).splitlines() or [""])[0]
        raise ExportError(
            f"expected a model of sentence-transformers or transformers in {folder}, got one that cannot be loaded: "
            f"{reason}; give the folder of another"
        ) from error
    unit = encoder.similarity_fn_name != "dot"

    def encode_queries(texts: Sequence[str]) -> np.ndarray:
        return encoder.encode_query(list(texts), normalize_embeddings=unit, show_progress_bar=False)

    def encode_codes(texts: Sequence[str], languages: Sequence[str]) -> np.ndarray:
        return encoder.encode_document(list(texts), normalize_embeddings=unit, show_progress_bar=False)

    def reads(texts: Sequence[str]) -> list[bool]:
        tokenizer = getattr(encoder.tokenizer, "backend_tokenizer", encoder.tokenizer)
        return [not isinstance(tokenizer, Tokenizer) or knows_any(tokenizer, text) for text in texts]

    measure: Literal["cosine", "dot"] = "cosine" if unit else "dot"
    return Embedder(folder, model_content(str(folder)), encode_queries, encode_codes, measure, reads)


def knows_any(tokenizer: Tokenizer, text: str) -> bool:
    """Whether a tokenizer has a token for any part of a text, other than the one for what it does not know."""
    unknown = getattr(tokenizer.model, "unk_token", None)
    return any(token != unknown for token in tokenizer.encode(text, add_special_tokens=False).tokens)
