"""Failures of trials: their kind, their line, and whether another attempt is made."""

from __future__ import annotations

import errno

import pytest
import ray
import torch

from softnce_ray.checkpoint import CheckpointError
from softnce_ray.config import ArmConfig, Failures, Resources, TrainingSettings, TransformerEncoder
from softnce_ray.corpus.store import CorpusError
from softnce_ray.encoders.adapting import EncoderError, MissingError
from softnce_ray.evaluation import DivergedError
from softnce_ray.storage import StorageError
from softnce_ray.study.failures import Retries, failure_in_ray, failure_of, with_remedies


def wrapped(inner: BaseException) -> BaseException:
    """An error as libraries raise it: from another."""
    outer = RuntimeError("reading failed")
    outer.__cause__ = inner
    return outer


CASES = [
    (DivergedError("the loss of epoch 2 is nan"), "diverged", "the loss of epoch 2 is nan"),
    (EncoderError("encoder.freeze.layers: expected at most 3"), "settings", "expected at most 3"),
    (CheckpointError("expected a checkpoint of a"), "files", "expected a checkpoint of a"),
    (MissingError("encoder.model: no model"), "files", "encoder.model: no model"),
    (CorpusError("expected a corpus folder at x"), "files", "expected a corpus folder at x"),
    (MemoryError(), "memory", "no memory left"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "memory", "on the GPU (CUDA out of memory"),
    (
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x"),
        "memory",
        "no memory left on the",
    ),
    (OSError(errno.ENOSPC, "No space left on device"), "disk", "free some where the store is"),
    (RuntimeError("I/O error: No space left on device (os error 28)"), "disk", "free some where the store is"),
    (FileNotFoundError(errno.ENOENT, "No such file", "train.bin"), "files", "FileNotFoundError: [Errno 2] No such"),
    (ZeroDivisionError("division\nby zero"), "error", "ZeroDivisionError: division by zero"),
]


@pytest.mark.parametrize(("error", "kind", "reason"), CASES)
def test_an_error_has_a_kind_and_a_reason_of_one_line(error: BaseException, kind: str, reason: str) -> None:
    for each in (error, wrapped(error)):
        failure = failure_of(each, "trace")
        assert failure.kind == kind
        assert "\n" not in failure.reason
        assert failure.traceback == "trace"
        if each is error or kind != "error":
            assert reason in failure.reason


def test_what_we_said_of_a_cause_is_told_and_not_the_cause() -> None:
    missing = FileNotFoundError(errno.ENOENT, "No such file", "config.json")
    for told in (CorpusError("expected a model, got none"), wrapped(CorpusError("expected a model, got none"))):
        (told if isinstance(told, CorpusError) else told.__cause__).__cause__ = missing  # type: ignore[union-attr]
        failure = failure_of(told, "")
        assert (failure.kind, failure.reason) == ("files", "expected a model, got none")


def test_a_full_disk_is_told_whatever_was_said_of_it() -> None:
    told = CorpusError("expected a folder that can be written")
    told.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert failure_of(told, "").kind == "disk"


def test_a_storage_that_cannot_be_used_may_be_usable_later() -> None:
    told = StorageError("expected a storage that can be read at s3://b")
    told.__cause__ = OSError("AWS Error NETWORK_CONNECTION during HeadObject operation")
    failure = failure_of(told, "")
    assert (failure.kind, failure.reason) == ("files", "expected a storage that can be read at s3://b")
    assert failure.kind in Failures().retry


def test_memory_that_torch_really_does_not_get_is_known(one_thread) -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert failure_of(caught.value, "").kind == "memory"


def test_a_reason_stays_short() -> None:
    assert len(failure_of(ValueError("long " * 1000), "").reason) <= 500


NETWORK = ArmConfig(encoder=TransformerEncoder(), training=TrainingSettings(batch_size=64))
ON_THE_GPU = failure_of(
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. " + "GPU 0 has " * 100), ""
)
HERE = failure_of(MemoryError(), "")


@pytest.mark.parametrize(
    ("failure", "resources", "remedies"),
    [
        (
            ON_THE_GPU,
            {"gpus": 1},
            "resources.chunk_size: 32 (now a batch of 64); resources.gradient_checkpointing: true; a lower "
            "training.batch_size (now 64) or tokens.code_length",
        ),
        (
            ON_THE_GPU,
            {"gpus": 0.5, "chunk_size": 9, "gradient_checkpointing": True},
            "resources.chunk_size: 4 (now 9); a lower training.batch_size (now 64) or tokens.code_length; fewer trials "
            "on a GPU (resources.gpus: 1, now 0.5)",
        ),
        (
            ON_THE_GPU,
            {"gpus": 1, "workers": 8, "chunk_size": 20, "gradient_checkpointing": True},
            "resources.chunk_size: 4 (now 20); a lower training.batch_size (now 64) or tokens.code_length",
        ),
        (
            HERE,
            {"chunk_size": 1, "gradient_checkpointing": True},
            "a lower training.batch_size (now 64) or tokens.code_length; fewer trials at once "
            "(resources.max_concurrent)",
        ),
    ],
)
def test_a_lack_of_memory_names_its_remedies_in_order(failure, resources, remedies) -> None:
    reason = with_remedies(failure, Resources.model_validate(resources), NETWORK).reason
    assert reason.endswith(f": try in this order: {remedies}")
    assert len(reason) < 500


def test_a_process_that_ray_ended_for_its_memory_has_remedies_and_one_that_was_lost_has_none() -> None:
    ended = with_remedies(failure_in_ray(ray.exceptions.OutOfMemoryError("1 worker was killed")), Resources(), NETWORK)
    assert (ended.kind, ended.of_gpu) == ("memory", False)
    assert "ran out of memory (see the traceback): try in this order: resources.chunk_size: 32" in ended.reason
    lost = failure_in_ray(ray.exceptions.WorkerCrashedError())
    assert (lost.kind, with_remedies(lost, Resources(), NETWORK)) == ("worker", lost)


def test_a_bag_has_no_layers_to_compute_again_and_other_failures_have_no_remedies() -> None:
    assert "gradient_checkpointing" not in with_remedies(HERE, Resources(), ArmConfig()).reason
    other = failure_of(ZeroDivisionError("division"), "")
    assert with_remedies(other, Resources(), NETWORK) == other


def test_another_attempt_is_made_as_often_as_the_study_says() -> None:
    retries = Retries(Failures(retries=2))
    assert [retries.again("a", "worker", 0) for _ in range(4)] == [True, True, False, False]
    assert retries.again("b", "error", 0)


def test_an_attempt_that_came_a_checkpoint_further_does_not_count() -> None:
    retries = Retries(Failures(retries=1))
    assert [retries.again("a", "worker", epoch) for epoch in (0, 1, 2, 2, 3)] == [True, True, True, False, True]
    assert [retries.again("a", "error", epoch) for epoch in (3, 2, 1)] == [False, False, False]


def test_only_the_kinds_that_the_study_names_are_tried_again() -> None:
    retries = Retries(Failures(retries=9, retry=("memory",)))
    assert retries.again("a", "memory", 0)
    assert not retries.again("a", "worker", 0)
    default = Retries(Failures())
    assert not default.again("a", "diverged", 0)
    assert not default.again("a", "settings", 0)


def test_without_retries_the_first_failure_is_the_last() -> None:
    assert not Retries(Failures(retries=0)).again("a", "worker", 5)
