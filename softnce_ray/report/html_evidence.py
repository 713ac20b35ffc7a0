"""Parts of the page that show what stands behind the table: curves, queries, searches, diagnostics, time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from html import escape

from softnce_ray.report import plots_arms, plots_search
from softnce_ray.report.evidence import DIAGNOSTICS, CellSearch, Change, Cost, Curve, Duel, Evidence
from softnce_ray.report.values import Report
from softnce_ray.report.wording import signed

_LONGEST_CODE = 6_000
_OPEN_SEARCHES = 4
"""Searches of more cells than this are folded up but for the first."""

_MEANINGS = {
    "weight_entropy": ("entropy of the estimator's weights p [nats]", "It is log(N − 1) where they are uniform."),
    "kl_negatives": (
        "KL(p ‖ softmax of the negatives' scores) [nats]",
        "It is 0 where the model agrees with the estimator.",
    ),
    "floor_share": ("share of negatives at the least weight", "Of all negatives of a batch."),
    "information": (
        "log N − loss [nats]",
        "A lower bound of the information that queries and codes share, at most log N.",
    ),
    "alignment": ("alignment: mean |q − c|²", "It is 0 where queries lie on their codes, 2 where they are unrelated."),
    "uniformity_queries": ("uniformity of the queries", "The lower, the more evenly they spread."),
    "uniformity_codes": ("uniformity of the codes", "The lower, the more evenly they spread."),
}


def curves_part(report: Report, evidence: Evidence, classes: Mapping[str, str]) -> str:
    by_language = _grouped([curve for curve in evidence.curves if curve.metric == "valid_mrr"])
    if not by_language:
        return ""
    parts = [
        paragraph("Mean validation MRR of the confirm trials; the band reaches from the least to the greatest seed."),
        _legend(evidence.curves, classes),
    ]
    figures = [
        figure(f"{language} (n = {_n(curves)} a curve)", plots_arms.learning(curves, "valid MRR", classes))
        for language, curves in by_language.items()
    ]
    return "".join(parts) + f'<div class="pictures">{"".join(figures)}</div>'


def diagnostics_part(evidence: Evidence, classes: Mapping[str, str]) -> str:
    parts = []
    for metric in DIAGNOSTICS:
        figures = [
            figure(
                f"{language} (n = {_n(curves)} a curve)",
                plots_arms.learning(curves, metric.replace("_", " "), classes),
            )
            for language, curves in _grouped([each for each in evidence.curves if each.metric == metric]).items()
        ]
        if figures:
            name, meaning = _MEANINGS[metric]
            parts.append(f'<h3>{escape(name)}</h3>{paragraph(meaning)}<div class="pictures">{"".join(figures)}</div>')
    curves = [curve for curve in evidence.curves if curve.metric in DIAGNOSTICS]
    return _legend(curves, classes) + "".join(parts) if parts else ""


def _grouped(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(curve.language, []).append(curve)
    return groups


def _n(curves: Sequence[Curve]) -> str:
    most = sorted({max(curve.seeds) for curve in curves})
    few = str(most[0]) if len(most) == 1 else f"{most[0]} to {most[-1]}"
    return f"{few} seed{'' if few == '1' else 's'}"


def _legend(curves: Sequence[Curve], classes: Mapping[str, str]) -> str:
    return arm_legend({curve.arm for curve in curves}, classes, any(curve.name != curve.arm for curve in curves))


def arm_legend(drawn: Set[str], classes: Mapping[str, str], dashed: bool = False) -> str:
    """The colours of the arms that are drawn; `dashed`: some lines are of training sets."""
    arms = [arm for arm in classes if arm in drawn]
    entries = [f'<li class="{classes[arm]}"><i></i>{escape(arm)}</li>' for arm in arms if classes[arm] != "rest"]
    rest = sum(classes[arm] == "rest" for arm in arms)
    if rest:
        entries.append(f'<li class="rest"><i></i>{rest} other arms</li>')
    if dashed:
        entries.append('<li class="sets"><i></i>dashed: one model of several languages</li>')
    return f'<ul class="legend">{"".join(entries)}</ul>'


def duel_part(report: Report, duel: Duel, classes: Mapping[str, str]) -> str:
    measure = {"reciprocal_rank": "reciprocal rank", "graded_ndcg": "nDCG"}[report.measure]
    arm = next(row.arm for row in report.rows if row.name == duel.name)
    told = (
        f"{duel.name} against {duel.against} on {duel.language}: {duel.wins:,} queries won, {duel.losses:,} lost, "
        f"{duel.ties:,} equal (seed-averaged {measure})"
    )
    parts = [figure(told, plots_arms.changes(duel, measure, classes[arm]))]
    for heading, changed in (("Gained most", duel.gained), ("Lost most", duel.lost)):
        if changed:
            rows = "".join(_change(each) for each in changed)
            parts.append(
                f'<div class="wide"><table class="queries"><caption>{heading}, {escape(duel.language)}</caption>'
                "<thead><tr>"
                f'<th class="l">query</th><th>{escape(duel.name)}</th><th>{escape(duel.against)}</th>'
                f'<th class="r">difference</th></tr></thead><tbody>{rows}</tbody></table></div>'
            )
    return "".join(parts)


def _change(change: Change) -> str:
    sign = signed(change.difference, 3)
    if change.text is None:
        query = f"<code>{escape(change.id)}</code>"
    else:
        code = change.text.code
        cut = "" if len(code) <= _LONGEST_CODE else f"\n… ({len(code) - _LONGEST_CODE:,} characters more)"
        query = (
            f"<details><summary>{escape(change.text.query)}</summary><p>{escape(change.text.where)}</p>"
            f"<pre>{escape(code[:_LONGEST_CODE] + cut)}</pre></details>"
        )
    return f"<tr><td>{query}</td><td>{change.ours:.3f}</td><td>{change.theirs:.3f}</td><td>{sign}</td></tr>"


def searches_part(evidence: Evidence) -> str:
    if not evidence.searches:
        return ""
    few = len(evidence.searches) <= _OPEN_SEARCHES
    parts = [
        paragraph(
            "A point or line is a search trial, its colour the best validation MRR; small or dashed: it was stopped "
            "early, failed, or still runs. A ring: the configuration that was confirmed."
        )
    ]
    for number, search in enumerate(evidence.searches):
        opened = " open" if few or number == 0 else ""
        parts.append(f"<details{opened}><summary>{escape(_search_line(search))}</summary>{_search(search)}</details>")
    return "".join(parts)


def _search_line(search: CellSearch) -> str:
    states: dict[str, int] = {}
    for trial in search.trials:
        states[trial.state] = states.get(trial.state, 0) + 1
    values = [trial.value for trial in search.trials if trial.value is not None]
    best = f"; best validation MRR {max(values):.4f}" if values else ""
    counted = ", ".join(f"{n} {state}" for state, n in states.items())
    return f"{search.arm}, {search.language}: {len(search.trials)} trials ({counted}){best}"


def _search(search: CellSearch) -> str:
    settings = plots_search.settings_of(search)
    if not settings:
        return paragraph("All its trials had the same settings.")
    n = f"n = {sum(trial.value is not None for trial in search.trials)} trials"
    figures = []
    if len(settings) == 1:
        figures.append((f"{settings[0].label} ({n})", plots_search.single(search, settings[0])))
    else:
        first, second = plots_search.drawn_pair(settings)
        figures.append((f"{first.label} and {second.label} ({n})", plots_search.pair(search, first, second)))
    if len(settings) > 2:
        figures.append((f"All settings ({n})", plots_search.parallel(search, settings)))
    if search.importances:
        finished = sum(trial.state == "finished" for trial in search.trials)
        figures.append((f"Which settings mattered (n = {finished} finished trials)", plots_search.importances(search)))
    return f'<div class="pictures">{"".join(figure(told, picture) for told, picture in figures if picture)}</div>'


def costs_part(report: Report, found: Sequence[Cost], classes: Mapping[str, str]) -> str:
    if not found:
        return ""
    by_language: dict[str, list[Cost]] = {}
    for cost in found:
        by_language.setdefault(cost.language, []).append(cost)
    figures = [
        figure(language, plots_arms.costs(of_language, classes)) for language, of_language in by_language.items()
    ]
    confirm = sum(cost.trials * cost.epochs * cost.seconds for cost in found)
    search = sum(cost.search_seconds for cost in found)
    searched = sum(cost.search_trials for cost in found)
    told = (
        "Training time of a confirm trial's last epoch: the mean, and a line from the least to the greatest of the "
        f"trials; without preparation and evaluation. In all about {_duration(confirm)} of training in "
        f"{sum(cost.trials for cost in found)} confirm trials"
        + (f" and {_duration(search)} in {searched} search trials." if searched else ".")
    )
    return paragraph(told) + f'<div class="pictures">{"".join(figures)}</div>'


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"


def figure(caption: str, picture: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{picture}</figure>"


def paragraph(content: str, style: str = "") -> str:
    return f"<p{f' class={style}' if style else ''}>{escape(content)}</p>" if content else ""
