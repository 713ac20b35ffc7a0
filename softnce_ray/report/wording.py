"""The words of a report that its renderings share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from softnce_ray.ranks_file import Measure
from softnce_ray.report.values import OVERALL, Problem, Report, Row, family_of
from softnce_ray.statistics import Interval

NOTHING = "–"
FEW_QUERIES = 30
"""Below, the number of queries stands beside every interval."""
MEASURES: dict[Measure, tuple[str, str]] = {
    "reciprocal_rank": ("MRR", "Mean reciprocal rank"),
    "graded_ndcg": ("nDCG", "Mean nDCG of the whole ranking (grade 2: the query's own code, 1: codes of its meaning)"),
}


def method_line(report: Report) -> str:
    """What exactly was computed, in a few sentences on one line."""
    sizes = "; ".join(
        f"{language} {n:,} queries"
        + (f" among {report.codebase[language]:,} codes" if language in report.codebase else "")
        for language, n in report.queries.items()
    )
    overall = any(row.language is None for row in report.rows)
    return (
        f"{MEASURES[report.measure][1]} on {report.split} ({sizes or 'no queries yet'}; "
        f"corpus {report.corpus_fingerprint[:12]}). {inference_text(report)} Spread: standard deviation over seeds."
        + (f" Overall: mean over languages.{shared_text(report)}" if overall else "")
        + _training_sets_text(report)
    )


def inference_text(report: Report) -> str:
    """Return what intervals and p are of, and for how many comparisons they are corrected."""
    level = percent(report.level)
    if report.inference == "these-models":
        text = (
            f"Intervals ({level}) and p speak of these trained models on other queries and say nothing of other seeds: "
            "Student's interval over queries of the seed-averaged values; two-sided paired sign-flip test, "
            f"{report.permutations:,} permutations."
        )
    else:
        text = (
            f"Intervals ({level}) and p speak of other seeds and other queries: crossed random effects of both, "
            "Satterthwaite's degrees of freedom."
        )
    compared = Counter(family_of(row.languages, report.family) for row in report.rows if row.together)
    if max(compared.values(), default=0) > 1:
        count = "Both" if compared.total() == 2 else f"All {compared.total()}"
        whose = f"{count} differences from {report.baseline} are one family"
        if report.family == "language":
            whose = f"The differences from {report.baseline} in each language are a family"
        text += f" {whose}: p is Holm-corrected, and their intervals hold together."
    return text


def p_heading(report: Report) -> str:
    """Return what stands over p."""
    return "p (Holm, these models)" if report.inference == "these-models" else "p (Holm)"


def shared_text(report: Report) -> str:
    """Which queries count as the same in means over languages, after another sentence."""
    if not report.shared:
        return " Queries of different languages are taken to be different."
    found = "".join(
        f" {_and(each.languages)} are taken to ask the same queries in the same order, since their values go together "
        f"(correlation {each.correlation:.2f}{' or more' if len(each.languages) > 2 else ''}; the runs do not say it): "
        "overall, each counts as one draw."
        for each in report.shared
    )
    others = set(report.queries) - {language for each in report.shared for language in each.languages}
    return found + (" All others are taken to be different." if others else "")


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _training_sets_text(report: Report) -> str:
    """What the rows of training sets are, after another sentence; nothing where there are none."""
    if not report.training_sets:
        return ""
    names = ", ".join(f"[{name}] on {', '.join(languages)}" for name, languages in report.training_sets.items())
    return (
        f" Rows with brackets are of one model trained on all of these together: {names}; they are compared with "
        f"{report.baseline} trained on the same."
    )


def differing(report: Report) -> list[str]:
    """A line for each arm's settings; for each of its languages where they are not the same in all."""
    languages: dict[tuple[str, str], list[str]] = {}
    for row in report.rows:
        if row.language is not None and row.settings:
            languages.setdefault((row.name, settings_text(row.settings)), []).append(row.language)
    names = [name for name, _ in languages]
    return [
        f"{name}: {text}" if names.count(name) == 1 else f"{name}, {', '.join(found)}: {text}"
        for (name, text), found in languages.items()
    ]


def language_text(report: Report, row: Row) -> str:
    """The row's language; of a mean over some of the languages, which."""
    if row.language is not None:
        return row.language
    every = {row.language for row in report.rows} - {None}
    return OVERALL if set(row.languages) == every else f"{OVERALL} ({', '.join(row.languages)})"


def bounds(interval: Interval, number: Callable[[float], str]) -> str:
    """The interval for people; of few queries, how many they are: one query says nothing of others."""
    if interval.queries == 1:
        return "[none of 1 query]"
    few = f" of {interval.queries} queries" if interval.queries < FEW_QUERIES else ""
    return f"[{number(interval.low)}, {number(interval.high)}]{few}"


def signed(value: float, digits: int = 4) -> str:
    """With its sign and a true minus; what rounds to nothing has no sign, which would claim a direction."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if text.strip("+−0.") else text[1:]


def percent(level: float) -> str:
    return f"{100 * level:g} %"


def legend(report: Report) -> str:
    return f"≈: not significantly different from it ({p_heading(report)} ≥ {1 - report.level:.2g})."


def p_text(p: float) -> str:
    """Return a p-value with three decimals."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def settings_text(settings: Mapping[str, str]) -> str:
    """Settings by their whole names, as a study file and MLflow have them: the last part of one says little alone."""
    return ", ".join(f"{key}={_short(settings[key])}" for key in sorted(settings))


def _short(value: str) -> str:
    """Four digits of what is a fraction: the JSON has them all."""
    try:
        return f"{float(value):.4g}" if len(value) > 6 and "." in value else value
    except ValueError:
        return value


def problem_text(problem: Problem) -> str:
    seeds = f"seed{'s' if len(problem.seeds) > 1 else ''} {', '.join(map(str, problem.seeds))}"
    plural = "s" if len(problem.run_ids) > 1 else ""
    runs = f" (run{plural} {', '.join(problem.run_ids)})" if problem.run_ids else ""
    phase = "search trial " if problem.phase == "search" else ""
    reason = f": {problem.reason}" if problem.reason else ""
    return f"{problem.arm}, {problem.language}: {phase}{problem.kind}, {seeds}{runs}{reason}"
