"""Texts as token ids: tokenised once, kept on disk, memory-mapped by every trial.

A token folder holds `tokenizer.json` and, per language, split and side (query or code), the ids of all texts
end to end with the offset of each text. Nothing is padded. For encoders that read graphs those of the functions lie
beside their ids.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, compress, product
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from softnce_ray.config import Inputs, TokenSettings, how_to_get
from softnce_ray.corpus.arrays import GrowingArray, load_array
from softnce_ray.corpus.dataflow import SYNTAXES, GraphLimits
from softnce_ray.corpus.duplicates import as_hashes, first_equal, normalise_code, normalise_query, text_hash
from softnce_ray.corpus.graph_tokens import GRAPHS_VERSION, graph_texts_in_parts
from softnce_ray.corpus.pairs import SPLITS, CorpusError
from softnce_ray.corpus.ragged import Graphs, Ragged
from softnce_ray.corpus.scripts import ALPHABET, Alphabet, scripts_of
from softnce_ray.corpus.store import Corpus
from softnce_ray.files import read_file
from softnce_ray.named import located
from softnce_ray.shared import shared_once
from softnce_ray.storage import Location

TOKENS_VERSION = 3
SIDES = ("query", "code")
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
"""RoBERTa's special tokens in RoBERTa's order: padding is id 1."""

TOKENIZER_TEXTS = 300_000
"""Texts that a tokenizer is trained on at most: its trainer holds every different word, some kilobytes each."""

WORDS_ALONE = Inputs(special=False)
"""No tokenizer by name, no special tokens, no graph: what a bag of words reads."""

_CHUNK = 2_000

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TokenStore:
    """A finished token folder."""

    folder: Path

    @property
    def tokenizer(self) -> Tokenizer:
        return only_text(Tokenizer.from_str(read_file(self.folder / "tokenizer.json").decode()))

    def texts(self, language: str, split: str, side: str) -> Ragged:
        """Texts of one side of a split, memory-mapped, in the order of the corpus' table."""
        stem = self.folder / language / f"{split}.{side}"

        def array(name: str) -> np.ndarray:
            return load_array(f"{stem}.{name}.npy")

        graphs = None
        if Path(f"{stem}.spans.npy").exists():
            graphs = Graphs(array("spans"), array("node_offsets"), array("edges").T, array("edge_offsets"))
        return Ragged(array("ids"), array("offsets"), graphs)

    def unknown_shares(self, languages: Iterable[str]) -> dict[tuple[str, str], float]:
        """(language, side) → share of the tokens of training texts that stand for what the tokenizer does not know."""
        return {
            (language, side): unknown_share(self.tokenizer, self.texts(language, "train", side).ids)
            for language, side in product(languages, SIDES)
        }

    def groups(self, language: str) -> np.ndarray:
        """(2, n) int32, memory-mapped: training pairs with equal numbers in row 0 have the same normalised query, in
        row 1 the same normalised code."""
        return load_array(self.folder / language / "train.groups.npy", dimensions=2)


def token_key(corpus: Corpus, settings: TokenSettings, inputs: Inputs) -> str:
    """Name of the folder for this corpus and these settings; equal keys mean equal tokens."""
    tokenizer = located(inputs.tokenizer) if inputs.tokenizer else None
    named = _folder_digest(Path(tokenizer)) if tokenizer and Path(tokenizer).is_dir() else tokenizer
    content = [TOKENS_VERSION, corpus.fingerprint, settings.model_dump(), named, inputs.special]
    # Without these, names are those that there were before there was a prefix, a graph or a prompt.
    if inputs.prefix is not None:
        content.append({"prefix": inputs.prefix})
    if inputs.flow_length is not None:
        content.append({"flow_length": inputs.flow_length, "graphs": GRAPHS_VERSION})
    if inputs.query_prompt or inputs.code_prompt:
        content.append({"prompts": [inputs.query_prompt, inputs.code_prompt]})
    if tokenizer is None and _training_text_count(corpus) > TOKENIZER_TEXTS:
        # Smaller corpora have the names that they had before there was a sample.
        content.append({"tokenizer_texts": TOKENIZER_TEXTS})
    if tokenizer is None and scripts_of(corpus).needs_bytes:
        content.append({"alphabet": "bytes"})
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _folder_digest(folder: Path) -> str:
    """Hash of the files that a tokenizer is made of; weights beside them do not count."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".txt", ".model"):
            digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def prepare_tokens(
    corpus: Corpus,
    settings: TokenSettings,
    root: str | Path | Location,
    inputs: Inputs = WORDS_ALONE,
    *,
    progress: Progress | None = None,
) -> TokenStore:
    """Tokenise a corpus unless that has been done.

    Args:
      corpus: every language and split of it is tokenised; with a graph, every language whose data flow is known.
      settings: lengths, vocabulary and identifiers.
      root: a folder or URI; the token folder is made below it, under its key.
      inputs: what the encoder reads of a text. Without a tokenizer a BPE tokenizer is trained on the training split,
        or a sample of `TOKENIZER_TEXTS` of its queries and codes where there are more, which is always the same one.
      progress: called with (texts done, texts in all).

    Raises:
      CorpusError: the named tokenizer cannot be loaded or lacks the prefix.
      OSError: the folder cannot be written.
    """
    name = f"tokens/{token_key(corpus, settings, inputs)}"

    def make(folder: Path) -> None:
        _write_tokens(folder, corpus, settings, inputs, progress)
        corpus.check_unchanged()  # else its name would say what it is not

    return TokenStore(shared_once(Location.at(root), name, make))


def _write_tokens(
    folder: Path, corpus: Corpus, settings: TokenSettings, inputs: Inputs, progress: Progress | None
) -> None:
    if inputs.tokenizer:
        tokenizer = named_tokenizer(inputs.tokenizer, inputs.prefix)
    else:
        as_bytes = scripts_of(corpus).needs_bytes
        tokenizer = train_tokenizer(_training_texts(corpus), settings, inputs.special, as_bytes=as_bytes)
    file = folder / "tokenizer.json"
    tokenizer.save(str(file))
    languages = [each for each in corpus.languages if inputs.flow_length is None or each in SYNTAXES]
    total = sum(sum(corpus.manifest.languages[each].pairs.values()) for each in languages) * len(SIDES)
    kind = np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.int32
    done = 0
    for language, split, side in product(languages, SPLITS, SIDES):
        (folder / language).mkdir(exist_ok=True)
        texts = _texts(corpus, language, split, side)
        if side == "code" and inputs.flow_length is not None:
            limits = GraphLimits(settings.code_length, inputs.flow_length)
            count = corpus.manifest.languages[language].pairs.get(split, 0)
            parts = graph_texts_in_parts(texts, language, file, limits, total=count)
        else:
            length = settings.query_length if side == "query" else settings.code_length
            prompt = inputs.query_prompt if side == "query" else inputs.code_prompt
            parts = (token_texts(part, tokenizer, length, inputs.special, prompt) for part in texts)
        for written in _write_texts(parts, folder / language / f"{split}.{side}", kind):
            done += written
            if progress:
                progress(done, total)
    for language in languages:
        np.save(folder / language / "train.groups.npy", text_groups(corpus, [language]))


def token_texts(texts: Sequence[str], tokenizer: Tokenizer, length: int, special: bool, prompt: str = "") -> Ragged:
    """Texts after `prompt` as token ids, of each `length` at most; the tokenizer is left cutting there."""
    tokenizer.enable_truncation(length)
    if prompt:
        texts = [prompt + text for text in texts]
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=special)
    ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int64)
    return Ragged(ids, np.cumsum([0, *map(len, encodings)]))


def _write_texts(parts: Iterable[Ragged], stem: Path, kind: type) -> Iterator[int]:
    """Write what `TokenStore.texts` reads; yields how many texts each part had."""
    with ExitStack() as files:

        def file(name: str, kind: type, width: int | None = None) -> GrowingArray:
            return files.enter_context(GrowingArray(Path(f"{stem}.{name}.npy"), kind, width))

        ids, ends = file("ids", kind), _Ends(file("offsets", np.int64))
        graphs: tuple[GrowingArray, _Ends, GrowingArray, _Ends] | None = None
        for part in parts:
            ids.append(part.ids)
            ends.append(part.offsets)
            if part.graphs is not None:
                if graphs is None:
                    nodes = file("spans", np.uint16, 2), _Ends(file("node_offsets", np.int64))
                    graphs = *nodes, file("edges", np.uint16, 2), _Ends(file("edge_offsets", np.int64))
                graphs[0].append(part.graphs.spans)
                graphs[1].append(part.graphs.node_offsets)
                graphs[2].append(part.graphs.edges.T)
                graphs[3].append(part.graphs.edge_offsets)
            yield len(part)


class _Ends:
    """Offsets of parts, written as those of the whole."""

    def __init__(self, file: GrowingArray) -> None:
        self.file, self.end = file, 0
        file.append(np.zeros(1, np.int64))

    def append(self, offsets: np.ndarray) -> None:
        self.file.append(offsets[1:] + self.end)
        self.end += int(offsets[-1])


def text_groups(corpus: Corpus, languages: Sequence[str]) -> np.ndarray:
    """(2, n) int32 for the training pairs of `languages`, one language after another: see `TokenStore.groups`."""
    numbers = []
    for side, normalise in (("query", normalise_query), ("code", normalise_code)):
        hashes = bytearray()
        for language in languages:
            for texts in _texts(corpus, language, "train", side):
                hashes += b"".join(text_hash(normalise(text)) for text in texts)
        numbers.append(np.unique(first_equal(as_hashes(hashes)), return_inverse=True)[1].astype(np.int32))
    return np.stack(numbers)


def train_tokenizer(
    texts: Iterable[list[str]], settings: TokenSettings, special: bool, *, as_bytes: bool | None = None
) -> Tokenizer:
    """A BPE tokenizer whose file alone repeats all that is done to a text.

    Identifiers are split (`parseDate_x` → parse date x) and lower-cased by its normalizer, so that an
    exported model needs no code of ours.

    Args:
      as_bytes: merge bytes, of which any text is made, and not the `ALPHABET` most frequent characters; None: where the
        texts need it, which are then read twice.
    """
    if as_bytes is None:
        texts = list(texts)
        alphabet = Alphabet()
        for part in texts:
            alphabet.add(part)
        as_bytes = alphabet.needs_bytes
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    steps: list[normalizers.Normalizer] = [normalizers.NFKC()]
    if settings.split_identifiers:
        steps.append(normalizers.Replace(Regex(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_+"), " "))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(r"[\p{L}\p{M}_]+|\p{N}+|[^\s\p{L}\p{M}\p{N}_]"), "removed", invert=True)
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_]) if as_bytes else words
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=list(SPECIAL),
        min_frequency=2,
        limit_alphabet=ALPHABET,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if as_bytes else [],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[(name, SPECIAL.index(name)) for name in ("<s>", "</s>")]
        )
    return only_text(tokenizer)


def unknown_share(tokenizer: Tokenizer, ids: np.ndarray) -> float:
    """Share of token ids that stand for what the tokenizer does not know."""
    model = json.loads(tokenizer.to_str())["model"]
    name = model.get("unk_token")
    unknown = model.get("unk_id") if name is None else tokenizer.token_to_id(name)
    return 0.0 if unknown is None else np.count_nonzero(ids == unknown) / max(1, len(ids))


def only_text(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with every text read as text: `<pad>` in a program is no padding. Special tokens are only those
    that the tokenizer itself puts around a text.

    A tokenizer looks for its special tokens in a text before all else. Those that its model knows too are taken off
    that list, and its file repeats this wherever it is read. The rest is passed over by a flag that no file keeps,
    so that whatever reads a tokenizer from a file calls this.
    """
    content = json.loads(tokenizer.to_str())
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    special = [token for token in content["added_tokens"] if token["special"]]
    known = [token["content"] for token in special if vocabulary.get(token["content"]) == token["id"]]
    if known:
        kept = [token for token in content["added_tokens"] if token["content"] not in known]
        tokenizer = Tokenizer.from_str(json.dumps({**content, "added_tokens": kept}))
    tokenizer.encode_special_tokens = True
    # Unigram and whole words find any entry of their vocabulary in a text, special ones too: a space breaks those.
    unknown = content["model"].get("unk_token")
    found = [
        name
        for name in known
        if len(name) > 1
        and name != unknown
        and vocabulary[name] in tokenizer.encode(name, add_special_tokens=False).ids
    ]
    if found:
        heads = sorted({name[0] for name in found})
        tails = {head: "|".join(re.escape(name[1:]) for name in found if name[0] == head) for head in heads}
        inside = "|".join(f"(?<={re.escape(head)})(?={tail})" for head, tail in tails.items())
        steps = [tokenizer.normalizer] if tokenizer.normalizer else []
        tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(Regex(inside), " ")])
    return tokenizer


def named_tokenizer(name: str, prefix: str | None) -> Tokenizer:
    from transformers import AutoTokenizer

    tokenizer, reason = None, ""
    try:
        tokenizer = AutoTokenizer.from_pretrained(located(name)).backend_tokenizer
    except (OSError, ValueError, ImportError, AttributeError) as error:  # AttributeError: it has none in Rust
        reason = (str(error).splitlines() or [""])[0]
    if tokenizer is None:  # raised here, for whoever tells of it looks at the causes first, which say less
        raise CorpusError(f"encoder.model: no tokenizer that can be used under {name!r} ({reason}); {how_to_get(name)}")
    tokenizer.no_padding()
    return only_text(tokenizer if prefix is None else _with_prefix(tokenizer, prefix, name))


def _with_prefix(tokenizer: Tokenizer, prefix: str, name: str) -> Tokenizer:
    """The tokenizer with `<s> prefix </s>` before each text and `</s>` after it. Its file says so: whoever reads it
    needs no code of ours."""
    ids = {token: tokenizer.token_to_id(token) for token in ("<s>", prefix, "</s>")}
    if missing := [token for token, number in ids.items() if number is None]:
        raise CorpusError(
            f"encoder.model: expected a tokenizer with {', '.join(ids)}, as UniXcoder's, got one without "
            f"{', '.join(missing)} under {name!r}: name that model or a folder with it, or use kind: transformer"
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"<s> {prefix} </s> $A </s>", special_tokens=list(ids.items())
    )
    return tokenizer


def _training_text_count(corpus: Corpus) -> int:
    return sum(counts.pairs.get("train", 0) for counts in corpus.manifest.languages.values()) * len(SIDES)


def _training_texts(corpus: Corpus) -> Iterator[list[str]]:
    """Queries and codes of training, or a seeded sample of them where there are more than `TOKENIZER_TEXTS`."""
    total = _training_text_count(corpus)
    sample = None
    if total > TOKENIZER_TEXTS:
        sample = np.zeros(total, bool)
        sample[np.random.default_rng(0).choice(total, TOKENIZER_TEXTS, replace=False)] = True
    start = 0
    for language, side in product(corpus.languages, SIDES):
        for texts in _texts(corpus, language, "train", side):
            part = slice(start, start + len(texts))
            start += len(texts)
            yield texts if sample is None else list(compress(texts, sample[part].tolist()))


def _texts(corpus: Corpus, language: str, split: str, side: str) -> Iterator[list[str]]:
    for rows in corpus.batches(language, split, [side], rows=_CHUNK):
        if len(rows):
            yield rows.column(side).to_pylist()
