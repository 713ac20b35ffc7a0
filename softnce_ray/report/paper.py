"""Published numbers beside a study's: which of them stand for which row, and what differs between the experiments.

The numbers are those of Li, Zhou, Tuan, Miao, *Rethinking Negative Pairs in Code Search*, EMNLP 2023, arXiv 2310.08069.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from softnce_ray.report.values import PaperComparison, Published, Report, Row

LANGUAGES = ("ruby", "python", "java", "javascript", "php", "go")

# (loss, estimator, what else tells them apart) -> model -> mean reciprocal rank of each of LANGUAGES.
_KINDS = (
    ("infonce", "none", ""),
    ("soft_infonce", "bm25", ""),
    ("soft_infonce", "trained", ""),
    ("soft_infonce", "simcse", ""),
)
_TABLE_1: dict[str, tuple[tuple[float, ...], ...]] = {
    "CodeBERT": (
        (0.648, 0.636, 0.663, 0.594, 0.615, 0.878),
        (0.660, 0.664, 0.682, 0.600, 0.621, 0.882),
        (0.682, 0.675, 0.682, 0.615, 0.631, 0.898),
        (0.666, 0.668, 0.670, 0.607, 0.623, 0.887),
    ),
    "GraphCodeBERT": (
        (0.705, 0.690, 0.691, 0.647, 0.648, 0.896),
        (0.730, 0.697, 0.698, 0.652, 0.655, 0.892),
        (0.719, 0.692, 0.692, 0.653, 0.648, 0.889),
        (0.721, 0.700, 0.702, 0.656, 0.657, 0.894),
    ),
    "UniXcoder": (
        (0.740, 0.720, 0.726, 0.684, 0.676, 0.915),
        (0.753, 0.728, 0.733, 0.693, 0.684, 0.916),
        (0.753, 0.728, 0.731, 0.694, 0.682, 0.915),
        (0.753, 0.726, 0.731, 0.699, 0.684, 0.913),
    ),
}
# Means of the six languages, estimator SimCSE; table 1 has Soft-InfoNCE itself.
_TABLE_2 = {
    "bce": {"CodeBERT": 0.641, "GraphCodeBERT": 0.679, "UniXcoder": 0.686},
    "weighted_infonce": {"CodeBERT": 0.639, "GraphCodeBERT": 0.674, "UniXcoder": 0.714},
    "kl_regularised": {"CodeBERT": 0.648, "GraphCodeBERT": 0.688, "UniXcoder": 0.716},
}
# GraphCodeBERT on Python.
_TABLE_3 = {
    ("cancel_top_k", "1"): 0.685,
    ("cancel_top_k", "3"): 0.681,
    ("cancel_top_k", "5"): 0.680,
    ("cancel_threshold", "0.7"): 0.689,
    ("cancel_threshold", "0.5"): 0.688,
    ("cancel_threshold", "0.3"): 0.688,
}
# Of the paper's Soft-InfoNCE: alpha, beta, temperature of the weights.
_WEIGHTS = {"bm25": (1.5, 0.5, 1.0), "simcse": (1.3, 0.7, 0.1), "trained": (1.3, 0.7, 5.0)}
# Test queries and codebase of CodeSearchNet as it was cleaned.
_SIZES = {
    "ruby": (1_261, 4_360),
    "python": (14_918, 43_827),
    "java": (10_955, 40_347),
    "javascript": (3_291, 13_981),
    "php": (14_014, 52_660),
    "go": (8_122, 28_120),
}
_SEEDS = {1234, 12345, 123456}
_HUB_NAMES = {"graphcodebert": "GraphCodeBERT", "codebert": "CodeBERT", "unixcoder": "UniXcoder"}

Key = tuple[str, str, str]


def beside_paper(report: Report) -> PaperComparison:
    """What was published for the rows of a report: matched by loss, estimator (with `k` or `ratio` of cancellation) and
    language. A mean over languages matches where it is over the paper's six.

    Only mean reciprocal ranks on test were published: a report of another measure or split has no published rows.
    """
    comparable = report.measure == "reciprocal_rank" and report.split == "test"
    published: list[Published] = []
    unmatched: list[str] = []
    for row in report.rows:
        found = _numbers(_key(report, row), row) if comparable else {}
        base = next(
            (
                each
                for each in report.rows
                if each.arm == report.baseline
                and (each.language, each.training_set) == (row.language, row.training_set)
            ),
            None,
        )
        base_found = _numbers(_key(report, base), base) if base is not None and row.arm != report.baseline else {}
        for model, (table, mrr) in found.items():
            beside = base_found.get(model)
            difference = None if beside is None else round(mrr - beside[1], 3)
            published.append(Published(row.name, row.language, model, table, mrr, difference))
        if not found:
            unmatched.append(row.label)
    return PaperComparison(tuple(published), _set_up(report, published) if published else (), tuple(unmatched))


def _numbers(key: Key | None, row: Row) -> dict[str, tuple[str, float]]:
    """Model -> table and published number."""
    if key is None or row.training_set is not None:  # one model of several languages was not published
        return {}
    loss, estimator, option = key
    if key in _KINDS:
        kind = _KINDS.index(key)
        if row.language in LANGUAGES:
            at = LANGUAGES.index(str(row.language))
            return {model: ("1", numbers[kind][at]) for model, numbers in _TABLE_1.items()}
        if row.language is None and set(row.languages) == set(LANGUAGES):
            return {model: ("1, mean", round(fmean(numbers[kind]), 3)) for model, numbers in _TABLE_1.items()}
    if loss in _TABLE_2 and estimator == "simcse" and set(row.languages) == set(LANGUAGES):
        return {model: ("2", mrr) for model, mrr in _TABLE_2[loss].items()}
    if (loss, option) in _TABLE_3 and estimator == "simcse" and row.language == "python":
        return {"GraphCodeBERT": ("3", _TABLE_3[loss, option])}
    return {}


def _key(report: Report, row: Row) -> Key | None:
    """Loss, estimator and the option that the paper varied; None where the row's languages do not agree."""
    rows = [
        each
        for each in report.rows
        if (each.arm, each.training_set) == (row.arm, row.training_set) and each.language in row.languages
    ]
    keys = {_key_of({**report.common_settings, **each.settings}) for each in rows}
    return keys.pop() if len(keys) == 1 else None


def _key_of(settings: Mapping[str, str]) -> Key | None:
    loss = settings.get("loss.name")
    if loss is None:
        return None
    option = settings.get("loss.k", settings.get("loss.ratio", "")) if loss.startswith("cancel") else ""
    # InfoNCE looks at no estimator, whatever is written beside it.
    return loss, "none" if loss == "infonce" else settings.get("estimator.name", "none"), option


def _set_up(report: Report, published: list[Published]) -> tuple[str, ...]:
    names = {(each.name, each.language) for each in published}
    rows = [row for row in report.rows if (row.name, row.language) in names]
    settings = [{**report.common_settings, **row.settings} for row in rows if row.language is not None]
    told = [
        _encoder(settings),
        f"Corpus: {report.corpus_fingerprint[:12]} here; CodeSearchNet as cleaned for GraphCodeBERT there.",
        _sizes(report, rows),
        _training(settings),
        _score(settings),
        *_weights(rows, report),
    ]
    if set(report.seeds) != _SEEDS:
        told.append(f"Seeds: {', '.join(map(str, report.seeds))} here; 1234, 12345, 123456 there.")
    for key, text in (("mask_duplicates", "duplicates of the right answer"), ("symmetric", "the other direction too")):
        if any(each.get(key) == "True" for each in settings):
            verb = "leaves out" if key == "mask_duplicates" else "has"
            told.append(f"Loss: an arm here {verb} {text}; the paper's does not.")
    for part, text in (("lora", "trains adapters alone (LoRA)"), ("freeze", "freezes a part of the encoder")):
        if any(key.startswith(f"encoder.{part}.") for each in settings for key in each):
            told.append(f"Encoder: an arm here {text}; the paper's train all of it.")
    return tuple(each for each in told if each)


def _values(settings: Sequence[Mapping[str, str]], key: str) -> str:
    """The values of a setting among the rows."""
    found = dict.fromkeys(value for each in settings if (value := each.get(key)) is not None)
    return ", ".join(found) or "not recorded"


def _encoder(settings: Sequence[Mapping[str, str]]) -> str:
    kind, model = _values(settings, "encoder.kind"), _values(settings, "encoder.model")
    known = kind if kind in _HUB_NAMES else model.lower().replace("-", "").split("/")[-1]
    same = [name for part, name in _HUB_NAMES.items() if part in known][:1]
    if same and kind != "bag":
        return f"Encoder: {model} here as there ({same[0]}); the numbers of the other models are of other encoders."
    if kind == "bag":
        ours = f"a bag of embeddings of width {_values(settings, 'encoder.width')}, trained from scratch"
    else:
        ours = kind if model in ("none", "not recorded") else f"{kind} {model}"
    return (
        f"Encoder: {ours} here; CodeBERT, GraphCodeBERT, UniXcoder (transformers trained on code before) there: "
        "compare the differences, not the numbers."
    )


def _sizes(report: Report, rows: list[Row]) -> str:
    parts = []
    for language in dict.fromkeys(each for row in rows for each in row.languages):
        if language in _SIZES and language in report.queries:
            queries, codes = _SIZES[language]
            ours = f"{report.codebase[language]:,}" if language in report.codebase else "an unknown number of"
            parts.append(
                f"{language} {report.queries[language]:,} queries among {ours} codes here, "
                f"{queries:,} among {codes:,} there"
            )
    if not parts:
        return ""
    return f"Codebase: {'; '.join(parts)}: the more codes, the harder the query. There, ranks past 1,000 count as 0."


def _training(settings: Sequence[Mapping[str, str]]) -> str:
    batch, rate, epochs = (_values(settings, f"training.{key}") for key in ("batch_size", "learning_rate", "epochs"))
    return (
        f"Training: batch size {batch}, learning rate {rate}, {epochs} epochs here; there batch size 32 (CodeBERT, "
        "GraphCodeBERT) or 64 (UniXcoder), learning rate 1e-6 (CodeBERT) or 2e-5."
    )


def _score(settings: Sequence[Mapping[str, str]]) -> str:
    similarity = _values(settings, "similarity")
    if similarity == "dot":
        return ""
    return f"Score: {similarity} at temperature {_values(settings, 'temperature')} here; raw dot products there."


def _weights(rows: list[Row], report: Report) -> list[str]:
    """Where Soft-InfoNCE's own settings are not the published ones: a sentence for each arm."""
    told: dict[str, None] = {}
    for row in rows:
        settings = {**report.common_settings, **row.settings}
        expected = _WEIGHTS.get(settings.get("estimator.name", ""))
        if row.language is None or settings.get("loss.name") != "soft_infonce" or expected is None:
            continue
        alpha, beta, temperature = (
            settings.get(key, "?") for key in ("loss.alpha", "loss.beta", "estimator.temperature")
        )
        beta = _or_else(beta, alpha)
        if [_number(each) for each in (alpha, beta, temperature)] != list(expected):
            shown = ", ".join(_short(each) for each in (alpha, beta, temperature))
            published = ", ".join(f"{each:g}" for each in expected)
            told[f"{row.label}: alpha, beta and weight temperature {shown} here; {published} there."] = None
    return list(told)


def _or_else(beta: str, alpha: str) -> str:
    """Beta left open is 2 - alpha."""
    value = _number(alpha)
    return str(2 - value) if beta == "none" and value is not None else beta


def _number(text: str) -> float | None:
    try:
        return round(float(text), 6)
    except ValueError:
        return None


def _short(text: str) -> str:
    value = _number(text)
    return text if value is None else f"{value:.4g}"
