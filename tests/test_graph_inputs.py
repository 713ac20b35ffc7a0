"""What GraphCodeBERT is fed: worked out by hand for each language, and against the definition place by place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from softnce_ray.corpus.dataflow import GraphLimits, GraphText, data_flow, gathered, graph_text, subtokens_of
from softnce_ray.graph_inputs import GraphInputs, GraphTensors, graph_inputs, with_node_embeddings

PAD, UNKNOWN = 1, 3


def tensors_of(texts: list[GraphText]) -> GraphTensors:
    graphs = gathered(texts)
    arrays = (graphs.spans, graphs.node_offsets, graphs.edges, graphs.edge_offsets)
    return GraphTensors(*(torch.from_numpy(array.astype(np.int64)) for array in arrays))


def batch_of(texts: list[GraphText], **settings: Any) -> GraphInputs:
    ids = torch.tensor([number for text in texts for number in text.ids.tolist()], dtype=torch.int64)
    offsets = torch.tensor(np.cumsum([0, *(len(text.ids) for text in texts)]))
    return graph_inputs(ids, offsets, tensors_of(texts), pad_id=PAD, node_id=UNKNOWN, **settings)


def tokenizer_of(words: list[str]) -> Tokenizer:
    """A byte-level tokenizer that knows these words; all else is cut into characters."""
    letters = sorted({letter for word in words for letter in word})
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters]
    merges = []
    for word in words:
        for end in range(1, len(word)):
            if word[: end + 1] not in vocabulary:
                merges.append((word[:end], word[end]))
                vocabulary.append(word[: end + 1])
    made = Tokenizer(models.BPE({token: number for number, token in enumerate(vocabulary)}, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return made


# Every snippet says: there is xs, then n is made of it. The nodes are xs, n, xs; n is computed from the second xs (an
# edge from node 1 to 2), which comes from the first (2 to 0). The name xs is two subtokens, Ġx and s. On the left the
# places of subtokens, then the subtoken, then which of the three nodes it sees (#).
PICTURES = {
    "python": (
        "def f(xs): n = xs",
        """
        0 <s> ###
        1 def ...
        2 Ġf  ...
        3 Ġ(  ...
        4 Ġx  #..
        5 s   #..
        6 Ġ)  ...
        7 Ġ:  ...
        8 Ġn  .#.
        9 Ġ=  ...
        10 Ġx ..#
        11 s  ..#
        12 </s> ###
        """,
        [[4, 6], [8, 9], [10, 12]],
        # what the nodes at places 13, 14 and 15 see
        [[4, 5], [8, 15], [10, 11, 13]],
    ),
    "java": (
        "int f(int xs) { int n = xs; }",
        """
        0 <s> ###
        1 int ...
        2 Ġf  ...
        3 Ġ(  ...
        4 Ġint ...
        5 Ġx  #..
        6 s   #..
        7 Ġ)  ...
        8 Ġ{  ...
        9 Ġint ...
        10 Ġn .#.
        11 Ġ= ...
        12 Ġx ..#
        13 s  ..#
        14 Ġ; ...
        15 Ġ} ...
        16 </s> ###
        """,
        [[5, 7], [10, 11], [12, 14]],
        [[5, 6], [10, 19], [12, 13, 17]],
    ),
    "javascript": (
        "xs => { n = xs }",
        """
        0 <s> ###
        1 x   #..
        2 s   #..
        3 Ġ=  ...
        4 >   ...
        5 Ġ{  ...
        6 Ġn  .#.
        7 Ġ=  ...
        8 Ġx  ..#
        9 s   ..#
        10 Ġ} ...
        11 </s> ###
        """,
        [[1, 3], [6, 7], [8, 10]],
        [[1, 2], [6, 14], [8, 9, 12]],
    ),
    "go": (
        "func f(xs T) { n := xs }",
        """
        0 <s>  ###
        1 func ...
        2 Ġf   ...
        3 Ġ(   ...
        4 Ġx   #..
        5 s    #..
        6 ĠT   ...
        7 Ġ)   ...
        8 Ġ{   ...
        9 Ġn   .#.
        10 Ġ:  ...
        11 =   ...
        12 Ġx  ..#
        13 s   ..#
        14 Ġ}  ...
        15 </s> ###
        """,
        [[4, 6], [9, 10], [12, 14]],
        [[4, 5], [9, 18], [12, 13, 16]],
    ),
    "php": (
        "function f($xs) { $n = $xs; }",
        """
        0 <s>  ###
        1 func ...
        2 tion ...
        3 Ġf   ...
        4 Ġ(   ...
        5 Ġ$   ...
        6 Ġx   #..
        7 s    #..
        8 Ġ)   ...
        9 Ġ{   ...
        10 Ġ$  ...
        11 Ġn  .#.
        12 Ġ=  ...
        13 Ġ$  ...
        14 Ġx  ..#
        15 s   ..#
        16 Ġ;  ...
        17 Ġ}  ...
        18 </s> ###
        """,
        [[6, 8], [11, 12], [14, 16]],
        [[6, 7], [11, 21], [14, 15, 19]],
    ),
    "ruby": (
        "def f(xs) n = xs end",
        """
        0 <s> ###
        1 def ...
        2 Ġf  ...
        3 Ġ(  ...
        4 Ġx  #..
        5 s   #..
        6 Ġ)  ...
        7 Ġn  .#.
        8 Ġ=  ...
        9 Ġx  ..#
        10 s  ..#
        11 Ġe ...
        12 nd ...
        13 </s> ###
        """,
        [[4, 6], [7, 8], [9, 11]],
        [[4, 5], [7, 16], [9, 10, 14]],
    ),
}
WORDS = ["def", "Ġf", "Ġ(", "Ġx", "Ġ)", "Ġ:", "Ġn", "Ġ=", "Ġ;", "Ġ{", "Ġ}", "Ġint", "int", "func", "ĠT", "Ġ$", "tion",
         "Ġe", "nd", "s", ">"]  # fmt: skip


@pytest.mark.parametrize("language", PICTURES)
def test_inputs_worked_out_by_hand(language: str) -> None:
    code, picture, spans, seen_by_nodes = PICTURES[language]
    rows = [line.split() for line in picture.strip().splitlines()]
    length = len(rows)
    tokenizer = tokenizer_of(WORDS)
    text = graph_text(
        data_flow(code, language), code, subtokens_of(tokenizer), GraphLimits(256, 64), cls_id=0, sep_id=2
    )
    assert [[str(place), tokenizer.id_to_token(number)] for place, number in enumerate(text.ids)] == [
        row[:2] for row in rows
    ]
    assert text.spans.tolist() == spans
    assert text.edges.tolist() == [[1, 2], [2, 0]]

    inputs = batch_of([text], length=320)
    assert inputs.ids.tolist() == [[*text.ids.tolist(), 3, 3, 3, *[1] * (317 - length)]]
    assert inputs.positions.tolist() == [[*range(2, length + 2), 0, 0, 0, *[1] * (317 - length)]]
    mask = inputs.mask[0]
    assert mask[:length, :length].all()
    assert ["".join(".#"[int(sees)] for sees in row) for row in mask[:length, length : length + 3]] == [
        row[2] for row in rows
    ]
    assert [mask[length + node].nonzero().flatten().tolist() for node in range(3)] == seen_by_nodes
    assert not mask[length + 3 :].any() and not mask[:, length + 3 :].any()


def test_a_node_sees_neither_itself_nor_special_tokens() -> None:
    text = GraphText(np.array([0, 7, 2]), np.array([[1, 2]]), np.zeros((2, 0), np.int64))
    assert batch_of([text]).mask[0, 3].tolist() == [False, True, False, False]


def some_text(inner: int, spans: list[tuple[int, int]], edges: list[tuple[int, int]]) -> GraphText:
    kept = sorted((start, end) for start, end in spans if start < end <= inner + 1)
    inside = sorted({edge for edge in edges if max(edge) < len(kept) and edge[0] != edge[1]})
    ids = np.array([0, *range(10, 10 + inner), 2], np.int64)
    return GraphText(ids, np.array(kept, np.int64).reshape(-1, 2), np.array(inside, np.int64).reshape(-1, 2).T)


number = st.integers(1, 6)
texts = st.lists(
    st.builds(
        some_text,
        st.integers(0, 6),
        st.lists(st.tuples(number, number), max_size=5),
        st.lists(st.tuples(number.map(lambda n: n - 1), number.map(lambda n: n - 1)), max_size=6),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=100, deadline=None)
@given(batch=texts, spare=st.integers(0, 3))
def test_the_mask_is_the_definition(batch: list[GraphText], spare: int) -> None:
    places = max(len(text.ids) + len(text.spans) for text in batch) + spare
    inputs = batch_of(batch, length=places)
    assert inputs.mask.shape == (len(batch), places, places)
    for text, mask, ids, positions in zip(batch, inputs.mask, inputs.ids, inputs.positions, strict=True):
        length = len(text.ids)
        used = length + len(text.spans)
        edges = set(map(tuple, text.edges.T.tolist()))

        def is_of(node: int, token: int, text: GraphText = text) -> bool:
            return bool(text.spans[node, 0] <= token < text.spans[node, 1])

        def sees(
            row: int, column: int, length: int = length, used: int = used, edges: set = edges, is_of=is_of
        ) -> bool:
            if max(row, column) >= used:
                return False
            if row in (0, length - 1):
                return True
            if row < length:
                return column < length or is_of(column - length, row)
            if column < length:
                return is_of(row - length, column)
            return (row - length, column - length) in edges

        assert mask.tolist() == [[sees(row, column) for column in range(places)] for row in range(places)]
        assert ids.tolist() == [*text.ids.tolist(), *[3] * len(text.spans), *[1] * (places - used)]
        assert positions.tolist() == [*range(2, length + 2), *[0] * len(text.spans), *[1] * (places - used)]


@settings(max_examples=50, deadline=None)
@given(batch=texts)
def test_a_text_is_the_same_alone_and_among_others(batch: list[GraphText]) -> None:
    together = batch_of(batch)
    for place, text in enumerate(batch):
        alone = batch_of([text])
        length = alone.ids.shape[1]
        assert together.ids[place, :length].equal(alone.ids[0])
        assert together.positions[place, :length].equal(alone.positions[0])
        assert together.mask[place, :length, :length].equal(alone.mask[0])


@settings(max_examples=50, deadline=None)
@given(batch=texts)
def test_a_nodes_embedding_is_the_mean_of_its_subtokens(batch: list[GraphText]) -> None:
    inputs = batch_of(batch)
    embeddings = torch.arange(inputs.ids.numel() * 3, dtype=torch.float64).sin().view(*inputs.ids.shape, 3)
    changed = with_node_embeddings(embeddings, inputs)
    for row, text in enumerate(batch):
        length = len(text.ids)
        expected = embeddings[row].clone()
        for node, (start, end) in enumerate(text.spans.tolist()):
            expected[length + node] = embeddings[row, start:end].mean(dim=0)
        torch.testing.assert_close(changed[row], expected)


def test_gradients_of_nodes_reach_their_subtokens() -> None:
    text = some_text(3, [(1, 3)], [])
    inputs = batch_of([text])
    embeddings = torch.zeros(1, 6, 1, requires_grad=True)
    with_node_embeddings(embeddings, inputs)[0, 5].sum().backward()
    assert embeddings.grad is not None
    assert embeddings.grad.flatten().tolist() == [0, 0.5, 0.5, 0, 0, 0]  # the node's own embedding is not used


@settings(max_examples=50, deadline=None)
@given(batch=texts, data=st.data())
def test_graphs_of_some_texts_can_be_taken(batch: list[GraphText], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(batch) - 1), max_size=5))
    taken = tensors_of(batch).take(torch.tensor(rows, dtype=torch.int64))
    expected = tensors_of([batch[row] for row in rows])
    for name in ("spans", "node_offsets", "edges", "edge_offsets"):
        assert getattr(taken, name).equal(getattr(expected, name))


def test_queries_have_no_graph() -> None:
    inputs = graph_inputs(torch.tensor([0, 5, 2, 0, 2]), torch.tensor([0, 3, 5]), None, pad_id=PAD, node_id=UNKNOWN)
    assert inputs.ids.tolist() == [[0, 5, 2], [0, 2, 1]]
    assert inputs.positions.tolist() == [[2, 3, 4], [2, 3, 1]]
    assert inputs.mask[0].all()
    assert inputs.mask[1].tolist() == [[True, True, False], [True, True, False], [False] * 3]
    assert with_node_embeddings(torch.ones(2, 3, 4), inputs).equal(torch.ones(2, 3, 4))


def test_no_texts_and_texts_of_no_tokens_are_fine() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    assert graph_inputs(nothing, torch.zeros(1, dtype=torch.int64), None, pad_id=1, node_id=3).mask.shape == (0, 0, 0)
    empty = graph_inputs(nothing, torch.tensor([0, 0]), None, pad_id=1, node_id=3, length=2)
    assert not empty.mask.any() and empty.ids.tolist() == [[1, 1]]


def test_a_batch_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="at most 4 subtokens and nodes in a text, got 5"):
        batch_of([some_text(2, [(1, 2)], [])], length=4)
    with pytest.raises(ValueError, match="a graph for each of 1 texts, got 2"):
        graph_inputs(
            torch.tensor([0, 2]), torch.tensor([0, 2]), tensors_of([some_text(0, [], [])] * 2), pad_id=1, node_id=3
        )
