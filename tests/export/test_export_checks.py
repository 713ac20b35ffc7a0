"""The check of an exported folder: vectors, ranks, and what a fresh process says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from softnce_ray.export.checking import Ranked, check, expect, possible_ranks, relative_differences
from softnce_ray.export.fresh import Job, Reader, in_a_fresh_process
from softnce_ray.model import ExportError, Model

QUERIES = ["Parse the date of every customer.", "Sort the lamp."]
CODES = ["def decode_calendar(buyers):\n    return buyers", "def lights():\n    pass", "x = 1"]


def test_a_difference_is_a_share_of_the_wanted_vector_and_of_a_zero_vector_itself() -> None:
    wanted = np.array([[3.0, 4.0], [0.0, 0.0], [0.6, 0.8]])
    got = np.array([[3.0, 4.5], [0.0, 0.25], [0.6, 0.8]])
    np.testing.assert_allclose(relative_differences(got, wanted, "it"), [0.1, 0.25, 0.0])
    with pytest.raises(ExportError, match=r"shape \(3, 2\) from it, got \(2, 2\)"):
        relative_differences(got[:2], wanted, "it")


def test_possible_ranks_move_by_codes_that_score_as_well_as_alike() -> None:
    # Scores of the one query: 0.5, 0.5 + 1e-6, 0.6, 0.4; its own code is the first.
    codes = np.array([[0.5], [0.5 + 1e-6], [0.6], [0.4]])
    query, own = np.array([[1.0]]), np.array([[0]])
    for slack, expected in ((1e-7, (3, 3)), (1e-5, (2, 3)), (0.5, (1, 4))):
        least, most = possible_ranks(query, codes, own, slack)
        assert (least[0], most[0]) == expected
    # The third answers the query too: of the best of both, and its fellow takes no place from it.
    for slack, expected in ((1e-5, (1, 1)), (0.2, (1, 2)), (0.5, (1, 3))):
        least, most = possible_ranks(query, codes, np.array([[0, 2, -1]]), slack)
        assert (least[0], most[0]) == expected


def test_possible_ranks_are_not_widened_by_a_third_code_s_length() -> None:
    codes = np.array([[1.0, 0.0], [1.1, 0.0], [-1.0, 1e6]])
    least, most = possible_ranks(np.array([[1.0, 0.0]]), codes, np.array([[0]]), 1e-5)
    assert (least[0], most[0]) == (2, 3)  # the long one itself is too uncertain to say


def honest(model: Model) -> Reader:
    """A reader that gives the model's own vectors in single precision."""

    def read(recipe: str, folder: Path, jobs: Sequence[Job]) -> list[np.ndarray]:
        return [model.encode_queries(job[0]) if job[1] == "query" else model.encode_codes(job[0]) for job in jobs]

    return read


def ranked(model: Model) -> Ranked:
    """Two queries among three codes, the second's own code first in score by what `model` makes of them."""
    scores = model.encode_queries(QUERIES) @ model.encode_codes(CODES).T
    ranks = [1 + (row > row[own]).sum() for own, row in enumerate(scores)]
    return Ranked("python", "test", QUERIES, CODES, np.arange(len(QUERIES))[:, None], 1 / np.array(ranks, np.float64))


@pytest.mark.parametrize("encoder", ["bag", "mean"])
def test_the_trained_models_own_vectors_and_ranks_pass(encoder: str, trained: Callable[..., Model]) -> None:
    model = trained(encoder)
    found = check(expect(model, [ranked(model)]), honest(model), "", Path(), what="it")
    assert 0 < found.difference < 1e-6
    assert (found.queries, found.other_ranks) == (2, 0)
    assert found.mrr == found.stored_mrr == np.mean(ranked(model).reciprocal_ranks)


def test_vectors_of_a_dot_product_are_compared_by_their_length(trained: Callable[..., Model]) -> None:
    model = trained("mean", "dot")
    expected = expect(model)
    assert np.linalg.norm(expected.vectors[0], axis=1).max() > 2

    def larger(share: float) -> Reader:
        return lambda *args: [each * (1 + share) for each in honest(model)(*args)]

    assert check(expected, larger(8e-6), "", Path(), what="it").difference == pytest.approx(8e-6, rel=0.1)
    with pytest.raises(ExportError, match=r"1\.2\d?e-05 for the"):
        check(expected, larger(1.2e-5), "", Path(), what="it")


@pytest.mark.parametrize("wrong", [1e-3, np.nan])
def test_one_wrong_vector_is_named_with_its_text(wrong: float, trained: Callable[..., Model]) -> None:
    model = trained("bag")

    def read(*args) -> list[np.ndarray]:
        vectors = honest(model)(*args)
        vectors[1][2, 3] += wrong
        return vectors

    with pytest.raises(ExportError, match=r"from the onnx folder.* for the query 'def add") as caught:
        check(expect(model), read, "", Path(), what="the onnx folder")
    assert "\n" not in str(caught.value)


def test_a_model_that_does_not_give_its_runs_ranks_is_refused_before_anything_is_written(
    trained: Callable[..., Model],
) -> None:
    model = trained("bag")
    other = ranked(model).reciprocal_ranks.copy()
    other[1] = 1 / (1 / other[1] % 3 + 1)  # 1, 2, 3 become 2, 3, 1
    with pytest.raises(ExportError, match=r"test ranks of python.*stored model, before it was exported, for 1 of 2"):
        expect(model, [replace(ranked(model), reciprocal_ranks=other)])


def test_a_fresh_process_that_fails_says_why_in_one_line(tmp_path: Path) -> None:
    for recipe, said in (
        ("raise OSError('no such file')", "no such file"),
        ("import softnce_ray", "needs softnce_ray"),
    ):
        recipe += "\nimport numpy\nencode = lambda texts, side: numpy.zeros((len(texts), 2))"
        with pytest.raises(ExportError, match=said) as caught:
            in_a_fresh_process(recipe, tmp_path / "best", [(["a"], "code")])
        assert "\n" not in str(caught.value)


def test_a_fresh_process_gives_vectors_in_the_order_of_the_texts(tmp_path: Path) -> None:
    recipe = "import numpy\nencode = lambda texts, side: numpy.array([[len(text), side == 'query'] for text in texts])"
    texts = ["x" * ((7 * number) % 200) for number in range(200)]
    codes, queries = in_a_fresh_process(recipe, tmp_path, [(texts, "code"), (texts[:3], "query")])
    assert codes.tolist() == [[len(text), 0] for text in texts]
    assert queries.tolist() == [[len(text), 1] for text in texts[:3]]
