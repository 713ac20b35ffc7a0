"""Study files of all kinds of damage: an answer within seconds, never a traceback, and what passes can be prepared.

The studies that ship are mutated with a seed; a failing case prints its number, which `case` makes again.
"""

from __future__ import annotations

import collections
import copy
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from softnce_ray.config import BagEncoder, StudyConfig, TrialConfig, arm_settings, trial_languages
from softnce_ray.corpus import Corpus
from softnce_ray.errors import UserError
from softnce_ray.preparation import open_data, prepare
from softnce_ray.store import Store
from softnce_ray.study.doctor import check_settings, check_texts, settle
from softnce_ray.study.file import load_study
from softnce_ray.study.planned import planned_trials
from softnce_ray.study.problems import StudyError
from softnce_ray.training import TrainingError, train

STUDIES = sorted((Path(__file__).parents[1] / "search_spaces").glob("*.yaml"))
SECONDS = 20
Key = tuple[Any, ...]

NUMBERS = [
    0,
    -1,
    1,
    2,
    3,
    7,
    100,
    0.1,
    0.9,
    1e-4,
    1.5,
    10**9,
    -(10**9),
    2**31,
    2**63,
    10**400,
    1e308,
    -1e308,
    1e-308,
    5e-324,
    0.5,
    -0.0,
]
NUMBERS += [float("nan"), float("inf"), float("-inf")]
OTHERS: list[Any] = [
    None,
    True,
    False,
    "",
    " ",
    "no",
    "1e-4",
    "0x10",
    "1:30",
    [],
    {},
    [[]],
    [None],
    {"a": None},
    "~",
    "null",
    "-",
]
OTHERS += ["..", "/", "../../etc", "a" * 300, "\u202e", "\x07", "naïve", "漢字", "😀", "İ", "ﬀ"]
NAMES = ["Größe", "漢字", "😀", "a\u202eb", "A B", "", " ", "a" * 64, "../a", "-a", "é", "\u0130"]
UNQUOTED = ["no", "on", "1", "1.5", "null", "~", "2020-01-01", "0x1F", ".nan", "1_000", "=", "<<"]
TAGS = ["!!int", "!!float", "!!bool", "!!null", "!!binary", "!!timestamp", "!!set", "!!omap", "!!str", "!own"]
TAGS += ["!!python/object:os.system", "!!python/name:os.system", "!!map", "!!seq", "!!merge", "!!value"]


def places(value: Any, key: Key = ()) -> Iterator[Key]:
    """The keys of everything in a study."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in inner:
        yield (*key, name)
        yield from places(each, (*key, name))


def parent(study: Any, key: Key) -> Any:
    for name in key[:-1]:
        study = study[name]
    return study


def dumped(study: Any) -> str:
    return yaml.safe_dump(study, sort_keys=False, allow_unicode=True)


def drop(study: Any, at: Key, chance: random.Random) -> str:
    del parent(study, at)[at[-1]]
    return dumped(study)


def replace(values: list[Any]) -> Callable[[Any, Key, random.Random], str]:
    def mutate(study: Any, at: Key, chance: random.Random) -> str:
        parent(study, at)[at[-1]] = copy.deepcopy(chance.choice(values))
        return dumped(study)

    return mutate


def number(study: Any, at: Key, chance: random.Random) -> str:
    """One of its numbers is another one."""
    numbers = [key for key in places(study) if isinstance(parent(study, key)[key[-1]], int | float)]
    return replace(NUMBERS)(study, chance.choice(numbers), chance)


def swap(study: Any, at: Key, chance: random.Random) -> str:
    """The value of one place also in another."""
    other = chance.choice(list(places(study)))
    parent(study, at)[at[-1]] = copy.deepcopy(parent(study, other)[other[-1]])
    return dumped(study)


def rename(study: Any, at: Key, chance: random.Random) -> str:
    within = parent(study, at)
    if isinstance(within, dict):
        within[chance.choice(NAMES)] = within.pop(at[-1])
    else:
        within[at[-1]] = chance.choice(NAMES)
    return dumped(study)


def unquoted(study: Any, at: Key, chance: random.Random) -> str:
    parent(study, at)[at[-1]] = "MARK"
    within = parent(study, at)
    if isinstance(within, dict) and chance.random() < 0.5:
        within["MARK"] = within.pop(at[-1])
    return dumped(study).replace("MARK", chance.choice(UNQUOTED))


def nest(study: Any, at: Key, chance: random.Random) -> str:
    deep = chance.choice([3, 30, 60, 300, 30_000])
    kind = chance.choice(["[]", "{}"])
    parent(study, at)[at[-1]] = "MARK"
    opening, closing = ("[", "]") if kind == "[]" else ("{a: ", "}")
    return dumped(study).replace("MARK", opening * deep + chance.choice(["1", ""]) + closing * chance.choice([deep, 0]))


def tag(study: Any, at: Key, chance: random.Random) -> str:
    parent(study, at)[at[-1]] = "MARK"
    text = chance.choice(["", "x", "1", "[1, 2]", "{a: 1}", "'2020-13-01'", "[[a, 1]]"])
    return dumped(study).replace("MARK", f"{chance.choice(TAGS)} {text}")


def alias(study: Any, at: Key, chance: random.Random) -> str:
    """Anchors that are named elsewhere, themselves included, once or more and more often."""
    whole = copy.deepcopy(study)
    parent(study, at)[at[-1]] = "MARK"
    text = dumped(study)
    match chance.randrange(7):
        case 6:  # as PyYAML writes what stands in two places
            other = chance.choice(list(places(whole)))
            if other[: len(at)] != at:
                parent(whole, at)[at[-1]] = parent(whole, other)[other[-1]]
            return dumped(whole)
        case 0:
            return text.replace("MARK", "*none")
        case 1:
            return text.replace("MARK", "&a [*a]")
        case 2:
            return text.replace("MARK", "&a {k: *a}")
        case 3:
            return "x: &a {k: v}\n" + text.replace("MARK", "{<<: *a, <<: [*a, *a], k: w}")
        case 4:
            return "x: &a 1\n" + text.replace("MARK", "*a")
    inner = chance.choice(["[{}]", "{{<<: [{}]}}", "{{k: [{}]}}"])
    levels = [f"x{n}: &x{n} " + inner.format(", ".join([f"*x{n - 1}"] * 9)) for n in range(1, 10)]
    return "\n".join(["x0: &x0 {k: v}", *levels, text.replace("MARK", "*x9")])


def duplicate(study: Any, at: Key, chance: random.Random) -> str:
    lines = dumped(study).splitlines(keepends=True)
    line = chance.randrange(len(lines))
    lines.insert(chance.choice([line, chance.randrange(len(lines))]), lines[line])
    return "".join(lines)


def truncate(study: Any, at: Key, chance: random.Random) -> str:
    text = dumped(study)
    return text[: chance.randrange(len(text))]


def many(study: Any, at: Key, chance: random.Random) -> str:
    count = chance.choice([50, 1001, 20_000])
    kinds: list[Any] = [list(range(count)), [1] * count, [f"n{number}" for number in range(count)]]
    kinds += [
        {f"n{number}": {} for number in range(count)},
        {"choices": list(range(count))},
        [{"name": "python"}] * count,
    ]
    parent(study, at)[at[-1]] = chance.choice(kinds)
    return dumped(study)


def flip(study: Any, at: Key, chance: random.Random) -> bytes:
    data = bytearray(dumped(study).encode())
    for _ in range(chance.choice([1, 1, 2, 20])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def garbage(study: Any, at: Key, chance: random.Random) -> bytes:
    data = dumped(study).encode()
    start = chance.randrange(len(data))
    return chance.choice(
        [
            b"",
            b" \n\t\n",
            b"# nothing\n",
            b"---\n---\n",
            b"%YAML 1.2\n---\n" + data,
            data + b"\n...\n" + data,
            b"\xef\xbb\xbf" + data,
            data.decode().encode("utf-16"),
            data.decode().encode("utf-16-le"),
            data[:start] + b"\0" + data[start:],
            data[:start] + b"\t" + data[start:],
            data[:start] + b"\x1b[31m" + data[start:],
            data[:start] + b"\xed\xa0\x80" + data[start:],
            data.replace(b"\n", b"\r"),
            data.replace(b"\n", b"\r\n"),
            data.replace(b"  ", b"\t"),
            bytes(chance.randrange(256) for _ in range(500)),
        ]
    )


KINDS: dict[str, Callable[[Any, Key, random.Random], str | bytes]] = {
    "drop": drop,
    "number": number,
    "type": replace(OTHERS),
    "swap": swap,
    "rename": rename,
    "unquoted": unquoted,
    "nest": nest,
    "tag": tag,
    "alias": alias,
    "duplicate": duplicate,
    "truncate": truncate,
    "many": many,
    "flip": flip,
    "garbage": garbage,
}


def case(number: int, corpus: Path) -> tuple[str, bytes]:
    """The kind and the text of a mutated study of this number, on the tiny corpus."""
    chance = random.Random(number)
    kind = list(KINDS)[number % len(KINDS)]
    study = yaml.safe_load(chance.choice(STUDIES).read_text(encoding="utf-8"))
    study |= {"corpus": str(corpus), "languages": ["python"]}
    for key in places(study):  # which the tiny corpus has no pairs for
        if key[-1] in ("batch_size", "training.batch_size"):
            within = parent(study, key)
            within[key[-1]] = {"choices": [16, 32]} if isinstance(within[key[-1]], dict) else 32
    data = KINDS[kind](study, chance.choice(list(places(study))), chance)
    return kind, data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")


def checked(file: Path, store: Store) -> StudyConfig | None:
    """What `launch --dry-run` does with a file: the study, or None where it is refused, in words."""
    try:
        study = load_study(file)
        shown = list(planned_trials(study))
        assert all("\n" not in cell for row in shown for cell in row)
        study, notes = settle(study)
        notes += check_settings(study, store)
        notes += check_texts(study, Corpus.open(study.corpus))
        assert all(note and "\n" not in note for note in notes)
        return study
    except UserError as error:
        lines = str(error).splitlines()
        assert 0 < len(lines) <= 101
        assert all(len(line) < 2_300 for line in lines)
        if isinstance(error, StudyError):
            assert all(line.startswith(f"{file}:") for line in lines), lines
        return None


def check_all(numbers: range, corpus: Path, folder: Path) -> tuple[collections.Counter[str], list[StudyConfig]]:
    """Check many cases: figures by kind and outcome, and the studies that passed."""
    found: collections.Counter[str] = collections.Counter()
    passed = []
    store, file = Store.at(folder / "store"), folder / "study.yaml"
    for number in numbers:
        kind, data = case(number, corpus)
        file.write_bytes(data)
        began = time.monotonic()
        try:
            study = checked(file, store)
        except Exception as error:
            raise AssertionError(f"case {number} ({kind}): {type(error).__name__}: {error}") from error
        assert time.monotonic() - began < SECONDS, f"case {number} ({kind}) took {time.monotonic() - began:.0f} s"
        found[f"{kind}: {'refused' if study is None else 'accepted'}"] += 1
        if study is not None:
            passed.append(study)
    print(dict(sorted(found.items())))
    return found, passed


def test_a_damaged_study_is_answered_within_seconds(tiny_corpus: Path, tmp_path: Path) -> None:
    found, passed = check_all(range(392), tiny_corpus, tmp_path)
    assert 15 < len(passed) < 120  # what is tried is neither always wrong nor always right
    assert sum(found[f"{kind}: refused"] > 0 for kind in KINDS) >= len(KINDS) - 1
    assert not (tmp_path / "store").exists()


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_damaged_studies_are_answered_and_what_passes_can_be_prepared_and_trained(
    tiny_corpus: Path, tmp_path: Path
) -> None:
    _, passed = check_all(range(1000, 6000), tiny_corpus, tmp_path)
    small = [study for study in passed if all(is_small(study, name) for name in study.arms)]
    chance = random.Random(0)
    outcomes: collections.Counter[str] = collections.Counter()
    for study in chance.sample(small, 60):
        for name in study.arms:
            outcomes[run(study, name, tiny_corpus, tmp_path / "root")] += 1
    print(dict(outcomes))
    assert outcomes["trained"] > 50


def is_small(study: StudyConfig, name: str) -> bool:
    arm = study.arms[name]
    return isinstance(arm.encoder, BagEncoder) and arm.encoder.width <= 1024 and arm.tokens.vocabulary <= 100_000


def run(study: StudyConfig, name: str, corpus: Path, root: Path) -> str:
    """Prepare an arm and train it for an epoch; what is refused by then is so in words."""
    arm = study.arms[name]
    settings = arm_settings(arm.model_copy(update={"training": arm.training.model_copy(update={"epochs": 1})}))
    languages = study.with_all(["python"]).training_set(study.language_names[0])
    config = TrialConfig.model_validate({**settings, **trial_languages(languages), "seed": study.first_seeds[0]})
    try:
        prepared = prepare(config, corpus, languages, root)
        train(config, open_data(prepared, config, languages))
    except (UserError, TrainingError) as error:
        return type(error).__name__
    except Exception as error:
        raise AssertionError(f"{name} of {study.model_dump_json()}: {type(error).__name__}: {error}") from error
    return "trained"
