"""Is one arm better than another, or was it luck? Intervals, paired tests, corrections; numpy only.

The data of an arm is a matrix of per-query scores (reciprocal ranks, or any other score that is averaged over
queries), shape (S, Q): one row per seed, one column per query. Column i is the same query in every arm. An arm has one
such matrix per language, and its overall mean is that of the languages' means.

Two languages may ask the same queries: versions of one corpus, or judgements that ask each query in all languages.
`units` says which: one array (Q_l,) of whole numbers per language, where equal numbers in two languages are the same
query. Such a query is drawn, and its sign flipped, in all of its languages at once; otherwise three copies of a
language would make an interval narrower by √3 without a single new query. Without `units` no query is shared.

Sources: Efron & Tibshirani, *An Introduction to the Bootstrap*, 1993 (percentile interval); Owen, *The
pigeonhole bootstrap*, 2007 (crossed factors); Field & Welsh, *Bootstrapping clustered data*, 2007; Smucker, Allan &
Carterette, *A comparison of statistical significance tests for information retrieval evaluation*, CIKM 2007
(randomisation test); Phipson & Smyth, *Permutation p-values should never be zero*, 2010; Holm, *A simple sequentially
rejective multiple test procedure*, 1979.
"""

from softnce_ray.statistics.comparing import ArmComparison, compare_arms, holm
from softnce_ray.statistics.intervals import Difference, Interval, overall_difference, overall_mean_interval
from softnce_ray.statistics.scores import same_queries
from softnce_ray.statistics.sign_flips import randomisation_p_values

__all__ = [
    "ArmComparison",
    "Difference",
    "Interval",
    "compare_arms",
    "holm",
    "overall_difference",
    "overall_mean_interval",
    "randomisation_p_values",
    "same_queries",
]
