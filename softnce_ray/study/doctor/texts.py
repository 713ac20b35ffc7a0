"""What the models of a study cannot read of its corpus' texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from softnce_ray.config import StudyConfig
from softnce_ray.corpus.pairs import CorpusError
from softnce_ray.corpus.store import Corpus
from softnce_ray.corpus.unknown_tokens import notes, sampled_shares
from softnce_ray.study.doctor.finding import Finding, of_arms
from softnce_ray.study.doctor.needs import folder_of


def unknown_tokens(study: StudyConfig, corpus: Corpus) -> Iterator[Finding]:
    """Warn of tokenizers on this machine that do not know many tokens of training; `study` has its languages in the
    place of `all`."""
    languages = sorted({each for name in study.language_names for each in study.training_set(name).train})
    readers: dict[tuple[object, object], list[str]] = {}
    for name, arm in study.arms.items():
        folder = folder_of(arm) if arm.encoder.inputs.tokenizer is not None else None
        if folder is not None:
            readers.setdefault((folder, arm.tokens), []).append(name)
    for names in readers.values():
        arm = study.arms[names[0]]
        folder = folder_of(arm)
        assert folder is not None
        try:
            shares = sampled_shares(corpus, Path(folder), arm.tokens, languages)
        except CorpusError:  # which is said where models are looked for
            continue
        for note in notes(shares):
            text, _, remedy = note.partition(": use ")
            yield Finding("tokens", "warning", f"{of_arms(names)}: {text}", f"use {remedy}")
