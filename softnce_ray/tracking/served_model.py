"""The code of an exported MLflow model, copied into it: it runs where the model is loaded, without this package."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc import PythonModel


class Encoder(PythonModel):
    """Vectors of texts: a list, an array, a series or a column `text` in, (n, width) float32 out."""

    # Else MLflow tells whoever loads the model to annotate `predict`, though the model has its signature.
    _skip_type_hint_validation = True

    def load_context(self, context: Any) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        folder = Path(context.artifacts["encoder"])
        self.lock = threading.Lock()  # the tokenizer's truncation is its state, and a server has threads
        expect_unchanged(folder)
        settings = json.loads((folder / "softnce_ray.json").read_text())
        self.tokens, self.encoder = settings["tokens"], settings["encoder"]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.encode_special_tokens = True
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        side = (params or {}).get("side", "code")
        if side not in ("query", "code"):
            raise ValueError(f"expected params side query or code, got {side!r}")
        prompt = self.encoder.get(f"{side}_prompt") or ""
        texts = [prompt + text for text in texts_of(model_input)]
        with self.lock:
            self.tokenizer.enable_truncation(self.tokens[f"{side}_length"])
            batch = self.tokenizer.encode_batch(texts)
        ids = np.array([text.ids for text in batch], np.int64)
        mask = np.array([text.attention_mask for text in batch], np.int64)
        return self.session.run(["vectors"], {"input_ids": ids, "attention_mask": mask})[0]


def expect_unchanged(folder: Path) -> None:
    """See that the files of the encoder are those that were exported, where the export says what they were."""
    record = folder / "sha256.json"
    for name, expected in (json.loads(record.read_text()) if record.is_file() else {}).items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise ValueError(
                f"expected {name} in {folder} as it was exported, got another or none: it was changed or damaged; "
                "export the model again"
            )


def texts_of(given: Any) -> list[str]:
    """The texts in what MLflow hands on, which is a frame of one column, named by a number where it was a list, an
    array or a series. Of a frame whose first column is not `text` MLflow has dropped the others: it is refused.
    """
    if hasattr(given, "columns"):
        names = list(given.columns)
        if "text" not in names and any(isinstance(name, str) for name in names):
            raise ValueError(f"expected texts or a column text, got column {names[0]!r}: give frame[['text']]")
        given = given["text"] if "text" in names else given[names[0]]
    texts: list[str] = []
    for cell in [given] if isinstance(given, str) else given:
        texts.extend(cell if isinstance(cell, list | tuple | np.ndarray) else [cell])  # {"text": [...]} is one cell
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"expected texts, got {type(text).__name__}: {text!r}")
    return texts


mlflow.models.set_model(Encoder())
