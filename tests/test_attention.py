"""Rows of texts: their groups, attention with dropout against plain loops and finite differences, and dropout."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from softnce_ray.encoders import attention, dropout
from softnce_ray.encoders.packing import Row, group, groups, similar

CPU = torch.device("cpu")
HEADS, SIZE = 2, 3
LENGTHS = [1, 2, 2, 9, 11, 30]
P = 0.25

lengths_in_order = st.lists(st.integers(1, 40), min_size=1, max_size=12).map(sorted)


# --- groups ----------------------------------------------------------------------------------------------


def test_a_group_by_hand():
    found = group([1, 2], 2, CPU)
    assert found.shape == (2, 2, 2)  # two texts, two heads, two places
    assert found.seen is not None and found.seen.tolist() == [[True, False], [True, True]]
    # rows are a's heads 0 and 1, b's 2 and 3, c's 4 and 5; the first text is a, the second b c
    assert found.place.tolist() == [0, 2, 4, 6, 5, 7]
    source = found.source.tolist()
    assert [source[0], source[2], *source[4:]] == [0, 1, 2, 4, 3, 5]
    assert found.bias is not None and found.bias[:, 0].tolist() == [[0, -math.inf]] * 2 + [[0, 0]] * 2


def test_texts_of_one_length_have_no_padding():
    found = group([3, 3], 1, CPU)
    assert found.seen is None and found.bias is None and found.source.tolist() == list(range(6))


@given(lengths_in_order, st.integers(1, 3))
def test_every_token_has_a_place_of_its_own_and_every_place_a_token_of_its_group(lengths, heads):
    parts = groups(lengths, heads, CPU)
    assert [
        size
        for part in parts
        for size in ([part.shape[2]] * part.shape[0] if part.seen is None else part.seen.sum(1).tolist())
    ] == lengths
    for part in parts:
        texts, _, longest = part.shape
        assert len(part.source) == texts * heads * longest
        assert part.source[part.place].tolist() == list(range(len(part.place)))
        assert int(part.source.max()) < len(part.place)


@given(lengths_in_order)
def test_texts_of_a_group_are_of_similar_length(lengths):
    for part in groups(lengths, 1, CPU):
        shortest = part.shape[2] if part.seen is None else int(part.seen.sum(1).min())
        assert part.shape[2] <= 1.2 * max(shortest, 8)


def test_where_texts_are_cut_by_hand():
    assert similar([1, 8, 9, 10, 12, 13]) == [3, 5]  # 9 is within 1.2 times 8, 10 is not; 12 is within 1.2 times 10
    assert similar([5]) == []


# --- attention -------------------------------------------------------------------------------------------


def rows(seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Queries, keys and values, (1, heads, tokens, size) each, as a network has them."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, sum(LENGTHS), HEADS, SIZE)
    made = [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(3)]
    return [each.transpose(1, 2).requires_grad_() for each in made]


def attend(given: list[Tensor], p: float) -> Tensor:
    query, key, value = given
    packed = Row(groups(LENGTHS, HEADS, CPU))
    answer, _ = attention.attention(nn.Identity(), query, key, value, None, packed=packed, scaling=0.7, dropout=p)
    return answer


def masks(p: float) -> Iterator[Tensor]:
    """Of each text, (heads, length, length): what is drawn next, told apart by hand."""
    dropped = dropout.parts(p)
    for part in groups(LENGTHS, HEADS, CPU):
        texts, heads, longest = part.shape
        drawn = dropout.kept(torch.Size((texts * heads, longest, longest)), dropped).view(
            texts, heads, longest, longest
        )
        sizes = [longest] * texts if part.seen is None else part.seen.sum(1).tolist()
        for mask, size in zip(drawn, sizes, strict=True):
            yield mask[:, :size, :size] * dropout.factor(dropped)


def text_by_text(given: list[Tensor], each_mask: Iterator[Tensor]) -> Tensor:
    found, first = [], 0
    for length, mask in zip(LENGTHS, each_mask, strict=True):
        query, key, value = (each[0, :, first : first + length] for each in given)
        weights = torch.softmax(0.7 * torch.einsum("hqd,hkd->hqk", query, key), dim=-1) * mask
        found.append(torch.einsum("hqk,hkd->qhd", weights, value))
        first += length
    return torch.cat(found)[None]


def gradients(answer: Tensor, given: list[Tensor]) -> tuple[Tensor, ...]:
    weights = torch.arange(answer.numel()).double().sin().view_as(answer).to(answer.dtype)
    return torch.autograd.grad((answer * weights).sum(), given)


@pytest.mark.parametrize("p", [0.0, P])
def test_attention_and_its_gradients_are_those_of_a_loop_over_texts(p):
    torch.manual_seed(3)
    given = rows()
    found = attend(given, p)
    torch.manual_seed(3)
    expected = text_by_text(given, masks(p) if p else iter([torch.ones(1, dtype=torch.float64)] * len(LENGTHS)))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, given), gradients(expected, given))


@pytest.mark.parametrize("p", [0.0, P])
def test_gradients_of_attention_are_those_of_finite_differences(p):
    def of(*given: Tensor) -> Tensor:
        torch.manual_seed(5)  # the same weights are dropped every time
        return attend(list(given), p)

    assert torch.autograd.gradcheck(of, rows(), fast_mode=True)


def test_without_a_row_attention_is_torchs():
    query, key, value = rows()
    found, _ = attention.attention(nn.Identity(), query, key, value, None, scaling=0.7, is_causal=False)
    expected = F.scaled_dot_product_attention(query, key, value, scale=0.7)
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_attention_in_bf16_is_near_that_in_float32():
    given = rows(dtype=torch.float32)
    torch.manual_seed(1)
    expected = attend(given, P)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        low = [each.detach().bfloat16().requires_grad_() for each in given]
        found = attend(low, P)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
    torch.testing.assert_close(
        [each.float() for each in gradients(found, low)], list(gradients(expected, given)), rtol=0.1, atol=0.1
    )


# --- dropout ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.999])
def test_as_many_numbers_are_dropped_as_the_probability_says(p):
    torch.manual_seed(0)
    count = 1_000_003
    dropped = 1 - float(dropout.kept(torch.Size([count]), dropout.parts(p)).double().mean())
    assert abs(dropped - p) < 5 * math.sqrt(p * (1 - p) / count) + 2**-17


def test_neighbours_are_dropped_independently():
    torch.manual_seed(0)
    zeros = 1 - dropout.kept(torch.Size([1_000_000]), dropout.parts(0.5)).double()
    for apart in (1, 2, 3, 4, 8):
        both = float((zeros[apart:] * zeros[:-apart]).mean())
        assert abs(both - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 1_000_000) * 2


def test_what_is_kept_is_divided_by_what_is_left_of_the_probability_and_so_is_its_gradient():
    torch.manual_seed(0)
    given = torch.randn(7, 11, dtype=torch.float64, requires_grad=True)
    found = dropout.dropout(given, 0.25)
    gradient = torch.autograd.grad(found.sum(), given)[0]
    kept = found != 0
    assert 0 < int(kept.sum()) < 77
    torch.testing.assert_close(found[kept], given[kept] / 0.75)
    assert torch.equal(gradient, kept.double() * (4 / 3))


def test_draws_follow_torchs_seed():
    given = torch.ones(1000)
    torch.manual_seed(1)
    one, other = dropout.dropout(given, 0.5), dropout.dropout(given, 0.5)
    torch.manual_seed(1)
    assert torch.equal(dropout.dropout(given, 0.5), one) and not torch.equal(one, other)


@pytest.mark.parametrize(("p", "left"), [(0.0, 1.0), (1e-9, 1.0), (1.0, 0.0)])
def test_the_ends_of_the_probability(p, left):
    given = torch.ones(1000, requires_grad=True)
    found = dropout.dropout(given, p)
    assert torch.allclose(found, torch.full((1000,), left))
    assert torch.allclose(torch.autograd.grad(found.sum(), given)[0], torch.full((1000,), left))


def test_a_networks_dropout_is_replaced_everywhere_and_keeps_its_mode():
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3), nn.Sequential(nn.Dropout(0.2), nn.ReLU()))
    network[2].eval()
    dropout.replace_dropout(network)
    found = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    assert [(type(each), each.p, each.training) for each in found] == [
        (dropout.Dropout, 0.3, True),
        (dropout.Dropout, 0.2, False),
    ]
    given = torch.ones(4, 2)
    assert torch.equal(network[2](given), given)
