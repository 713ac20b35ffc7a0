"""What a corpus must have for a study: its languages, and pairs enough for each batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from softnce_ray.config import ALL, Choices, Range, StudyConfig, TrainingSet
from softnce_ray.corpus.checking import check_corpus
from softnce_ray.corpus.graph_tokens import flow_problem
from softnce_ray.corpus.pairs import CorpusError
from softnce_ray.corpus.store import Corpus
from softnce_ray.study.problems import Key


def corpus_problems(
    raw: dict[str, Any], study: StudyConfig | None = None, aside: frozenset[str] = frozenset()
) -> Iterator[tuple[Key, str]]:
    """What does not fit the corpus: of the file's `raw` keys, and of `study`, where there is one to check."""
    folder, entries = raw.get("corpus"), raw.get("languages")
    if not isinstance(folder, str):
        return
    try:
        corpus = Corpus.listed(folder)
    except CorpusError as error:
        yield ("corpus",), str(error)
        return
    except (OSError, ValueError) as error:  # a name that no folder can have, or one that may not be read
        yield ("corpus",), f"expected the folder of a corpus, got {folder!r}: {error}"
        return
    yield from ((("corpus",), problem) for problem in check_corpus(corpus.location))
    pairs: dict[str, int] = {}
    used: set[str] = set()
    equal: dict[tuple[tuple[str, ...], ...], str] = {}
    where: Key = ("languages",)
    if isinstance(entries, dict):
        target = entries.get("target")
        used |= set(target) & set(corpus.languages) if isinstance(target, list | tuple) else set()
        yield from (
            (("languages", *key[1:]), text)
            for key, text in _language_problems({"test": target}, corpus)
            for key in [("test", "target", *key[1:])]
        )
        where, entries = ("languages", "choices"), entries.get("choices")
    for number, entry in enumerate(entries if isinstance(entries, list | tuple) else ()):
        found = [((*where, number, *key), message) for key, message in _language_problems(entry, corpus)]
        yield from found
        training_set = None if found or not isinstance(entry, str | dict) else _training_set(entry, corpus)
        if training_set is None:
            continue
        name = training_set.name
        used |= {*training_set.train, *training_set.test}
        pairs[name] = sum(_pairs(corpus, language, "train") for language in training_set.train)
        same = equal.setdefault((training_set.train, training_set.test), name)
        if same != name:
            yield (
                (*where, number),
                f"{name} is trained and tested on the same languages as {same}: they would be trained twice; "
                "remove one",
            )
    for arm, config in study.arms.items() if study is not None else ():
        reads_flow = arm not in aside and config.encoder.inputs.flow_length is not None
        if reads_flow and (problem := flow_problem(sorted(used))):
            yield ("arms", arm, "encoder", "kind"), problem
    if study is not None and "search" not in aside:  # without the search, who knows which sizes there are
        for arm in study.arms:
            if arm not in aside:
                yield from _batch_problems(study, arm, pairs)


def _language_problems(entry: Any, corpus: Corpus) -> Iterator[tuple[Key, str]]:
    """What of an entry of `languages`, as the file has it, the corpus does not have; keys within the entry."""
    if isinstance(entry, str):
        if entry != ALL and entry not in corpus.languages:
            yield (), _no_language(corpus, entry) + (f", {ALL}" if len(corpus.languages) > 1 else "")
            return
        for language in (entry,) if entry in corpus.languages else corpus.languages:
            yield from (((), text) for text in _untested(corpus, language))
    if not isinstance(entry, dict):  # what is neither is told as what it is
        return
    if entry.get("name") == ALL:
        yield ("name",), f"{ALL} means all languages of the corpus: expected another name, or the entry {ALL} itself"
    if entry.get("name") in corpus.languages:
        yield (
            ("name",),
            f"{entry['name']} is a language of the corpus: expected another name for what is trained and tested on "
            "several",
        )
    for side in ("train", "test"):
        languages = entry.get(side)
        for number, language in enumerate(languages if isinstance(languages, list | tuple) else ()):
            if isinstance(language, str) and language not in corpus.languages:
                yield (side, number), _no_language(corpus, language)
            elif isinstance(language, str) and side == "test":
                yield from (((side, number), text) for text in _untested(corpus, language))


def _no_language(corpus: Corpus, got: Any) -> str:
    return f"the corpus {corpus.location} has no language {got!r}; possible: {', '.join(corpus.languages)}"


def _untested(corpus: Corpus, language: str) -> Iterator[str]:
    """Why a language cannot be tested on."""
    for split in ("valid", "test"):
        if not _pairs(corpus, language, split):
            yield (
                f"expected languages with valid and test pairs to test on, got {language}, which has no {split} pairs: "
                "test on others, or build a corpus with both"
            )


def _pairs(corpus: Corpus, language: str, split: str) -> int:
    return corpus.manifest.languages[language].pairs.get(split, 0)


def _training_set(entry: Any, corpus: Corpus) -> TrainingSet | None:
    """An entry of `languages` that the corpus has; None for one that is wrong in itself, which is said elsewhere."""
    if not isinstance(entry, dict):
        return TrainingSet.of(entry) if entry in corpus.languages else TrainingSet.of_all(corpus.languages)
    try:
        return TrainingSet.model_validate(entry)
    except ValidationError:
        return None


def _batch_problems(study: StudyConfig, arm: str, pairs: dict[str, int]) -> Iterator[tuple[Key, str]]:
    """Languages (of `pairs`, the number of training pairs of each) that are smaller than an arm's largest batch.

    The arm is not named: its key says it, and what several have from `defaults` is then said once.
    """
    path = "training.batch_size"
    if study.arms[arm].training.batch_tokens is not None:  # then it is only the most that a batch may have
        return
    space = study.space(arm).get(path)
    places: list[tuple[float, Key]] = []
    if space is not None:
        own = path in study.arms[arm].search
        places.append((_largest(space), ("arms", arm, "search", path) if own else ("search", "space", path)))
    if space is None or space.when:
        places.append((study.arms[arm].training.batch_size, ("arms", arm, "training", "batch_size")))
    size, key = max(places, key=lambda each: each[0])
    for language, available in pairs.items():
        if size > available:
            yield (
                key,
                f"expected at most {available}, the training pairs of {language}, got {size}: "
                "lower it or use a larger corpus",
            )


def _largest(space: Range | Choices) -> float:
    """The largest number of a searched setting that is a whole number."""
    numbers = [each for each in space.choices if isinstance(each, int | float)] if isinstance(space, Choices) else []
    return int(space.highest) if isinstance(space, Range) else max(numbers, default=0)
