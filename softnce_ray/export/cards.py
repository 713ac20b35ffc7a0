"""The model card of an exported folder: what the model is, what it was made of, how to use it, and what was checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from softnce_ray.commands import command
from softnce_ray.config import BagEncoder, FineTuned
from softnce_ray.corpus.store import Corpus
from softnce_ray.encoders import Bag, Transformer
from softnce_ray.export.checking import TOLERANCE, Checked
from softnce_ray.model import Model
from softnce_ray.results import StudyResults, TrialResult

_SHOWN = 40
"""Packages that a card names at most."""


@dataclass(frozen=True)
class Origin:
    """Where a model comes from; `corpus` is None where its folder was not at hand, `table` is Markdown, `chosen` says
    in a sentence why this trial."""

    results: StudyResults
    trial: TrialResult
    corpus: Corpus | None
    table: str
    chosen: str


def card(
    origin: Origin, model: Model, name: str, library: str, recipe: str, checked: Checked, more: Sequence[str] = ()
) -> str:
    """The card of one format, as Markdown with Hugging Face's header."""
    results, trial = origin.results, origin.trial
    sections = [
        f"---\n{_library(model, library)}pipeline_tag: {_TAGS.get(name, 'feature-extraction')}\n---\n"
        f"# {results.study}: {trial.arm}, {trial.language}",
        "A dual encoder for code search: queries and functions become vectors, and the closest function answers. "
        f"{_encoder(model)} {origin.chosen}",
        f'## Use\n\n{_use(model, name)}\n\n```python\nfolder = "path/to/this/folder"\n\n{recipe}```\n\n{_sides(model)}',
        *more,
        f"## What was checked\n\n{_checked(checked)}",
        f"## Results of the study\n\n{origin.table}\n\nThis model:\n\n{_scores(trial)}",
        f"## Data\n\n{_data(origin)}",
        "## Intended use and limits\n\n"
        "Ranking the functions of a code base by a question in natural language. It was trained on "
        f"{', '.join(results.training_set(trial.language).train)} with functions' documentation as queries: other "
        "languages, other ways of asking, and functions longer than it reads are outside of what was measured. A score "
        "says which function is closer, not that any of them is right; nothing is known of its use for finding copies, "
        "authors or faults.",
        f"## Settings\n\n{_settings(trial)}\n\nRun `{trial.run_id}`, seed {trial.seed}, identity `{trial.identity}`.",
    ]
    return "\n\n".join(sections) + "\n"


_TAGS = {"sentence-transformers": "sentence-similarity"}


def _use(model: Model, name: str) -> str:
    if model.graph_limits is None:
        return _USE[name]
    return (
        "`encode` gives the trained vectors. It needs softnce_ray, which extracts the data flow of functions, and the "
        "language of each. Its `index`, `search` and `evaluate` take the folder as it is:"
    )


_USE = {
    "hf": "`encode` gives the trained vectors:",
    "sentence-transformers": "`SentenceTransformer(folder).encode(texts)` reads texts as code. With the lengths and "
    "prompts that training had for both sides:",
    "onnx": "`model.onnx` takes `input_ids` and `attention_mask`, int64 of any number of texts and any length, and "
    "gives `vectors`, float32. With onnxruntime and tokenizers alone:",
    "mlflow": "mlflow, onnxruntime and tokenizers suffice; torch is not needed. `predict` takes a list, an array or a "
    "series of texts, or a frame whose one column is `text`:",
}


def served(folder: str) -> str:
    """How an MLflow model is served, for its card."""
    request = '{"dataframe_records": [{"text": "parse a date string"}], "params": {"side": "query"}}'
    return (
        "## Serving\n\n```sh\n"
        f"{command('mlflow', 'models', 'serve', '-m', folder, '--env-manager', 'local', '--port', '5001')}\n"
        f"curl localhost:5001/invocations -H 'Content-Type: application/json' -d '{request}'\n"
        "```"
    )


def opset(number: int) -> str:
    return f"The graph is of ONNX opset {number}."


def int8(checked: Checked, graph: str, how: str) -> str:
    """What the int8 graph loses, for the card of the ONNX folder."""
    assert checked.mrr is not None and checked.stored_mrr is not None
    return (
        f"## int8\n\n`{graph}` is the same with {how}; put its name into the lines above. Measured on "
        f"{checked.queries:,} queries of the study: MRR {checked.mrr:.4f} instead of {checked.stored_mrr:.4f} "
        f"({checked.mrr - checked.stored_mrr:+.4f}), another rank for {checked.other_ranks:,} of them, vectors up to "
        f"{checked.difference:.2g} of their length apart."
    )


def _library(model: Model, library: str) -> str:
    """The header's line; none where the library that it would name cannot load the folder."""
    unknown = library == "transformers" and not isinstance(model.encoder.tower, Transformer)
    return "" if unknown else f"library_name: {library}\n"


def _encoder(model: Model) -> str:
    tower = model.encoder.tower
    settings = model.config.encoder
    length = (
        "vectors of length one" if model.config.similarity == "cosine" else "vectors whose dot product is the score"
    )
    if isinstance(tower, Bag):
        vocabulary, width = tower.table.shape
        return (
            f"The encoder is a bag of embeddings: the weighted mean of {vocabulary:,} subword vectors of {width} "
            f"numbers, {length}. transformers has no such architecture, so that AutoModel does not load it."
        )
    assert not isinstance(settings, BagEncoder)
    kind = getattr(tower.model.config, "model_type", "transformer")  # type: ignore[union-attr]
    if settings.kind != "transformer":
        kind = f"{settings.kind}, a {kind}"
    begun = f"begun from `{settings.model}`" if settings.model else "begun from random weights"
    begun += _trained(settings)
    prefix = settings.inputs.prefix
    reads = "" if prefix is None else f", reading `{prefix}` before each text"
    for side, prompt in (("query", settings.inputs.query_prompt), ("function", settings.inputs.code_prompt)):
        reads += f", reading `{prompt}` before each {side}" if prompt else ""
    if (limits := model.graph_limits) is not None:
        reads = f", reading functions with their data flow (up to {limits.code_length + limits.flow_length} places)"
    return f"The encoder is a transformer ({kind}), {begun}{reads}, pooling `{tower.pooling}`, {length}."


def _trained(settings: FineTuned) -> str:
    """What of the network training changed, where that is not all."""
    if settings.lora is not None:
        return f", trained by adapters of rank {settings.lora.rank} (LoRA) that are merged into it"
    freeze = settings.freeze
    parts = ["embeddings"] * freeze.embeddings + [f"lowest {freeze.layers} layers"] * (freeze.layers > 0)
    return f", with its {' and '.join(parts)} as they were" if parts else ""


def _sides(model: Model) -> str:
    tokens, limits = model.config.tokens, model.graph_limits
    beside = ""
    if limits is not None:
        beside = f", with {limits.flow_length} places for its data flow (what one leaves free is the other's)"
    return (
        f"Training read the first {tokens.query_length} tokens of a query and {tokens.code_length} of a function"
        f"{beside}: "
        "`side` says which a text is. It makes a difference for longer texts only."
    )


def _checked(checked: Checked) -> str:
    text = (
        f"The folder was read in a fresh process by the lines above. {checked.vectors:,} vectors are at most "
        f"{checked.difference:.1e} of their length from those of the trained weights in double precision (allowed "
        f"{TOLERANCE:g})."
    )
    if checked.mrr is None:
        return text + " The stored ranks were not compared: there was no corpus at hand."
    if not checked.other_ranks:
        return text + f" All {checked.queries:,} queries have the rank that the run stored (MRR {checked.mrr:.4f})."
    return text + (
        f" Of {checked.queries:,} queries {checked.other_ranks:,} have another rank than the run stored, where codes "
        f"score so alike that rounding decides (MRR {checked.mrr:.4f}, stored {checked.stored_mrr:.4f})."
    )


def _scores(trial: TrialResult) -> str:
    rows = [
        f"| {name} | {trial.metrics[name]:.4f} |"
        for name in sorted(trial.metrics)
        if name.startswith(("valid_", "test_")) and "codebase" not in name
    ]
    return "\n".join(["| metric | value |", "| --- | ---: |", *rows])


def _data(origin: Origin) -> str:
    results, corpus = origin.results, origin.corpus
    languages = results.training_set(origin.trial.language).train
    if corpus is None:
        return (
            f"Corpus `{results.corpus_fingerprint}`. It was not at hand when this was written: what is in it, and "
            "under which licences, is not known here."
        )
    manifest = corpus.manifest
    lines = [
        f"Corpus `{corpus.folder.resolve().name}`, fingerprint `{corpus.fingerprint}`.",
        "",
        "| language | training pairs | valid | test | packages trained on |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for language in languages:
        counts = manifest.languages[language]
        packages = sorted(counts.packages.get("train", {}), key=lambda name: -counts.packages["train"][name])
        named = ", ".join(packages[:_SHOWN]) + (f" and {len(packages) - _SHOWN} more" if len(packages) > _SHOWN else "")
        pairs = [f"{counts.pairs.get(split, 0):,}" for split in ("train", "valid", "test")]
        lines.append(f"| {language} | {' | '.join(pairs)} | {named} |")
    return "\n".join([*lines, "", f"Licence of the data: {_licences(corpus, languages)}"])


def _licences(corpus: Corpus, languages: Sequence[str]) -> str:
    """As the manifest has it: of a fetched corpus by package, else its one line. Nothing is concluded from it."""
    fetched = corpus.manifest.recipe.get("packages")
    known: Counter[str] = Counter()
    if isinstance(fetched, dict):
        for language in languages:
            for package in fetched.get(language, ()):
                if isinstance(package, dict):
                    known[str(package.get("licence") or "unknown")] += 1
    text = corpus.manifest.licence + "."
    if known:
        text += (
            " Declared by the fetched packages: " + ", ".join(f"{name} ({n})" for name, n in known.most_common()) + "."
        )
    return text + " The model's own licence is for whoever publishes it to decide; none is given here."


def _settings(trial: TrialResult) -> str:
    return "\n".join(f"- `{name}`: {value}" for name, value in sorted(trial.settings.items()))
