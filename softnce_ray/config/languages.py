"""What a model is trained on and tested on: one language, all of them, or some and others."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field, field_validator

from softnce_ray.config.settings import LanguageName, Settings, repeated

ALL = "all"
"""In a study file, all languages of the corpus together."""


class TrainingSet(Settings):
    """Languages that one model is trained on together, and those that it is tested on one by one.

    Their order says nothing: both are kept sorted.
    """

    name: LanguageName = Field(description="what runs, folders and reports call it")
    train: tuple[LanguageName, ...] = Field(min_length=1, description="of the corpus, trained on together")
    test: tuple[LanguageName, ...] = Field(min_length=1, description="of the corpus, each tested on by itself")

    @field_validator("train", "test")
    @classmethod
    def _distinct(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if twice := repeated(values):
            raise ValueError(f"expected each once, got more than one {twice}")
        return tuple(sorted(values))

    @staticmethod
    def of(language: str | TrainingSet) -> TrainingSet:
        """A language by its name: trained on and tested on alone."""
        if isinstance(language, TrainingSet):
            return language
        return TrainingSet(name=language, train=(language,), test=(language,))

    @staticmethod
    def of_all(languages: Iterable[str]) -> TrainingSet:
        """Trained on all languages together, tested on each."""
        every = tuple(languages)
        return TrainingSet(name=ALL, train=every, test=every)

    @property
    def is_language(self) -> bool:
        """Whether this is just a language, trained on and tested on alone, under its own name."""
        return self.train == self.test == (self.name,)
