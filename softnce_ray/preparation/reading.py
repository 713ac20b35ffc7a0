"""Identity of corpora that are read in another way than by earlier versions; that of all others is unchanged."""

from __future__ import annotations

from collections.abc import Iterable

from softnce_ray.config import ArmConfig, BM25CodeEstimator, BM25Estimator, Estimator, TrainingSet
from softnce_ray.corpus.scripts import scripts_of
from softnce_ray.corpus.store import Corpus


def content_of(corpus: Corpus, config: ArmConfig, languages: TrainingSet) -> str:
    """Return the identity of what an arm learns from.

    It is the corpus' fingerprint; in corpora of other scripts than most also how they are read, if that has changed.

    `+bigrams`: BM25 counts texts of scripts without spaces, which once were one word each. `+bytes`: a tokenizer that
    is trained on the corpus reads bytes, where most characters once were unknown.

    Raises:
      CorpusError: a table cannot be read.
    """
    content = counted_content(corpus, config.all_estimators.values(), languages)
    reads_bytes = scripts_of(corpus).needs_bytes and config.encoder.inputs.tokenizer is None
    return f"{content}+bytes" if reads_bytes else content


def counted_content(corpus: Corpus, estimators: Iterable[Estimator], languages: TrainingSet) -> str:
    """The part of `content_of` that depends on estimators."""
    counts_bigrams = any(
        (language, side) in scripts_of(corpus).unspaced
        for estimator in estimators
        for language in languages.train
        for side in _counted_sides(estimator)
    )
    return f"{corpus.fingerprint}+bigrams" if counts_bigrams else corpus.fingerprint


def _counted_sides(estimator: Estimator) -> tuple[str, ...]:
    match estimator:
        case BM25Estimator():
            return ("query",)
        case BM25CodeEstimator():
            return ("query", "code")
        case _:
            return ()
