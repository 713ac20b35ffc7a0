"""Graphs over subtokens: what is kept of a text and how it is stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from softnce_ray.corpus.dataflow import (
    DataFlow,
    GraphLimits,
    Graphs,
    GraphText,
    data_flow,
    gathered,
    graph_text,
    subtokens_of,
)

CODE = """
def collect(items, limit, unused):
    total = 0
    for item in items:
        total = total + item
        if total > limit:
            total = limit
    return total
"""
FLOW = data_flow(CODE, "python")


@pytest.fixture
def tokenizer() -> Tokenizer:
    """A byte-level tokenizer, as RoBERTa's, that has learned a few words."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([CODE] * 5, trainer)
    return made


def letters(text: str) -> Sequence[int]:
    """Each character is a subtoken, the space before a word goes with its first."""
    return [ord(character) for character in text.replace(" ", "")]


def test_each_token_is_cut_by_itself_with_a_space_before_all_but_the_first(tokenizer: Tokenizer) -> None:
    text = graph_text(FLOW, CODE, subtokens_of(tokenizer), GraphLimits(), cls_id=0, sep_id=2)
    words = FLOW.texts(CODE)
    expected = tokenizer.encode(words[0]).ids
    for word in words[1:]:
        expected += tokenizer.encode(" " + word).ids
    assert text.ids.tolist() == [0, *expected, 2]
    shown = [tokenizer.id_to_token(number) or "" for number in text.ids]
    assert "".join(shown[1:-1]).split("Ġ") == words
    named = {place for edge in FLOW.edges for place in edge[:2]}
    names = [FLOW.nodes[place].name for place in sorted(named)]
    assert ["".join(shown[a:b]).removeprefix("Ġ") for a, b in text.spans] == names
    assert any(b - a > 1 for a, b in text.spans)


def test_a_special_token_in_a_program_is_text_and_no_piece_is_cut(tokenizer: Tokenizer) -> None:
    tokenizer.enable_truncation(1)
    subtokens = subtokens_of(tokenizer)
    assert tokenizer.truncation is not None
    assert len(subtokens("abcdefghijklm")) > 1
    assert (
        1 not in subtokens("<pad>")
        and "".join(tokenizer.id_to_token(piece) or "" for piece in subtokens("<pad>")) == "<pad>"
    )


def test_a_node_without_an_edge_is_left_out() -> None:
    text = graph_text(FLOW, CODE, letters, GraphLimits(), cls_id=0, sep_id=2)
    assert [node.name for node in FLOW.nodes].count("unused") == 1
    assert len(text.spans) == len(FLOW.nodes) - 1


# def f ( xs ) : n = xs: 3 + 1 + 1 + 2 + 1 + 1 + 1 + 1 + 2 = 13 letters, with both ends 15 subtokens
SHORT = "def f(xs): n = xs"
SHORT_SPANS = [[6, 8], [10, 11], [12, 14]]


@pytest.mark.parametrize(
    ("limits", "length", "spans", "edges"),
    [
        (GraphLimits(15, 3), 15, SHORT_SPANS, [[1, 2], [2, 0]]),
        (GraphLimits(14, 3), 14, SHORT_SPANS[:2], []),  # the last xs is cut in two
        (GraphLimits(12, 3), 12, SHORT_SPANS[:2], []),  # all three nodes have their room
        (GraphLimits(11, 3), 11, SHORT_SPANS[:1], []),
        (GraphLimits(2, 3), 2, [], []),
        (GraphLimits(15, 0), 15, [], []),
        (GraphLimits(12, 6), 15, SHORT_SPANS, [[1, 2], [2, 0]]),  # three of six are the code's
        (GraphLimits(17, 1), 15, SHORT_SPANS, [[1, 2], [2, 0]]),  # and two of the code's the nodes'
        (GraphLimits(16, 1), 15, SHORT_SPANS[:2], []),
        (GraphLimits(15, 2), 15, SHORT_SPANS[:2], []),
    ],
)
def test_what_does_not_fit_is_cut_with_what_hangs_on_it(
    limits: GraphLimits, length: int, spans: list[list[int]], edges: list[list[int]]
) -> None:
    text = graph_text(data_flow(SHORT, "python"), SHORT, letters, limits, cls_id=0, sep_id=2)
    assert len(text.ids) == length and text.ids[0] == 0 and text.ids[-1] == 2
    assert text.spans.tolist() == spans
    assert text.edges.T.tolist() == edges


def test_an_edge_of_both_kinds_is_stored_once() -> None:
    code = "def f(a):\n    a[0] = a"
    flow = DataFlow(((0, 1),), (), ())
    assert graph_text(flow, "a", letters, GraphLimits(), cls_id=0, sep_id=2).ids.tolist() == [0, ord("a"), 2]
    twice = data_flow(code, "python")
    both = DataFlow(twice.tokens, twice.nodes, (*twice.edges, twice.edges[0]._replace(kind="comes from")))
    text = graph_text(both, code, letters, GraphLimits(), cls_id=0, sep_id=2)
    assert text.edges.T.tolist() == [[1, 0], [1, 2], [2, 0]]


def test_a_node_of_no_subtokens_is_left_out() -> None:
    flow = data_flow(SHORT, "python")
    text = graph_text(flow, SHORT, lambda text: [] if text == " xs" else [7], GraphLimits(), cls_id=0, sep_id=2)
    assert text.spans.tolist() == [[6, 7]]  # n, of def f ( ) : n


def test_no_code_is_its_two_ends() -> None:
    text = graph_text(data_flow("", "go"), "", letters, GraphLimits(), cls_id=0, sep_id=2)
    assert text.ids.tolist() == [0, 2] and text.spans.shape == (0, 2) and text.edges.shape == (2, 0)


def test_lengths_without_room_for_both_ends_are_refused() -> None:
    with pytest.raises(ValueError, match="code_length of at least 2"):
        GraphLimits(1)
    with pytest.raises(ValueError, match="flow_length of at least 0"):
        GraphLimits(flow_length=-1)


@given(code_length=st.integers(2, 150), flow_length=st.integers(0, 20))
def test_a_cut_text_agrees_with_the_whole_one(code_length: int, flow_length: int) -> None:
    whole = graph_text(FLOW, CODE, letters, GraphLimits(1_000, 1_000), cls_id=0, sep_id=2)
    cut = graph_text(FLOW, CODE, letters, GraphLimits(code_length, flow_length), cls_id=0, sep_id=2)
    count = len(cut.spans)
    assert cut.ids[:-1].tolist() == whole.ids[: len(cut.ids) - 1].tolist()
    assert cut.spans.tolist() == whole.spans[:count].tolist()
    assert cut.edges.T.tolist() == [edge for edge in whole.edges.T.tolist() if max(edge) < count]
    assert len(cut.ids) + count <= code_length + flow_length
    assert not count or (cut.spans.min() >= 1 and cut.spans.max() <= len(cut.ids) - 1)


def test_graphs_are_stored_end_to_end() -> None:
    first = graph_text(data_flow(SHORT, "python"), SHORT, letters, GraphLimits(), cls_id=0, sep_id=2)
    nothing = graph_text(data_flow("", "go"), "", letters, GraphLimits(), cls_id=0, sep_id=2)
    graphs = gathered([first, nothing, first])
    assert graphs.spans.dtype == graphs.edges.dtype == np.uint16
    assert graphs.spans.tolist() == SHORT_SPANS * 2
    assert graphs.node_offsets.tolist() == [0, 3, 3, 6]
    assert graphs.edges.tolist() == [[1, 2, 1, 2], [2, 0, 2, 0]]
    assert graphs.edge_offsets.tolist() == [0, 2, 2, 4]
    assert len(graphs) == 3 and len(gathered([])) == 0


def text_of(nodes: int, edges: list[tuple[int, int]]) -> GraphText:
    spans = np.arange(2 * nodes).reshape(-1, 2)
    inside = [edge for edge in edges if max(edge) < nodes]
    return GraphText(np.zeros(2, np.int64), spans, np.array(inside, np.int64).reshape(-1, 2).T)


place = st.integers(0, 5)
texts = st.lists(st.builds(text_of, place, st.lists(st.tuples(place, place), max_size=6)), min_size=1, max_size=6)


@settings(max_examples=50)
@given(texts=texts, data=st.data())
def test_any_texts_can_be_taken_out_in_any_order(texts: list[GraphText], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=8))
    taken: Graphs = gathered(texts).take(np.array(rows, np.int64))
    expected = gathered(texts[row] for row in rows)
    for name in ("spans", "node_offsets", "edges", "edge_offsets"):
        assert getattr(taken, name).tolist() == getattr(expected, name).tolist()
