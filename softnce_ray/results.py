"""What a study left behind, as plain data: the records between the tracking store and the report.

Nothing here knows MLflow, Ray or torch. Whoever reads a store fills these records; whoever reports on a study
reads nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from softnce_ray.config import Precision, TrainingSet
from softnce_ray.config.settings import Family

Phase = Literal["search", "confirm"]
Status = Literal["FINISHED", "FAILED", "KILLED", "RUNNING"]

MODEL_FOLDER = "model"
"""Name of a model's folder among the files of a trial."""


@dataclass(frozen=True)
class TrialKey:
    """What a trial is known by in the store, across launches."""

    arm: str
    language: str
    phase: str
    seed: int
    identity: str

    @property
    def training(self) -> str:
        """Name of the training that answers it, which is one for all arms: equal identity means the same numbers."""
        return self.identity if self.phase == "confirm" else f"{self.identity}-{self.phase}"


@dataclass(frozen=True)
class KnownTrial:
    """A trial that the store has a run of."""

    run_id: str
    status: str
    best_valid_mrr: float | None
    epochs: int
    stopped_early: bool
    failure: str
    has_model: bool = False


@dataclass(frozen=True)
class SeedsAsked:
    """The seeds of a language, or training set, of a study that asks for precision.

    Attributes:
        count: number of seeds that all arms are asked for.
        half_width: that the widest difference had when the last decision was made, in MRR; infinite where fewer than
            two seeds of an arm can be compared, None where nothing can.
        why: why no more were asked for; "" while more may be.
    """

    count: int
    half_width: float | None
    why: str


@dataclass(frozen=True)
class TimedTrial:
    """A finished trial and how long it took, in seconds.

    Attributes:
      settings: flat, as the store has them.
      corpus: its fingerprint.
      seconds: from its start to its end.
      epochs: that it trained; fewer than its settings say where it stopped early.
      epoch_seconds: of an epoch with its validation.
      pairs: training pairs of an epoch; 0 if unknown.
      resources: what it ran on; "" if unknown.
    """

    phase: str
    settings: Mapping[str, str]
    corpus: str
    seconds: float
    epochs: int
    epoch_seconds: float
    pairs: float
    resources: str = ""


@dataclass(frozen=True)
class StudyRecord:
    """Keep what the parent run says of a study; all but the name may change with a later launch.

    `seeds` are a list, or the precision that decides how many there are. `text` is the whole study as YAML;
    `definitions` says by a hash what each arm means now: trials of another meaning no longer count.
    `languages` are names, of languages and of training sets; `training_sets` says what the latter are, and
    `definitions` has for each of them, as `arm/name`, a meaning of its own. `models` has hashes of folders of models by
    their names, as they were when the study was first launched. `family` says which differences are corrected for
    together. `is_joint` says that one search went over all arms.
    """

    study: str
    question: str
    baseline: str
    arms: tuple[str, ...]
    languages: tuple[str, ...]
    seeds: tuple[int, ...] | Precision
    corpus: str
    corpus_fingerprint: str
    text: str
    definitions: Mapping[str, str] = field(default_factory=dict)
    training_sets: Mapping[str, TrainingSet] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    family: Family = "study"
    is_joint: bool = False


def definition_of(definitions: Mapping[str, str], arm: str, language: str) -> str | None:
    """What an arm means in a language or training set; None where the record does not say. See `StudyRecord`."""
    return definitions.get(f"{arm}/{language}", definitions.get(arm))


def state_of(status: str) -> str:
    """Return the status of a run or study, or the outcome of a trial, in words.

    A run that an interrupt or a lost launch ended has not failed: it is ``stopped``.
    """
    return {"KILLED": "stopped"}.get(status, status.lower().replace("_", " "))


# Compared by identity: a generated == would compare arrays, which has no single truth value.
@dataclass(frozen=True, eq=False)
class TrialResult:
    """One training run.

    Attributes:
        run_id: the run's identifier in the tracking store; errors and reports name trials by it.
        arm, language, seed: which trial of the study it is; `language` is that of the study, a language or the name
            of a training set.
        phase: ``"search"`` (tuning; never compared) or ``"confirm"`` (full budget; the only kind that is
            compared).
        status: ``"FINISHED"``, ``"FAILED"``, ``"KILLED"`` or ``"RUNNING"``.
        identity: hash of the trial's full configuration, corpus and code; equal identity = same trial.
        settings: flat dotted key -> value as text, e.g. ``{"loss.alpha": "1.5"}``.
        metrics: final values, e.g. ``valid_mrr``, ``test_mrr``, ``test_recall@1``, ``train_seconds``,
            ``pairs_per_second``. ``<split>_codebase``, where present, is the number of codes that every query
            of the split was ranked against. A trial that was tested on several languages has means over them, and
            beside those what each has: ``test_mrr/ruby``.
        reciprocal_ranks: split -> (Q,) float64 in [0, 1], one entry per query, in the corpus' order of
            queries, so that entry i means the same query in every trial of a language. May be empty. Of several
            languages: ``test/ruby``.
        graded_ndcg: the same of the graded nDCG; empty where the corpus does not know which codes share a meaning.
        cut_off: metric, as ``recall@5`` -> the same of it, where queries have several right codes; empty where it
            follows from the reciprocal ranks.
        failure: one line saying why the trial has no result, or "".
        stopped_early: early stopping ended it, before its last epoch; its status is ``"FINISHED"``.

    Raises:
        ValueError: unknown phase or status, or reciprocal ranks of a wrong shape or range.
    """

    run_id: str
    arm: str
    language: str
    seed: int
    phase: Phase
    status: Status
    identity: str
    settings: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    reciprocal_ranks: Mapping[str, np.ndarray] = field(default_factory=dict)
    graded_ndcg: Mapping[str, np.ndarray] = field(default_factory=dict)
    cut_off: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    failure: str = ""
    stopped_early: bool = False

    @property
    def outcome(self) -> str:
        """The status, or ``"STOPPED_EARLY"`` for a finished trial that early stopping ended."""
        return "STOPPED_EARLY" if self.status == "FINISHED" and self.stopped_early else self.status

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("phase", self.phase, get_args(Phase)),
            ("status", self.status, get_args(Status)),
        ):
            if value not in allowed:
                raise ValueError(f"run {self.run_id}: {name} must be one of {', '.join(allowed)}, got {value!r}")
        for split, ranks in self.reciprocal_ranks.items():
            if ranks.ndim != 1:
                raise ValueError(
                    f"run {self.run_id}: reciprocal ranks of {split!r} must have shape (queries,), got {ranks.shape}"
                )
            # Written so that NaN fails too.
            if not bool(np.all((ranks >= 0) & (ranks <= 1))):
                raise ValueError(
                    f"run {self.run_id}: reciprocal ranks of {split!r} must lie in [0, 1], got "
                    f"[{ranks.min()}, {ranks.max()}]; were ranks stored instead of their reciprocals?"
                )


@dataclass(frozen=True, eq=False)
class StudyResults:
    """A study as the tracking store remembers it.

    Attributes:
        study, question: its name and what it asks.
        baseline: the arm that the others are compared with.
        arms, languages: in the order of the study file; languages are names, of languages and training sets.
        training_sets: by name, what is not just a language.
        seeds: the seeds asked for in the ``confirm`` phase; with a precision, in the language that has most.
        corpus_fingerprint: of the data that all trials used.
        trials: every run, of whatever phase and status.
        status: of the study itself, in the words of :class:`TrialResult`.
        family: differences that are corrected for together: of the whole `study`, or of each `language`.
        precision: what decides how many seeds a language has; None: all have the same.
        asked: with a precision, by language what was decided so far.
        left_out: what its budget left out, a sentence without its capital and stop.
        is_joint: one search went over all arms, and only the best of them were confirmed.

    Raises:
        ValueError: a trial of an arm or a language that the study does not have, or a name listed twice.
    """

    study: str
    question: str
    baseline: str
    arms: tuple[str, ...]
    languages: tuple[str, ...]
    seeds: tuple[int, ...]
    corpus_fingerprint: str
    trials: tuple[TrialResult, ...]
    status: str
    training_sets: Mapping[str, TrainingSet] = field(default_factory=dict)
    family: Family = "study"
    precision: Precision | None = None
    asked: Mapping[str, SeedsAsked] = field(default_factory=dict)
    left_out: str = ""
    is_joint: bool = False

    def is_asked(self, arm: str, language: str) -> bool:
        """Return True if an arm is asked for in a language or training set: after a joint search, if it was confirmed
        there."""
        return not self.is_joint or any(
            (trial.arm, trial.language, trial.phase) == (arm, language, "confirm") for trial in self.trials
        )

    def seeds_of(self, language: str) -> tuple[int, ...]:
        """Return the seeds that every arm is asked for in a language or training set."""
        if self.precision is None:
            return self.seeds
        at_least = self.precision.at_least
        asked = self.asked[language].count if language in self.asked else at_least
        return self.precision.first(min(max(asked, at_least), self.precision.at_most))

    def training_set(self, name: str) -> TrainingSet:
        """What a language or training set of the study is trained and tested on."""
        return self.training_sets.get(name) or TrainingSet.of(name)

    def __post_init__(self) -> None:
        for name in ("arms", "languages", "seeds"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"study {self.study}: {name} must not repeat, got {values}")
        for trial in self.trials:
            for name, value, allowed in (
                ("arm", trial.arm, self.arms),
                ("language", trial.language, self.languages),
            ):
                if value not in allowed:
                    raise ValueError(
                        f"study {self.study}: run {trial.run_id} has {name} {value!r}, which is none of the "
                        f"study's ({', '.join(allowed) or 'none'}); add it to the study or leave the run out"
                    )
