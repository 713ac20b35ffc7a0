"""What a report says, as frozen values: everything that a rendering needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from softnce_ray.config.settings import Family
from softnce_ray.errors import UserError
from softnce_ray.ranks_file import Measure
from softnce_ray.statistics import Difference, Inference, Interval

ProblemKind = Literal["failed", "stopped", "running", "missing", "unusable"]

OVERALL = "overall"
"""What stands in place of a language for the mean over languages."""


class ReportError(UserError, ValueError):
    """A study that cannot be reported on as asked; the message says what is possible."""


@dataclass(frozen=True)
class Problem:
    """Trials of one arm and language that have no place in the table, and why.

    Attributes:
        language: as the study has it: a language, or the name of a training set.
        kind: ``failed``; ``stopped`` before its end, by an interrupt or with its launch; ``running``; ``missing``:
            asked for, never started; ``unusable``: finished, but not comparable.
        seeds, run_ids: of these trials, in the same order; ``run_ids`` is empty for missing ones.
        phase: ``search`` or ``confirm``.
        reason: one line, or "".
    """

    arm: str
    language: str
    kind: ProblemKind
    phase: str
    seeds: tuple[int, ...]
    run_ids: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Row:
    """One arm evaluated in one language, or in several.

    Attributes:
        language: the queries' language; None for the mean over languages.
        training_set: name of what it was trained on; None where that is the language itself, by a model of its own.
        languages: those whose queries count: one, or those of the mean.
        seeds_done, seeds_asked: seeds that entered, and that should have; over languages: of the one with
            fewest.
        mean: of the measure, with its interval; None when nothing finished (over languages: not in all of them).
        spread: standard deviation (n - 1) of the seeds' means; None for one seed, and over languages unless the
            same seeds finished in all of them.
        difference: from the baseline with the same training set; None for the baseline, and where either has no mean.
        p_holm: p of that difference, corrected over all that the report compares with the baseline.
        together: the difference with an interval that holds together with those of all others, and leaves out 0
            exactly where `p_holm` is under 1 - level.
        behind: difference from the best row of the language; None for that one.
        is_best: highest mean of its language, among two or more.
        ties_best: not the best, and not significantly different from it (p of `behind`, corrected over all such
            differences of the report, >= 1 - level).
        failures: failed runs, of both phases.
        stopped: runs that were stopped before their end, of both phases; another launch goes on with them.
        settings: full key -> value, where it is not common to all arms; seeds that differ are joined by " |
            ".
        metrics: mean over the seeds that entered, of the metrics that all of them have; empty over languages.
    """

    arm: str
    language: str | None
    training_set: str | None
    languages: tuple[str, ...]
    seeds_done: int
    seeds_asked: int
    mean: Interval | None
    spread: float | None
    difference: Difference | None
    behind: Difference | None
    is_best: bool
    failures: int
    stopped: int
    settings: Mapping[str, str]
    metrics: Mapping[str, float]
    p_holm: float | None = None
    together: Difference | None = None
    ties_best: bool = False

    @property
    def name(self) -> str:
        """The arm, with what it was trained on where that is not the language itself: `soft_bm25 [all]`."""
        return row_name(self.arm, self.training_set)

    @property
    def label(self) -> str:
        """The row's name in a sentence."""
        return f"{self.name}, {self.language or OVERALL}"


@dataclass(frozen=True)
class SharedQueries:
    """Languages that are taken to ask the same queries in the same order.

    Attributes:
        correlation: the least between the values of two of them that were found to go together.
    """

    languages: tuple[str, ...]
    correlation: float


@dataclass(frozen=True)
class Published:
    """A published mean reciprocal rank of the same loss, estimator and language as a row of ours.

    Attributes:
        name, language: the row's.
        model: the encoder that was published.
        table: of the paper.
        mrr: as published, three decimals.
        difference: from the published number of what our baseline is, same model and language; None for the baseline,
            and where it has none.
    """

    name: str
    language: str | None
    model: str
    table: str
    mrr: float
    difference: float | None


@dataclass(frozen=True)
class PaperComparison:
    """Published numbers beside a study's.

    Attributes:
        published: row by row, model by model.
        set_up: whole sentences: what differs between the published experiment and this one.
        unmatched: labels of rows that have no published number.
    """

    published: tuple[Published, ...]
    set_up: tuple[str, ...]
    unmatched: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """Everything that a rendering needs.

    Attributes:
        rows: language by language in the study's order, then over languages (where there are several); within a
            language training set by training set.
        training_sets: name -> languages that it is trained on, of those that are not just a language.
        common_settings: full key -> value, of the settings on which all ``confirm`` trials agree.
        queries, codebase: language -> number of queries, and of codes that each was ranked against (if
            known).
        inference: what p and intervals speak of, see :func:`softnce_ray.statistics.compare_arms`.
        permutations, random_seed: of the sign-flip test of `these-models`.
        shared: languages whose queries count as the same in means over languages.
        seeds: those that every arm should have; of a study that asks for precision, in the language that has most.
        counts: phase -> ``TrialResult.outcome`` -> number of trials, those that run now among them.
        paper: published numbers beside these, where they were asked for.
        measure: what of each query is averaged; the means and differences are of it.
        problems: failed, stopped, running, missing and unusable trials.
        notes: whole sentences that a reader must know.
        family: differences that p and intervals are corrected for together: of the whole `study`, or of each
            `language` (and of the means over languages).
    """

    title: str
    study: str
    question: str
    status: str
    baseline: str
    split: str
    measure: Measure
    corpus_fingerprint: str
    level: float
    inference: Inference
    permutations: int
    random_seed: int
    rows: tuple[Row, ...]
    training_sets: Mapping[str, tuple[str, ...]]
    common_settings: Mapping[str, str]
    queries: Mapping[str, int]
    codebase: Mapping[str, int]
    seeds: tuple[int, ...]
    counts: Mapping[str, Mapping[str, int]]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    paper: PaperComparison | None = None
    shared: tuple[SharedQueries, ...] = ()
    family: Family = "study"


def family_of(languages: tuple[str, ...], family: Family) -> tuple[str, ...]:
    """Return what rows of the same `languages` have alike with all that are corrected together: nothing, or these."""
    return languages if family == "language" else ()


def row_name(arm: str, training_set: str | None) -> str:
    return arm if training_set is None else f"{arm} [{training_set}]"
