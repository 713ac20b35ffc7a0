"""Checkpoints: exact round trips, damage, and all or nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from softnce_ray import checkpoint as checkpoints
from softnce_ray.checkpoint import (
    CHECKPOINT_FILE,
    Checkpoint,
    Progress,
    load_checkpoint,
    optimiser_state,
    restore_optimiser,
    save_checkpoint,
)
from softnce_ray.optimisers import RowAdam

PROGRESS = Progress("0123456789abcdef", epoch=3, best_epoch=2, best_valid_mrr=0.1 + 0.2)


def tensors(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "tower.table": torch.randn(7, 3, generator=generator),
        "half": torch.randn(5, generator=generator).bfloat16(),
        "double": torch.randn(2, 2, 2, generator=generator, dtype=torch.float64),
        "whole": torch.randint(-(2**62), 2**62, (4,), generator=generator),
        "yes": torch.tensor([True, False]),
        "scalar": torch.tensor(-0.0),
        "none": torch.empty(0, 3),
        "strided": torch.randn(4, 6, generator=generator).T,
    }


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def a_checkpoint(**changes) -> Checkpoint:
    return Checkpoint(
        **{
            "progress": PROGRESS,
            "encoder": tensors(0),
            "best": tensors(1),
            "optimisers": [
                {"0": {"step": torch.tensor(7), "mean": torch.randn(3)}, "11": tensors(2)},
                {"0": tensors(3)},
            ],
            **changes,
        }
    )


def test_what_is_loaded_is_what_was_saved(tmp_path):
    saved = a_checkpoint()
    save_checkpoint(saved, tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert loaded.progress == saved.progress  # the MRR too, to the last bit
    assert same(loaded.encoder, saved.encoder)
    assert same(loaded.best, saved.best)
    assert len(loaded.optimisers) == 2
    for one, other in zip(loaded.optimisers, saved.optimisers, strict=True):
        assert one.keys() == other.keys()
        assert all(same(one[number], other[number]) for number in one)


def test_the_best_weights_are_written_once_when_they_are_the_last(tmp_path):
    encoder = {"table": torch.randn(1000, 10)}
    sizes = []
    for best_epoch in (3, 2):
        progress = Progress("a", 3, best_epoch, 0.5)
        save_checkpoint(Checkpoint(progress, encoder, {"table": encoder["table"].clone()}, []), tmp_path)
        sizes.append((tmp_path / CHECKPOINT_FILE).stat().st_size)
        assert same(load_checkpoint(tmp_path).best, encoder)
    assert sizes[0] < 0.6 * sizes[1]


def steps(optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter], seeds: range) -> None:
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for parameter in parameters:
            gradient = torch.randn(parameter.shape, generator=generator)
            if isinstance(optimiser, RowAdam):
                rows = torch.randperm(len(parameter), generator=generator)[:3].sort().values
                parameter.grad = torch.sparse_coo_tensor(
                    rows[None], gradient[rows], parameter.shape, is_coalesced=True, check_invariants=False
                )
            else:
                parameter.grad = gradient
        optimiser.step()


@pytest.mark.parametrize("make", [RowAdam, torch.optim.AdamW])
def test_an_optimiser_goes_on_from_the_file_bit_for_bit(tmp_path, make):
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(9, 4)), nn.Parameter(torch.randn(9, 1))]
    optimiser = make(parameters, lr=0.037)
    steps(optimiser, parameters, range(13))
    save_checkpoint(a_checkpoint(optimisers=[optimiser_state(optimiser)]), tmp_path)
    resumed = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    again = make(resumed, lr=0.037)
    restore_optimiser(again, load_checkpoint(tmp_path).optimisers[0])
    for optimiser_, parameters_ in ((optimiser, parameters), (again, resumed)):
        steps(optimiser_, parameters_, range(13, 200))
    for one, other in zip(parameters, resumed, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("make", [RowAdam, torch.optim.AdamW])
def test_an_optimiser_that_goes_on_leaves_the_loaded_checkpoint_alone(tmp_path, make):
    parameters = [nn.Parameter(torch.randn(9, 4))]
    optimiser = make(parameters, lr=0.1)
    steps(optimiser, parameters, range(3))
    save_checkpoint(a_checkpoint(optimisers=[optimiser_state(optimiser)]), tmp_path)
    loaded = load_checkpoint(tmp_path).optimisers[0]
    before = copy.deepcopy(loaded)
    restore_optimiser(optimiser, loaded)
    steps(optimiser, parameters, range(3, 6))
    assert all(same(loaded[number], before[number]) for number in before)


def test_restoring_keeps_the_settings_of_the_groups():
    parameter = nn.Parameter(torch.randn(3, 2))
    saved = torch.optim.AdamW([parameter], lr=0.5, weight_decay=0.9)
    steps(saved, [parameter], range(2))
    fresh = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.2)
    restore_optimiser(fresh, optimiser_state(saved))
    assert (fresh.param_groups[0]["lr"], fresh.param_groups[0]["weight_decay"]) == (0.1, 0.2)


# --- damage ----------------------------------------------------------------------------------------------


def test_no_checkpoint_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_a_cut_checkpoint_is_an_error_of_its_own(tmp_path, share):
    save_checkpoint(a_checkpoint(), tmp_path)
    file = tmp_path / CHECKPOINT_FILE
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises((OSError, SafetensorError)):
        load_checkpoint(tmp_path)


def test_rubbish_is_an_error_of_its_own(tmp_path):
    (tmp_path / CHECKPOINT_FILE).write_bytes(b"\xff" * 1000)
    with pytest.raises(SafetensorError):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("metadata", [None, {"other": "x"}, {"progress": "{"}, {"progress": '{"epoch": 1}'}])
def test_a_file_that_no_run_wrote_is_an_error_of_its_own(tmp_path, metadata):
    save_file({"encoder/a": torch.zeros(2)}, tmp_path / CHECKPOINT_FILE, metadata=metadata)
    with pytest.raises(SafetensorError, match="expected a checkpoint"):
        load_checkpoint(tmp_path)


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(a_checkpoint(), tmp_path)

    def fail(tensors, path, metadata):
        path.write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoints, "save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(a_checkpoint(progress=Progress("a", 9, 9, 0.9)), tmp_path)
    assert load_checkpoint(tmp_path).progress == PROGRESS


def test_a_first_write_that_fails_leaves_nothing_under_the_final_name(tmp_path, monkeypatch):
    def fail(tensors, path, metadata):
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save_file", fail)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(a_checkpoint(), tmp_path)
    assert not (tmp_path / CHECKPOINT_FILE).exists()


def test_saving_leaves_one_file(tmp_path):
    for _ in range(2):
        save_checkpoint(a_checkpoint(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT_FILE]
