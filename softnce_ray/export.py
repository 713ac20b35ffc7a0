"""Export of a study's best model as a folder that other libraries load, checked after it was written."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from softnce_ray.config import ArmConfig
from softnce_ray.encoders import Bag, Transformer
from softnce_ray.folders import appearing
from softnce_ray.model import ExportError, Model, load_export, load_model, settings_json
from softnce_ray.named import EXPORT_SETTINGS
from softnce_ray.results import StudyResults, TrialResult
from softnce_ray.store import Store

TOLERANCE = 1e-5
"""Largest difference of an exported model's vectors from the trained one's, per component."""

_CHECKED = (
    "parse a date string",
    "Return the sum of two numbers.",
    "def add(a, b):\n    return a + b",
    "class HTTPServer:\n    def handle_request(self, x_1):\n        return None",
    "",
    "löschen 删除 🙂",
    'PAD = "<pad>" + "<s></s>"  # [PAD] [CLS] <unk> <mask>',
    "def long(values):\n    total = 0\n" + "    total += values[0] * 3\n" * 200 + "    return total",
)


@dataclass(frozen=True)
class Exported:
    """Where a model was written, which trial it is from, and how far its vectors are from the trained ones."""

    folder: Path
    trial: TrialResult
    largest_difference: float


def export(
    study: str,
    to: str | Path,
    *,
    store: Store | str | Path | None = None,
    arm: str | None = None,
    language: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a study's best model as a folder that sentence-transformers (and, for a transformer,
    transformers) loads.

    Args:
      study: its name in the store.
      to: the folder to make.
      store: default `Store.at()`.
      arm: only among trials of this arm.
      language: only among trials of this language; needed when the study has several.
      overwrite: replace `to` if it is an earlier export.

    Raises:
      ExportError: `to` is taken, nothing to export, or the written model gives other vectors.
      TrackingError: no such study, or its model is gone.
    """
    from softnce_ray.tracking import download_model, load_results

    target, place = Path(to), Store.at(store)
    if target.exists() and not (overwrite and (target / EXPORT_SETTINGS).exists()):
        what = "something that is no export of ours" if overwrite else "something already"
        raise ExportError(
            f"expected to make {target}, got {what} there: give another --to"
            + ("" if overwrite else ", or --overwrite to replace an earlier export")
        )
    results = load_results(place, study, ranks=False)
    trial = best_trial(results, arm=arm, language=language)
    with tempfile.TemporaryDirectory() as work:
        model = load_model(download_model(place, trial.run_id, Path(work)))
        difference = write_export(model, target, _card(results, trial), replace=overwrite)
    return Exported(target, trial, difference)


def best_trial(results: StudyResults, *, arm: str | None = None, language: str | None = None) -> TrialResult:
    """The finished confirm trial with the best validation MRR; test results are not looked at.

    Raises:
      ExportError: unknown arm or language, several languages and none named, or no finished trial.
    """
    for what, got, possible in (("arm", arm, results.arms), ("language", language, results.languages)):
        if got is not None and got not in possible:
            raise ExportError(
                f"expected an {what} of study {results.study}, got {got!r}; possible: {', '.join(possible)}"
            )
    if language is None and len(results.languages) > 1:
        raise ExportError(
            f"study {results.study} has a model for each language: give --language; possible: "
            f"{', '.join(results.languages)}"
        )
    eligible = [
        trial
        for trial in results.trials
        if trial.phase == "confirm"
        and trial.status == "FINISHED"
        and arm in (None, trial.arm)
        and language in (None, trial.language)
    ]
    if not eligible:
        raise ExportError(f"study {results.study} has no finished confirm trial to export: launch it to its end")
    return max(eligible, key=lambda trial: trial.metrics["best_valid_mrr"])


def write_export(model: Model, target: Path, card: str, *, replace: bool = False) -> float:
    """Write and check a model; the folder appears when the check has passed. Returns the largest difference.

    Raises:
      ExportError: see `export`.
    """
    with appearing(target) as folder:
        _write(model, folder, card)
        difference = _check(model, folder)
        if replace:
            shutil.rmtree(target, ignore_errors=True)
    return difference


def _write(model: Model, folder: Path, card: str) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
    from transformers.utils import logging

    logging.set_verbosity_error()  # what it says of loading concerns this check, not the user
    logging.disable_progress_bar()
    tower = model.encoder.tower
    tokenizer = Tokenizer.from_str(model.tokenizer.to_str())
    tokenizer.enable_truncation(model.config.tokens.code_length)
    modules: list[Any]
    with tempfile.TemporaryDirectory() as work:
        if isinstance(tower, Bag):
            modules = [StaticEmbedding(tokenizer, embedding_weights=tower.folded())]
        else:
            modules = _transformer_modules(tower, tokenizer, model.config, Path(work))
        if model.config.similarity == "cosine":
            modules.append(Normalize())
        whole = SentenceTransformer(modules=modules, device="cpu")
        whole.similarity_fn_name = model.config.similarity
        whole.save_pretrained(str(folder), create_model_card=False)
    (folder / EXPORT_SETTINGS).write_text(settings_json(model.config))
    (folder / "README.md").write_text(card)


def _transformer_modules(tower: Transformer, tokenizer: Tokenizer, config: ArmConfig, work: Path) -> list[Any]:
    from sentence_transformers.sentence_transformer.modules import Pooling
    from sentence_transformers.sentence_transformer.modules import Transformer as SentenceEncoder
    from transformers import PreTrainedTokenizerFast

    if tower.pooling == "pooler":
        raise ExportError(
            "expected pooling mean or first, got pooler: sentence-transformers has no module for a model's pooler"
        )
    length = config.tokens.code_length
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=tokenizer.id_to_token(tower.pad_id),
        model_max_length=length,
        split_special_tokens=True,  # as training reads texts: see `only_text`
    )
    tower.model.save_pretrained(work)  # type: ignore[operator]
    wrapped.save_pretrained(work)
    encoder = SentenceEncoder(str(work), max_seq_length=length)
    return [encoder, Pooling(encoder.get_embedding_dimension(), "cls" if tower.pooling == "first" else tower.pooling)]


def _check(model: Model, folder: Path) -> float:
    """The largest difference between the folder's vectors, as sentence-transformers and as we load it, and
    the model's."""
    from sentence_transformers import SentenceTransformer

    expected = model.encode_codes(_CHECKED)
    theirs = SentenceTransformer(str(folder), device="cpu").encode(list(_CHECKED), convert_to_numpy=True)
    ours = load_export(folder).encode_codes(_CHECKED)
    differences = {
        "as sentence-transformers loads them": np.abs(theirs - expected).max(axis=1),
        "as softnce-ray search loads them": np.abs(ours - expected).max(axis=1),
    }
    difference = max(float(each.max()) for each in differences.values())
    if not difference <= TOLERANCE:
        found = "; ".join(f"{who}: text {each.argmax()} by {each.max():g}" for who, each in differences.items())
        raise ExportError(
            f"expected the exported vectors within {TOLERANCE:g} of the trained ones, got {difference:g} ({found}): "
            "nothing was written; try again, and please report this with the study file"
        )
    return difference


def _card(results: StudyResults, trial: TrialResult) -> str:
    """The model card: what it is, how it was chosen and what it scored."""
    settings = "\n".join(f"- `{name}`: {value}" for name, value in sorted(trial.settings.items()))
    scores = "\n".join(
        f"| {name} | {trial.metrics[name]:.4f} |"
        for name in sorted(trial.metrics)
        if name.startswith(("valid_", "test_")) and "codebase" not in name
    )
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
---
# {results.study}: {trial.arm}, {trial.language}

A dual encoder for code search: queries and functions become vectors, and the closest function answers.
Chosen by validation MRR among the finished confirm trials of study `{results.study}`; test was not looked at.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
vectors = model.encode(["parse a date string", "def parse(text): ..."])
```

| metric | value |
| --- | --- |
{scores}

Run `{trial.run_id}`, seed {trial.seed}, identity `{trial.identity}`, corpus `{results.corpus_fingerprint[:12]}`.
The training functions stand under their own packages' licences.

{settings}
"""
