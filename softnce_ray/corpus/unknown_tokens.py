"""Tokens of training texts that stand for what a tokenizer does not know: an encoder cannot tell them apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path

from softnce_ray.config import TokenSettings
from softnce_ray.corpus.store import Corpus
from softnce_ray.corpus.tokens import SIDES, named_tokenizer, token_texts, unknown_share

_MANY = 0.01
_SAMPLE = 1_000


def sampled_shares(
    corpus: Corpus, folder: Path, settings: TokenSettings, languages: Iterable[str]
) -> dict[tuple[str, str], float]:
    """(language, side) → share of the tokens of the first thousand training texts that the tokenizer of a model in a
    folder does not know.

    Raises:
      CorpusError: there is no such tokenizer, or a table cannot be read.
    """
    tokenizer, shares = named_tokenizer(str(folder), None), {}
    for language, side in product(languages, SIDES):
        rows = next(iter(corpus.batches(language, "train", [side], rows=_SAMPLE)), None)
        texts = [] if rows is None else rows.column(side).to_pylist()
        length = settings.query_length if side == "query" else settings.code_length
        shares[language, side] = unknown_share(tokenizer, token_texts(texts, tokenizer, length, False).ids)
    return shares


def notes(shares: Mapping[tuple[str, str], float]) -> Iterator[str]:
    """A line for each language and side of which many tokens are unknown."""
    for (language, side), share in shares.items():
        if share > _MANY:
            texts = "queries" if side == "query" else "codes"
            yield (
                f"{language}: {share:.1%} of the tokens of training {texts} are unknown to the tokenizer, and the "
                "encoder cannot tell them apart: use one that knows their script, or one without a model, whose "
                "tokenizer is trained on the corpus"
            )
