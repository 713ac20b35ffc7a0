"""Is one arm better than another, or was it luck? Intervals, tests, corrections, power.

The data of an arm is a matrix of per-query scores (reciprocal ranks, or any other score that is averaged over
queries), shape (S, Q): one row per seed, one column per query. Column i is the same query in every arm. An arm has one
such matrix per language, and its overall mean is that of the languages' means.

Two languages may ask the same queries: versions of one corpus, or judgements that ask each query in all languages.
`units` says which: one array (Q_l,) of whole numbers per language, where equal numbers in two languages are the same
query. Such a query is one draw in all of its languages; otherwise three copies of a language would make an interval
narrower by √3 without a single new query. Without `units` no query is shared.

`difference` is what everything here uses: interval, p and components of one model, see
:mod:`softnce_ray.statistics.random_effects`. `randomisation_p_values` answers another question, whether *these* trained
models would differ on other queries.

Sources: those of that module; Smucker, Allan & Carterette, *A comparison of statistical significance tests for
information retrieval evaluation*, CIKM 2007 (randomisation test); Phipson & Smyth, *Permutation p-values should never
be zero*, 2010; Holm, *A simple sequentially rejective multiple test procedure*, 1979.
"""

from softnce_ray.statistics.comparing import (
    INFERENCES,
    ArmComparison,
    Inference,
    compare_arms,
    holm,
    simultaneous_levels,
)
from softnce_ray.statistics.power import Design, detectable, power_of, queries_needed, seeds_needed
from softnce_ray.statistics.random_effects import Components, Difference, Interval, difference, mean_interval
from softnce_ray.statistics.scores import same_queries
from softnce_ray.statistics.sign_flips import randomisation_p_values

__all__ = [
    "INFERENCES",
    "ArmComparison",
    "Components",
    "Design",
    "Difference",
    "Inference",
    "Interval",
    "compare_arms",
    "detectable",
    "difference",
    "holm",
    "mean_interval",
    "power_of",
    "queries_needed",
    "randomisation_p_values",
    "same_queries",
    "seeds_needed",
    "simultaneous_levels",
]
