"""What a model is trained on and tested on: one language, all of them, or some and others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, field_validator

from softnce_ray.config.seeds import MOST
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
        return tuple(sorted(each_once(values)))

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


def each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return values, or raise ValueError where one comes twice; training sets go by their names."""
    names = [value.name if isinstance(value, TrainingSet) else value for value in values]
    if twice := repeated(names):
        raise ValueError(f"expected each once, got more than one {twice}")
    return values


def _kind_of_entry(value: Any) -> str:
    return "trainingset" if isinstance(value, dict | TrainingSet) else "name"


LanguageEntry = Annotated[
    Annotated[LanguageName, Tag("name")] | Annotated[TrainingSet, Tag("trainingset")], Discriminator(_kind_of_entry)
]
"""A language by its name, `all`, or a training set."""


class LanguageChoices(Settings):
    """Training sets to search over: every one is measured on the same languages."""

    choices: tuple[LanguageEntry, ...] = Field(
        min_length=2, max_length=MOST, description="languages, all, or training sets; those to test on are the target"
    )
    target: tuple[LanguageName, ...] = Field(min_length=1, description="languages that all are validated and tested on")

    @field_validator("choices", "target")
    @classmethod
    def _distinct(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return each_once(values)

    def training_set(self, entry: str | TrainingSet) -> TrainingSet:
        """Return what a choice is trained on and tested on."""
        several = TrainingSet.of(entry)
        return TrainingSet(name=several.name, train=several.train, test=self.target)


def _kind_of_languages(value: Any) -> str:
    return "choices" if isinstance(value, dict | LanguageChoices) else "list"


Languages = Annotated[
    Annotated[tuple[LanguageEntry, ...], Field(min_length=1, max_length=MOST), Tag("list")]
    | Annotated[LanguageChoices, Tag("choices")],
    Discriminator(_kind_of_languages),
]
"""Languages as a study file has them."""
