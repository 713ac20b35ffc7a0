"""A trial in a worker of Ray's, without Ray: what it sets in its process, and what it leaves there."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from softnce_ray.config import TrialConfig
from softnce_ray.corpus import Corpus
from softnce_ray.preparation import prepare
from softnce_ray.study import trainable
from softnce_ray.study.failures import Failure
from softnce_ray.study.trainable import TrialSpec, run_trial
from softnce_ray.training import train


def state() -> tuple[Any, ...]:
    """What determinism is made of in this process."""
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


USUAL = (False, False, False, None)


@pytest.fixture
def run(tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that runs a trial of one epoch with these fields, and gives what it reported; `during` is called
    within."""

    def trial(during, **fields: Any) -> list[dict[str, Any]]:
        config = TrialConfig.model_validate(
            {
                "language": "python",
                "seed": 1,
                "encoder": {"kind": "bag", "width": 8},
                "tokens": {"vocabulary": 400},
                "training": {"epochs": 1, "batch_size": 32},
            }
        )
        corpus, told = Corpus.open(tiny_corpus), []

        def watched(*arguments: Any, **options: Any) -> Any:
            during()
            return train(*arguments, **options)

        monkeypatch.setattr(trainable, "train", watched)
        monkeypatch.setattr(trainable.tune, "report", lambda news, **_: told.append(news))
        spec = TrialSpec(
            config=config.model_dump(mode="json"),
            arm="infonce",
            phase="confirm",
            identity="f00d",
            attempt=1,
            resume=None,
            corpus=str(tiny_corpus),
            fingerprint=corpus.fingerprint,
            prepared=asdict(prepare(config, tiny_corpus, "python", tmp_path)),
            threads=1,
            device="cpu",
            **fields,
        )
        run_trial({"spec": json.dumps(asdict(spec))})
        return told

    return trial


def test_a_deterministic_trial_is_so_and_leaves_its_worker_as_it_was(run) -> None:
    assert state() == USUAL
    seen: list[tuple[Any, ...]] = []
    for deterministic in (True, False):
        told = run(lambda: seen.append(state()), deterministic=deterministic)
        assert "test_mrr" in told[-1]["metrics"]
        assert state() == USUAL
    assert seen == [(True, False, True, ":4096:8"), USUAL]


def test_what_cannot_be_deterministic_fails_the_trial_with_what_to_do_and_leaves_nothing(run) -> None:
    def without() -> None:
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))

    (told,) = run(without, deterministic=True)
    assert told["failure"]["kind"] == "settings"  # another attempt would only repeat it
    assert not Failure(**told["failure"]).answers  # the trial is the same without
    assert told["failure"]["reason"].startswith("resources.deterministic: expected operations that have a determin")
    assert told["failure"]["reason"].endswith(
        "got one without (put_ does not have a deterministic implementation): set it to false, or device to cpu"
    )
    assert state() == USUAL
    assert "metrics" in run(without)[-1]
