"""Tokens: the tokenizer's rules, ragged arrays, and token folders that appear once and whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    ByteLevelBPETokenizer,
    Tokenizer,
    models,
    pre_tokenizers,
    processors,
    trainers,
)

from softnce_ray.config import Inputs, TokenSettings
from softnce_ray.corpus import SPLITS, Corpus, CorpusError, Pair, build_corpus, tokens
from softnce_ray.corpus.ragged import Ragged, concatenate
from softnce_ray.corpus.scripts import scripts_of
from softnce_ray.corpus.tokens import (
    SPECIAL,
    TOKENS_VERSION,
    WORDS_ALONE,
    TokenStore,
    only_text,
    prepare_tokens,
    text_groups,
    token_key,
    train_tokenizer,
)

SETTINGS = TokenSettings(vocabulary=400, query_length=5, code_length=12)


@pytest.fixture(scope="module")
def store(tiny_corpus, tmp_path_factory) -> TokenStore:
    return prepare_tokens(Corpus.open(tiny_corpus), SETTINGS, tmp_path_factory.mktemp("tokens"))


def texts_of(ragged: Ragged) -> list[list[int]]:
    return [ragged.ids[ragged.offsets[i] : ragged.offsets[i + 1]].tolist() for i in range(len(ragged))]


def folders_in(root: Path) -> list[Path]:
    """All but the locks."""
    return [path for path in root.iterdir() if path.suffix != ".lock"]


def ragged(texts: list[list[int]], kind: type = np.uint16) -> Ragged:
    ids: np.ndarray = np.array([token for text in texts for token in text], kind)
    return Ragged(ids, np.cumsum([0, *map(len, texts)]))


def named_folder(folder: Path, words: int = 10) -> str:
    """A folder with a tokenizer of whole words, as transformers writes it."""
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "<pad>": 1, **{f"word{number}": number + 2 for number in range(words)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>").save_pretrained(folder)
    return str(folder)


# --- the tokenizer ---------------------------------------------------------------------------------------

PROSE = [
    "parse date parse date parseDate parse_date HTTP server http server x1 2 utf 8 self . value = 10",
    "the value of self 2024 dates parsed by the HTTP server handle request",
] * 3


def tokenizer_of(*, split_identifiers: bool = True, special: bool = False) -> Tokenizer:
    settings = TokenSettings(vocabulary=2000, split_identifiers=split_identifiers)
    return train_tokenizer(iter([PROSE]), settings, special)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("parseDate", ["parse", "date"]),
        ("HTTPServer", ["http", "server"]),
        ("parse_date", ["parse", "date"]),
        ("__parse__date__", ["parse", "date"]),
        ("PARSE Date", ["parse", "date"]),
        ("handleHTTPRequest", ["handle", "http", "request"]),
        ("utf8", ["utf", "8"]),
        ("self.value=10", ["self", ".", "value", "=", "10"]),
        (" \n\t", []),
        ("", []),
        ("ｐａｒｓｅ", ["parse"]),
    ],
)
def test_identifiers_become_lower_case_words(text, expected):
    assert tokenizer_of().encode(text).tokens == expected


def test_identifiers_can_be_left_whole():
    tokenizer = tokenizer_of(split_identifiers=False)
    assert tokenizer.encode("parseDate").tokens == ["parsedate"]
    assert tokenizer.encode("parse_date").tokens == ["parse_date"]


def test_what_was_never_seen_is_unknown_and_no_error():
    assert set(tokenizer_of().encode("删除").tokens) == {"<unk>"}


CHARACTERS = [chr(0x4E00 + number) for number in range(3000)]


def chinese(count: int, *, characters: int = 3000) -> list[str]:
    """Queries of twelve characters, a few of which are frequent, as in text."""
    chance, some = random.Random(0), CHARACTERS[:characters]
    weights = [1 / (number + 10) for number in range(characters)]
    return ["".join(chance.choices(some, weights, k=12)) for _ in range(count)]


def test_an_alphabet_that_is_too_large_is_read_as_bytes(tmp_path):
    codes = ["def read_file(path): return open(path).read()"] * 2000
    tokenizer = train_tokenizer(iter([chinese(2000), codes]), TokenSettings(vocabulary=2000), False)
    assert tokenizer.get_vocab_size() <= 2000
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    unseen = "𠮷 龘 Ω naïve 🙂 read_file"
    for text in (*chinese(200), *codes[:1], unseen):
        assert "<unk>" not in tokenizer.encode(text).tokens
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(unseen).ids == tokenizer.encode(unseen).ids
    assert tokenizer.encode("read_file").tokens == ["read", "file"]
    assert tokenizer.encode("龘").ids != tokenizer.encode("𠮷").ids


def test_a_tokenizer_whose_alphabet_fits_is_what_it_was():
    fits = [*chinese(500, characters=400), *PROSE]
    stray = [*PROSE * 200, *(f"parse date {letter}" for letter in CHARACTERS[:3])]
    for texts in (fits, stray):
        made = [train_tokenizer(iter([texts]), SETTINGS, False, as_bytes=bytes_).to_str() for bytes_ in (None, False)]
        assert made[0] == made[1]


def test_only_corpora_whose_alphabet_is_too_large_have_other_tokens(tiny_pairs, tiny_corpus, tmp_path):
    folder = tmp_path / "corpus"
    pairs = [dataclasses.replace(pair, query=query) for pair, query in zip(tiny_pairs, chinese(300), strict=False)]
    build_corpus(pairs, folder, valid=20, test=20)
    store = prepare_tokens(Corpus.open(folder), SETTINGS, tmp_path / "tokens")
    assert store.unknown_shares(["python"]) == {("python", "query"): 0, ("python", "code"): 0}
    corpus, plain = Corpus.open(folder), Corpus.open(tiny_corpus)
    for opened, as_bytes in ((corpus, True), (plain, False)):
        assert scripts_of(opened).needs_bytes == as_bytes
        content = [TOKENS_VERSION, opened.fingerprint, SETTINGS.model_dump(), None, False]
        content += [{"alphabet": "bytes"}] if as_bytes else []
        expected = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        assert token_key(opened, SETTINGS, WORDS_ALONE) == expected


def test_the_share_of_unknown_tokens_is_counted(tmp_path, tiny_corpus):
    name = named_folder(tmp_path / "tokenizer")
    store = prepare_tokens(Corpus.open(tiny_corpus), SETTINGS, tmp_path, Inputs(name, special=False))
    assert store.unknown_shares(["python"])["python", "code"] == 1.0  # it knows word0 to word9


def test_special_tokens_have_their_places_and_wrap_texts_where_asked():
    tokenizer = tokenizer_of(special=True)
    assert [tokenizer.token_to_id(name) for name in SPECIAL] == [0, 1, 2, 3, 4]
    assert tokenizer.encode("parse date").tokens == ["<s>", "parse", "date", "</s>"]
    assert tokenizer.encode("").tokens == ["<s>", "</s>"]
    assert tokenizer_of().encode("parse").tokens == ["parse"]


@pytest.mark.parametrize("special", [False, True])
def test_special_tokens_that_stand_in_a_text_are_text(special):
    tokenizer = tokenizer_of(special=special)
    for text, apart in (("<pad>", "< pad >"), ("parse<s>date</s>", "parse < s > date < / s >"), ("<mask>", "< mask >")):
        assert tokenizer.encode(text).tokens == tokenizer.encode(apart).tokens
        again = Tokenizer.from_str(tokenizer.to_str())  # as any library reads the file
        assert again.encode(text).tokens == tokenizer.encode(text).tokens
    inside = tokenizer.encode("<pad> <s> </s> <mask>", add_special_tokens=False).ids
    assert not {SPECIAL.index(name) for name in ("<pad>", "<s>", "</s>", "<mask>")} & set(inside)


CODES = ["def f(x): return '< pad >' < s > </ s > [ PAD ] mask", "parse the date of every string"] * 20
NAMES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=NAMES, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CODES, trainer)
    return tokenizer


def whole_words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.train_from_iterator(CODES, trainers.WordLevelTrainer(special_tokens=NAMES, show_progress=False))
    return tokenizer


def byte_pairs() -> Tokenizer:
    """As CodeBERT's: bytes, RoBERTa's special tokens around a text, and a mask that is only an added token."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(CODES, vocab_size=320, special_tokens=NAMES[:4], show_progress=False)
    made: Tokenizer = tokenizer._tokenizer
    made.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return made


@pytest.mark.parametrize("make", [unigram, whole_words, byte_pairs])
def test_a_named_tokenizer_reads_special_tokens_of_a_text_as_text(make, tmp_path):
    from transformers import PreTrainedTokenizerFast

    text = "x <pad> (y</s>) <mask><s>"
    tokenizer = make()
    assert {1, 2} & set(tokenizer.encode(text, add_special_tokens=False).ids)  # or the test shows nothing
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>").save_pretrained(
        tmp_path / "named"
    )
    codes = [f"def f(a):\n    {text}\n    return value" for text in (text, "plain text of it")]
    pairs = [Pair("three words here", code, "python", "p", "a.py", 1, "f") for code in codes]
    build_corpus({"train": pairs}, tmp_path / "corpus", near_duplicate=None)
    store = prepare_tokens(
        Corpus.open(tmp_path / "corpus"),
        SETTINGS.model_copy(update={"code_length": 100}),
        tmp_path,
        Inputs(str(tmp_path / "named")),
    )
    kept = store.tokenizer
    assert kept.get_vocab_size() == tokenizer.get_vocab_size()
    forbidden = {tokenizer.token_to_id(name) for name in NAMES if name != "<unk>"}
    stored = texts_of(store.texts("python", "train", "code"))
    assert stored == [
        kept.encode(code).ids
        for code in Corpus.open(tmp_path / "corpus").table("python", "train").column("code").to_pylist()
    ]
    wrapped = 1 if make is byte_pairs else 0
    for ids in stored:
        assert not forbidden & set(ids[wrapped : len(ids) - wrapped])
        assert (ids[0] == 0 and ids[-1] == 2) == bool(wrapped)


def test_reading_text_only_changes_no_other_text_and_settles():
    for make in (unigram, whole_words, byte_pairs):
        before = make()
        plain = only_text(Tokenizer.from_str(before.to_str()))
        for text in (*CODES, "", "unseen 删除 < pad > [PAD]"):
            assert plain.encode(text).ids == before.encode(text).ids
        assert only_text(Tokenizer.from_str(plain.to_str())).to_str() == plain.to_str()


def test_the_vocabulary_is_bounded_by_the_settings(tiny_pairs):
    texts = [pair.code for pair in tiny_pairs]
    sizes = [
        train_tokenizer(iter([texts]), TokenSettings(vocabulary=size), False).get_vocab_size() for size in (300, 320)
    ]
    assert sizes[0] <= 300
    assert sizes[1] <= 320


# --- ragged arrays ---------------------------------------------------------------------------------------

some_texts = st.lists(st.lists(st.integers(0, 2**16 - 1), max_size=6), max_size=12)


@given(texts=some_texts.filter(bool), data=st.data())
def test_take_gives_the_texts_of_the_rows_in_their_order(texts, data):
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=15))
    taken = ragged(texts).take(np.array(rows, np.int64))
    assert texts_of(taken) == [texts[row] for row in rows]
    assert len(taken) == len(rows)
    assert taken.ids.dtype == taken.offsets.dtype == np.int64
    assert taken.offsets[0] == 0


@given(parts=st.lists(some_texts, min_size=1, max_size=5))
def test_concatenate_puts_one_part_after_another(parts):
    whole = concatenate([ragged(part) for part in parts])
    assert texts_of(whole) == [text for part in parts for text in part]
    assert len(whole) == sum(map(len, parts))


def test_taking_copies():
    source = ragged([[1, 2], [3]])
    source.take(np.array([0])).ids[0] = 9
    assert source.ids.tolist() == [1, 2, 3]


# --- token folders ---------------------------------------------------------------------------------------


def test_every_text_of_the_corpus_is_there_in_order_and_cut(tiny_corpus, store):
    corpus = Corpus.open(tiny_corpus)
    tokenizer = store.tokenizer
    longest = 0
    for split in SPLITS:
        table = corpus.table("python", split)
        assert len(table)
        for side, length in (("query", 5), ("code", 12)):
            found = texts_of(store.texts("python", split, side))
            whole = [tokenizer.encode(text).ids for text in table.column(side).to_pylist()]
            assert found == [ids[:length] for ids in whole]
            longest = max(longest, *map(len, whole))
    assert longest > 12  # or nothing was cut


def test_ids_are_mapped_and_of_two_bytes(store):
    texts = store.texts("python", "train", "code")
    assert isinstance(texts.ids, np.memmap)
    assert texts.ids.dtype == np.uint16
    assert isinstance(texts.offsets, np.memmap)


def test_a_large_vocabulary_takes_four_bytes(tiny_corpus, tmp_path):
    name = named_folder(tmp_path / "named", words=2**16)
    store = prepare_tokens(Corpus.open(tiny_corpus), SETTINGS, tmp_path, Inputs(name, special=False))
    assert store.tokenizer.get_vocab_size() == 2**16 + 2
    assert store.texts("python", "train", "code").ids.dtype == np.int32


def test_the_file_of_the_tokenizer_alone_repeats_the_ids(tiny_pairs, tiny_corpus, store):
    tokenizer = Tokenizer.from_file(str(store.folder / "tokenizer.json"))
    assert tokenizer.truncation is None
    assert tokenizer.padding is None
    queries = Corpus.open(tiny_corpus).table("python", "test").column("query").to_pylist()
    tokenizer.enable_truncation(5)
    assert [tokenizer.encode(query).ids for query in queries] == texts_of(store.texts("python", "test", "query"))


def test_special_tokens_are_written_and_count_towards_the_length(tiny_corpus, tmp_path):
    store = prepare_tokens(Corpus.open(tiny_corpus), SETTINGS, tmp_path, Inputs())
    for text in texts_of(store.texts("python", "train", "code")):
        assert (text[0], text[-1], len(text)) == (0, 2, 12)


def test_the_tokenizer_is_trained_on_the_training_split_alone(tmp_path):
    code = "def f(a):\n    value = a\n    return value"
    pairs = {
        "train": [Pair("Give the value back", code, "python", "p", "a.py", 1, "f")],
        "test": [Pair("Zebra zebra zebra zebra", code + " * zebra", "python", "q", "b.py", 1, "f")],
    }
    build_corpus(pairs, tmp_path / "corpus", near_duplicate=None)
    store = prepare_tokens(Corpus.open(tmp_path / "corpus"), SETTINGS, tmp_path)
    tokens = store.tokenizer.get_vocab()
    assert "value" in tokens
    assert not any("z" in token for token in tokens)


def test_training_pairs_with_the_same_normalised_query_or_code_have_equal_numbers(tmp_path):
    code = "def f(a):\n    value = a\n    return value"
    texts = [
        ("Give the value back.", code),
        ("Take the value away", "def g(a):\n    del a\n    return None"),
        ("give  the VALUE back!", "def h(a):\n    other = a\n    return other"),  # the query of the first
        ("Return what was given", code.replace(" = ", "   =\n        ")),  # the code of the first
        ("Return what was Given", code.replace("value", "Value")),  # letters' case counts in code
    ]
    pairs = [Pair(*text, "python", "p", "a.py", number, "f") for number, text in enumerate(texts, start=1)]
    build_corpus({"train": pairs}, tmp_path / "corpus", near_duplicate=None)
    store = prepare_tokens(Corpus.open(tmp_path / "corpus"), SETTINGS, tmp_path)
    lines = Corpus.open(tmp_path / "corpus").table("python", "train").column("line").to_pylist()
    groups = store.groups("python")
    assert (groups.shape, groups.dtype) == ((2, 5), np.int32)
    assert isinstance(groups, np.memmap)
    found = [{line: int(number) for line, number in zip(lines, row, strict=True)} for row in groups]
    same = [{(a, b) for a in lines for b in lines if a < b and row[a] == row[b]} for row in found]
    assert same == [{(1, 3), (4, 5)}, {(1, 4)}]


def test_a_large_corpus_trains_its_tokenizer_on_a_sample_and_has_a_name_of_its_own(
    tiny_corpus, store, tmp_path, monkeypatch
):
    corpus = Corpus.open(tiny_corpus)
    texts = 2 * len(corpus.table("python", "train"))
    whole = token_key(corpus, SETTINGS, WORDS_ALONE)
    monkeypatch.setattr(tokens, "TOKENIZER_TEXTS", texts)
    assert token_key(corpus, SETTINGS, WORDS_ALONE) == whole == store.folder.name
    seen: list[str] = []
    original = tokens.train_tokenizer

    def spying(given, *rest, **more):
        seen.extend(text for part in given for text in part)
        return original(iter([seen[:]]), *rest, **more)

    monkeypatch.setattr(tokens, "train_tokenizer", spying)
    monkeypatch.setattr(tokens, "TOKENIZER_TEXTS", 100)
    assert token_key(corpus, SETTINGS, WORDS_ALONE) != whole
    named = token_key(corpus, SETTINGS, Inputs("name", special=False))
    assert named not in (whole, token_key(corpus, SETTINGS, WORDS_ALONE))
    sampled = prepare_tokens(corpus, SETTINGS, tmp_path / "a")
    first = seen[:]
    assert len(first) == 100
    assert any(text.startswith("def ") for text in first)  # codes
    assert not all(text.startswith("def ") for text in first)  # and queries
    seen.clear()
    again = prepare_tokens(corpus, SETTINGS, tmp_path / "b")
    assert seen == first
    assert (again.folder / "tokenizer.json").read_bytes() == (sampled.folder / "tokenizer.json").read_bytes()
    assert len(sampled.texts("python", "train", "code")) == texts // 2


def test_groups_go_across_languages(tmp_path):
    code = "def f(a):\n    value = a\n    return value"
    rows = [("python", "Give it back", code), ("python", "Take it away", code + " + 1"), ("go", "give it BACK!", code)]
    pairs = [Pair(query, text, language, "p", "a", 1, "f") for language, query, text in rows]
    build_corpus({"train": pairs}, tmp_path / "c", near_duplicate=None)
    corpus = Corpus.open(tmp_path / "c")
    assert text_groups(corpus, ["python", "go"]).tolist() == [[0, 1, 0], [0, 1, 0]]
    assert text_groups(corpus, ["go"]).tolist() == [[0], [0]]


def test_groups_are_in_the_order_of_the_training_table(tiny_corpus, store):
    assert store.groups("python").shape == (2, len(Corpus.open(tiny_corpus).table("python", "train")))
    assert all(len(set(row.tolist())) == len(row) for row in store.groups("python"))  # no duplicates in it


def test_an_empty_split_has_no_texts(tmp_path):
    pair = Pair("Give the value back", "def f(a):\n    value = a\n    return value", "python", "p", "a.py", 1, "f")
    build_corpus({"train": [pair]}, tmp_path / "corpus")
    store = prepare_tokens(Corpus.open(tmp_path / "corpus"), SETTINGS, tmp_path)
    for split in ("valid", "test", "codebase"):
        texts = store.texts("python", split, "code")
        assert len(texts) == 0
        assert len(texts.take(np.empty(0, np.int64))) == 0
        assert len(concatenate([texts, store.texts("python", "train", "code")])) == 1
    build_corpus({"test": [pair]}, tmp_path / "untrained")
    without = prepare_tokens(Corpus.open(tmp_path / "untrained"), SETTINGS, tmp_path)
    assert without.groups("python").shape == (2, 0)


def test_what_is_prepared_is_not_prepared_again(tiny_corpus, tmp_path):
    corpus = Corpus.open(tiny_corpus)
    calls: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        calls.append((done, total))

    first = prepare_tokens(corpus, SETTINGS, tmp_path, progress=progress)
    texts = 2 * sum(len(corpus.table("python", split)) for split in SPLITS)
    assert calls[-1] == (texts, texts)
    assert calls == sorted(calls)
    del calls[:]
    assert prepare_tokens(corpus, SETTINGS, tmp_path, progress=progress) == first
    assert calls == []


def test_every_setting_has_a_folder_of_its_own(tiny_corpus, tmp_path):
    corpus = Corpus.open(tiny_corpus)
    name = named_folder(tmp_path / "named")
    keys = [
        token_key(corpus, SETTINGS, WORDS_ALONE),
        token_key(corpus, SETTINGS, Inputs()),
        token_key(corpus, SETTINGS, Inputs(name)),
        *(
            token_key(corpus, SETTINGS.model_copy(update=change), WORDS_ALONE)
            for change in (
                {"vocabulary": 401},
                {"query_length": 6},
                {"code_length": 13},
                {"split_identifiers": False},
            )
        ),
    ]
    build_corpus({"train": [Pair("a b c", "d\ne\nf", "python", "p", "a", 1, "f")]}, tmp_path / "other")
    keys.append(token_key(Corpus.open(tmp_path / "other"), SETTINGS, WORDS_ALONE))
    assert len(set(keys)) == len(keys)
    assert token_key(Corpus.open(tiny_corpus), SETTINGS.model_copy(), WORDS_ALONE) == keys[0]


def test_an_interrupted_preparation_leaves_nothing(tiny_corpus, tmp_path):
    def interrupt(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_tokens(Corpus.open(tiny_corpus), SETTINGS, tmp_path, progress=interrupt)
    assert folders_in(tmp_path / "tokens") == []
    assert len(prepare_tokens(Corpus.open(tiny_corpus), SETTINGS, tmp_path).texts("python", "train", "query"))


def test_of_two_preparations_at_once_one_works_and_both_find_the_folder(tiny_corpus, tmp_path):
    corpus = Corpus.open(tiny_corpus)
    workers: set[int] = set()

    def prepare() -> TokenStore:
        return prepare_tokens(
            corpus, SETTINGS, tmp_path, progress=lambda done, total: workers.add(threading.get_ident())
        )

    with ThreadPoolExecutor(2) as pool:
        one, other = (future.result() for future in [pool.submit(prepare) for _ in range(2)])
    assert one == other
    assert len(workers) == 1
    assert folders_in(tmp_path / "tokens") == [one.folder]


# --- named tokenizers ------------------------------------------------------------------------------------


def test_a_named_tokenizer_is_used_without_its_padding(tmp_path):
    name = named_folder(tmp_path / "named")
    code = "def f(a):\n    value = a\n    return value"
    pairs = [
        Pair(query, code, "python", "p", "a.py", 1, "f")
        for query in ("word0 other word1", "word2 " * 9, "word3 word4 word5")
    ]
    build_corpus({"train": pairs}, tmp_path / "corpus")
    store = prepare_tokens(Corpus.open(tmp_path / "corpus"), SETTINGS, tmp_path, Inputs(name))
    assert store.tokenizer.get_vocab_size() == 12
    assert texts_of(store.texts("python", "train", "query")) == [[2, 0, 3], [4] * 5, [5, 6, 7]]


def test_another_tokenizer_in_the_same_folder_has_other_tokens(tiny_corpus, tmp_path):
    corpus = Corpus.open(tiny_corpus)
    name = named_folder(tmp_path / "named")
    before = token_key(corpus, SETTINGS, Inputs(name))
    file = Path(name) / "tokenizer.json"
    content = json.loads(file.read_text())
    assert token_key(corpus, SETTINGS, Inputs(name)) == before
    file.write_text(json.dumps({**content, "normalizer": {"type": "Lowercase"}}))
    assert token_key(corpus, SETTINGS, Inputs(name)) != before


@pytest.mark.parametrize("name", ["nobody/no-such-tokenizer", "./no-such-folder"])
def test_a_tokenizer_that_is_not_there_is_an_error_that_names_it(tiny_corpus, tmp_path, name):
    with pytest.raises(CorpusError, match=f"encoder.model: no tokenizer .*'{name}'"):
        prepare_tokens(Corpus.open(tiny_corpus), SETTINGS, tmp_path, Inputs(name, special=False))
    assert folders_in(tmp_path / "tokens") == []
