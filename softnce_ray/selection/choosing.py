"""Which arm is best by validation, and which of its models; pure functions of a study's results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from softnce_ray.results import StudyResults, TrialResult
from softnce_ray.selection.values import (
    Candidate,
    Choice,
    Cost,
    Metric,
    Recorded,
    Rule,
    Scales,
    SelectionError,
    digest_of,
)
from softnce_ray.statistics import Difference, difference, mean_interval

_UNFINISHED = "seeds finished"
_SAME_SPEED = 1.1
"""Latencies within a tenth are the same: the next measurement would order them otherwise."""


def best_trial(results: StudyResults, *, arm: str | None = None, language: str | None = None) -> TrialResult:
    """The trial that `choose` with its defaults takes: the best seed of the arm with the best mean validation MRR. It
    needs no ranks of queries, only each trial's `best_valid_mrr`.

    Raises:
      SelectionError: as of `choose`.
    """
    name = language_of(results, language)
    complete, left_out = _complete(results, name, arm)
    if not complete:
        raise _nothing(results, name, left_out)

    def value(trial: TrialResult) -> float:
        return trial.metrics["best_valid_mrr"]

    trials = max(complete.values(), key=lambda each: float(np.mean([value(trial) for trial in each])))
    return max(trials, key=value)


def choose(
    results: StudyResults,
    *,
    language: str | None = None,
    arm: str | None = None,
    metric: Metric = "mrr",
    rule: Rule = "best",
    max_latency_ms: float | None = None,
    max_size_mb: float | None = None,
    scales: Scales | None = None,
) -> Choice:
    """Choose an arm by its mean validation metric over seeds, then the best of its seeds' models.

    Only arms take part of which every seed of the study has a finished confirm trial. Trials of a search are never
    chosen: the best of many is better on validation than it is.

    Rules:
      best: the arm with the best mean.
      one-standard-error: of the arms whose mean lies at most one standard error behind the best mean the cheapest:
        that with the fewest parameters; of equal ones the fastest, where latencies within 10 % of the lowest are equal;
        of these the one with the best mean. The standard error is that of the difference of the two means, paired by
        query and seed, over other queries and seeds.
        (Breiman et al. take the error of the best one's own estimate; here all arms answer the same queries, which
        takes most of that error out.) An arm that keeps no model is not preferred: its cost is unknown.

    Args:
      results: with validation ranks.
      language: as in the study, training sets included; needed when there are several.
      arm: only this one.
      metric: mean over queries; that of several languages is their mean.
      max_latency_ms: of the median time to encode one query; measured after the size, only of arms that pass it.
      max_size_mb: 10^6 bytes of the model's files.
      scales: needed by limits and by one-standard-error.

    Raises:
      SelectionError: an unknown language, arm or metric, or no arm that can be chosen.

    Source: Breiman, Friedman, Olshen, Stone, Classification and Regression Trees, 1984, section 3.4.3.
    """
    name = language_of(results, language)
    complete, left_out = _complete(results, name, arm)
    if not complete:
        raise _nothing(results, name, left_out)
    considered = digest_of(trial for trials in complete.values() for trial in trials)
    candidates = _compared(results, name, complete, metric)
    limits: dict[str, float] = {}
    if max_size_mb is not None:
        limits["size_mb"] = max_size_mb
        candidates = _small_enough(candidates, max_size_mb, _needed(scales), left_out)
    if max_latency_ms is not None:
        limits["latency_ms"] = max_latency_ms
        candidates = _fast_enough(candidates, max_latency_ms, _needed(scales), left_out)
    if not candidates:
        raise _nothing(results, name, left_out)
    candidates = _behind(candidates)
    chosen, notes = candidates[0], []
    if rule == "one-standard-error":
        candidates = _priced(candidates, _needed(scales))
        chosen = _cheapest([each for each in candidates if _within(each)])
    others = [each for each in candidates if each.arm != chosen.arm]
    runner_up = others[0] if others else None
    means = [float(np.mean([scores[row].mean() for scores in chosen.scores])) for row in range(len(chosen.trials))]
    trial = chosen.trials[int(np.argmax(means))]
    if scales is not None and scales.size(trial) is None:
        notes.append(
            f"run {trial.run_id} keeps no model: of each arm and language only the trial with the best validation MRR "
            "does"
        )
    if (count := len(results.seeds_of(name))) < 3:
        notes.append(f"{count} seed(s): the intervals say little of what another seed would give")
    return Choice(
        study=results.study,
        language=name,
        metric=metric,
        rule=rule,
        limits=limits,
        chosen=chosen,
        trial=trial,
        runner_up=runner_up,
        difference=None if runner_up is None else _difference(chosen, runner_up),
        candidates=tuple(candidates),
        left_out=left_out,
        notes=tuple(notes),
        considered=considered,
    )


def as_recorded(results: StudyResults, language: str, record: Mapping[str, Any] | None) -> Recorded | None:
    """A choice as `values.as_plain` wrote it down, put beside the study as it is now; None for no such record."""
    if record is None or not {"arm", "metric", "rule", "run_id"} <= record.keys():
        return None
    complete, _ = _complete(results, language, None)
    now = {trial.run_id: trial for trials in complete.values() for trial in trials}
    trial = now.get(record["run_id"])
    return Recorded(
        arm=record["arm"],
        metric=record["metric"],
        rule=record["rule"],
        limits=record.get("limits") or {},
        trial=trial,
        current=trial is not None and record.get("considered") == digest_of(now.values()),
    )


def language_of(results: StudyResults, language: str | None) -> str:
    """The language, or training set, that is meant.

    Raises:
      SelectionError: there is no such one, or none is named and there are several.
    """
    if language is None:
        if len(results.languages) > 1:
            raise SelectionError(
                f"study {results.study} has a model for each language: give --language; possible: "
                f"{', '.join(results.languages)}"
            )
        return results.languages[0]
    if language not in results.languages:
        raise SelectionError(
            f"expected a language of study {results.study}, got {language!r}; possible: {', '.join(results.languages)}"
        )
    return language


def _complete(
    results: StudyResults, language: str, arm: str | None
) -> tuple[dict[str, tuple[TrialResult, ...]], dict[str, str]]:
    """Arm → its finished confirm trials, one for each seed in the study's order; and why other arms are left out."""
    if arm is not None and arm not in results.arms:
        raise SelectionError(
            f"expected an arm of study {results.study}, got {arm!r}; possible: {', '.join(results.arms)}"
        )
    complete: dict[str, tuple[TrialResult, ...]] = {}
    left_out: dict[str, str] = {}
    seeds = results.seeds_of(language)
    for name in results.arms if arm is None else (arm,):
        of_seed = {
            trial.seed: trial
            for trial in results.trials
            if (trial.arm, trial.language, trial.phase, trial.status) == (name, language, "confirm", "FINISHED")
            and trial.seed in seeds
        }
        if len(of_seed) == len(seeds):
            complete[name] = tuple(of_seed[seed] for seed in seeds)
        else:
            left_out[name] = f"{len(of_seed)} of {len(seeds)} {_UNFINISHED}"
    return complete, left_out


def _nothing(results: StudyResults, language: str, left_out: Mapping[str, str]) -> SelectionError:
    reasons = "; ".join(f"{arm}: {reason}" for arm, reason in left_out.items())
    unfinished = all(reason.endswith(_UNFINISHED) for reason in left_out.values())
    advice = (
        "an arm can be chosen when all its seeds have finished: launch the study to its end"
        if unfinished
        else "allow more, or launch the study to its end"
    )
    return SelectionError(f"study {results.study} has no arm to choose in {language} ({reasons}): {advice}")


def _compared(
    results: StudyResults, language: str, complete: Mapping[str, tuple[TrialResult, ...]], metric: Metric
) -> list[Candidate]:
    """The arms by their means, the best first; of equal ones the study's first."""
    tested = results.training_set(language).test
    keys = ["valid"] if len(tested) == 1 else [f"valid/{each}" for each in tested]
    candidates = []
    for arm, trials in complete.items():
        scores = tuple(np.stack([_values(trial, key, metric) for trial in trials]) for key in keys)
        candidates.append(Candidate(arm, trials, scores, mean_interval(scores, same_models=True)))
    queries = {tuple(each.shape[1] for each in candidate.scores) for candidate in candidates}
    if len(queries) > 1:
        raise SelectionError(
            f"expected the same validation queries in all arms of {language}, got {sorted(queries)} of them: launch "
            "the study again on one corpus"
        )
    return sorted(candidates, key=lambda each: -each.mean.mean)


def _values(trial: TrialResult, key: str, metric: Metric) -> np.ndarray:
    """(Q,) values of a trial's queries."""
    kept = trial.graded_ndcg if metric == "graded_ndcg" else trial.reciprocal_ranks
    if key not in kept:
        raise SelectionError(
            f"expected {metric} of {key} in run {trial.run_id} ({trial.arm} seed {trial.seed}), got none: "
            + (
                "this corpus does not know which codes share a meaning"
                if metric == "graded_ndcg"
                else "launch it again"
            )
        )
    if metric in ("mrr", "graded_ndcg"):
        return kept[key]
    if key in trial.cut_off.get(metric, {}):
        return trial.cut_off[metric][key]
    rank = np.round(2 / kept[key]) / 2  # ties make halves
    cutoff = int(metric.partition("@")[2])
    gain = 1 / np.log2(1 + rank) if metric == "ndcg@10" else np.ones(len(rank))
    return np.where(rank <= cutoff, gain, 0.0)


def _needed(scales: Scales | None) -> Scales:
    if scales is None:
        raise ValueError("expected scales: limits and the rule one-standard-error need costs")
    return scales


def _small_enough(
    candidates: Sequence[Candidate], megabytes: float, scales: Scales, left_out: dict[str, str]
) -> list[Candidate]:
    kept = []
    for candidate in candidates:
        size = _kept(candidate, scales)
        if size is None:
            left_out[candidate.arm] = "keeps no model, so its size is not known"
        elif size[1] > megabytes * 1e6:
            left_out[candidate.arm] = f"{size[1] / 1e6:.2f} MB, over {megabytes:g}"
        else:
            kept.append(replace(candidate, cost=Cost(size[1])))
    return kept


def _fast_enough(
    candidates: Sequence[Candidate], milliseconds: float, scales: Scales, left_out: dict[str, str]
) -> list[Candidate]:
    kept = []
    for candidate in _priced(candidates, scales):
        if candidate.cost is None or candidate.cost.milliseconds is None:
            left_out[candidate.arm] = "keeps no model, so its latency cannot be measured"
        elif candidate.cost.milliseconds > milliseconds:
            left_out[candidate.arm] = f"{candidate.cost.milliseconds:.2f} ms, over {milliseconds:g}"
        else:
            kept.append(candidate)
    return kept


def _kept(candidate: Candidate, scales: Scales) -> tuple[TrialResult, int] | None:
    """The trial that keeps a model, and the model's bytes: the seeds of an arm differ in numbers, not in size."""
    for trial in candidate.trials:
        size = scales.size(trial)
        if size is not None:
            return trial, size
    return None


def _priced(candidates: Sequence[Candidate], scales: Scales) -> list[Candidate]:
    """With their whole costs, where these can be known."""
    priced = []
    for candidate in candidates:
        if candidate.cost is None or candidate.cost.milliseconds is None:
            kept = _kept(candidate, scales)
            candidate = candidate if kept is None else replace(candidate, cost=scales.speed(kept[0]))
        priced.append(candidate)
    return priced


def _behind(candidates: Sequence[Candidate]) -> list[Candidate]:
    first, *others = candidates
    return [
        first,
        *(replace(each, behind=_difference(first, each)) for each in others),
    ]


def _difference(a: Candidate, b: Candidate) -> Difference:
    """Return the mean of a minus that of b, whose seeds are the same."""
    return difference(a.scores, b.scores, same_models=True)


def _within(candidate: Candidate) -> bool:
    """Whether an arm lies at most one standard error behind the best one."""
    return candidate.behind is None or candidate.behind.mean <= candidate.behind.standard_error


def _cheapest(candidates: Sequence[Candidate]) -> Candidate:
    """See `choose`; `candidates` come by their means, the best first."""
    priced = [(each, each.cost.parameters, each.cost.milliseconds) for each in candidates if each.cost is not None]
    if candidates[0].cost is None or not priced:
        return candidates[0]
    fewest = min(parameters or 0 for _, parameters, _ in priced)
    small = [(each, speed or 0.0) for each, parameters, speed in priced if (parameters or 0) == fewest]
    quickest = min(speed for _, speed in small)
    return next(each for each, speed in small if speed <= _SAME_SPEED * quickest)
