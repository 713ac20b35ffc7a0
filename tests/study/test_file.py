"""Study files: every mistake is found, all at once, each with its place, what was got and what is possible."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from softnce_ray.config import BagEncoder, StudyConfig, TransformerEncoder, flatten, resolved
from softnce_ray.corpus.build import build_corpus
from softnce_ray.corpus.manifest import read_manifest
from softnce_ray.study.file import check_study, load_study, parse_study
from softnce_ray.study.problems import StudyError, StudyFile

ROOT = Path(__file__).parents[2]


@pytest.fixture
def write(tiny_corpus: Path) -> Callable[[str], str]:
    """A function that gives a study file's text, from the line after the head that all have."""
    head = f"study: tiny\ncorpus: {tiny_corpus}\nlanguages: [python]\nseeds: [1, 2]\n"
    return lambda rest: head + rest


ARMS = "arms:\n  infonce: {}\n"
SOFT = "  soft:\n    loss: {name: soft_infonce}\n    estimator: {name: bm25}\n"


def wrong(text: str) -> list[str]:
    """The lines of the error of a study, with `f.yaml` as its file."""
    with pytest.raises(StudyError) as caught:
        parse_study(text, source="f.yaml")
    assert len(caught.value.problems) == len(str(caught.value).splitlines())
    return str(caught.value).splitlines()


def test_a_right_study_is_read(write) -> None:
    study = parse_study(write(ARMS + SOFT))
    assert list(study.arms) == ["infonce", "soft"]
    assert study.seeds == (1, 2)


# --- one mistake: its line, key, what was got, what is possible ---

MISTAKES = [
    ("quesiton: why\n" + ARMS, "f.yaml:5: quesiton: unknown key; did you mean 'question'? possible: arms, baseline,"),
    (
        ARMS + "resources: {cpu: 2}\n",
        "f.yaml:7: resources.cpu: unknown key; did you mean 'cpus'? possible: autoscale, chunk_size,",
    ),
    (ARMS + "failures: {retrys: 2}\n", "f.yaml:7: failures.retrys: unknown key; did you mean 'retry'?"),
    (ARMS + "failures: {retry: 2}\n", "f.yaml:7: failures.retry: expected a list, got 2"),
    ("arms:\n  infonce:\n    trainin: {}\n", "f.yaml:7: arms.infonce.trainin: unknown key; did you mean 'training'?"),
    (
        "arms:\n  infonce:\n    training:\n      epoch: 3\n",
        "f.yaml:8: arms.infonce.training.epoch: unknown key; did you mean 'epochs'? possible: batch_size,",
    ),
    (
        "arms:\n  infonce:\n    encoder: {kind: bag, widht: 3}\n",
        "f.yaml:7: arms.infonce.encoder.widht: unknown key; did you mean 'width'? possible: kind, width",
    ),
    (
        "arms:\n  loss:\n    loss: {name: infonce, alpa: 3}\nbaseline: loss\n",
        "f.yaml:7: arms.loss.loss.alpa: unknown key; possible: name",
    ),
    (
        "defaults: {tokens: {vocabulry: 400}}\n" + ARMS,
        "f.yaml:5: defaults.tokens.vocabulry: unknown key; did you mean 'vocabulary'? possible: code_length, query",
    ),
    (ARMS + "search: {trials: 1, trails: 3}\n", "f.yaml:7: search.trails: unknown key; did you mean 'trials'?"),
    (
        ARMS + "search: {trials: 3, early_stopping: {min_epoch: 1}}\n",
        "f.yaml:7: search.early_stopping.min_epoch: unknown key; did you mean 'min_epochs'?",
    ),
    (
        ARMS + "search:\n  trials: 3\n  space:\n    temperature: {low: 1, high: 2, lg: true}\n",
        "f.yaml:10: search.space.temperature.lg: unknown key; did you mean 'log'? possible:",
    ),
    (
        "arms:\n  infonce: {loss: {name: infonec}}\n",
        "f.yaml:6: arms.infonce.loss: unknown name 'infonec'; did you mean",
    ),
    (
        "arms:\n  infonce: {encoder: {kind: bags}}\n",
        "f.yaml:6: arms.infonce.encoder: unknown kind 'bags'; did you mean",
    ),
    ("arms:\n  infonce: {encoder: {width: 3}}\n", "f.yaml:6: arms.infonce.encoder: expected the key 'kind', got {"),
    ("baseline: other\n" + ARMS, "f.yaml:5: baseline: expected an arm of this study, got 'other'; possible: infonce"),
    ("arms: {}\n", "f.yaml:5: arms: "),
    ("arms: 3\n", "f.yaml:5: arms: input should be a valid dictionary, got 3"),
    (
        "defaults: 3\n" + ARMS,
        "f.yaml:5: defaults: expected settings, {key: value}, got 3",
    ),
    ("arms: {infonce: 3}\n", "f.yaml:5: arms.infonce: "),
    ("arms: {infonce: {}, Bad Name: {}}\n", "f.yaml:5: arms.Bad Name: expected a name of at most 63 lower-case"),
    ("arms: {infonce: {}, 1: {symmetric: true}}\n", "f.yaml:5: arms.1: expected text as key, got 1, which YAML"),
    (
        "arms:\n  infonce: {training: {epochs: many}}\n",
        "f.yaml:6: arms.infonce.training.epochs: expected a whole number, got 'many'",
    ),
    (
        "arms:\n  infonce: {hard_negatives: {name: bm25_code, count: 9, depth: 3}}\n",
        "f.yaml:6: arms.infonce.hard_negatives.depth: expected at least count 9, got 3",
    ),
    (
        "arms:\n  infonce: {hard_negatives: bm25_code}\n",
        "f.yaml:6: arms.infonce.hard_negatives: expected settings, {key: value}, got 'bm25_code'",
    ),
    (
        "arms:\n  infonce: {encoder: {kind: codebert, lora: true}}\n",
        "f.yaml:6: arms.infonce.encoder.lora: expected settings, {key: value}, got true",
    ),
    (
        "arms:\n  infonce: {encoder: {kind: codebert, lora: {targets: []}}}\n",
        "f.yaml:6: arms.infonce.encoder.lora.targets: expected at least 1 of a list, got []",
    ),
    ("arms:\n  infonce: {training: {epochs: -1}}\n", "f.yaml:6: arms.infonce.training.epochs: input should be greater"),
    ("arms:\n  infonce: {temperature: .nan}\n", "f.yaml:6: arms.infonce.temperature: input should be a finite number"),
    (
        "arms:\n  infonce: {}\n  soft:\n    loss: {name: soft_infonce}\n",
        "f.yaml:7: arms.soft.estimator: loss soft_infonce weighs negatives: expected an estimator, got none",
    ),
    (
        ARMS + "  soft:\n    loss: {name: soft_infonce, alpha: 1, beta: 0.001}\n    estimator: {name: bm25}\n",
        "f.yaml:8: arms.soft.loss.alpha: expected beta > alpha / (batch_size - 1), got beta 0.001 and 1 / 127",
    ),
    (
        ARMS + "  soft:\n    loss: {name: soft_infonce, alpha: 3}\n    estimator: {name: bm25}\n",
        "f.yaml:8: arms.soft.loss.alpha: beta defaults to 2 - alpha, so expected alpha < 2, got 3.0",
    ),
    (ARMS + "  copy: {temperature: 0.05}\n", "f.yaml:7: arms.copy: has the same settings as arm infonce"),
    (
        ARMS + SOFT + "  again:\n    loss: {name: soft_infonce, beta: 0.5}\n    estimator: {name: bm25}\n",
        "f.yaml:10: arms.again: has the same settings as arm soft",
    ),
    (ARMS + ARMS, "f.yaml:7: arms: given twice: remove one"),
    ("arms:\n  infonce: {}\n  infonce: {temperature: 1}\n", "f.yaml:7: arms.infonce: given twice: remove one"),
    (
        "arms:\n  infonce:\n    training:\n      epochs: 1\n      epochs: 2\n",
        "f.yaml:9: arms.infonce.training.epochs: given twice",
    ),
    # searches
    (
        ARMS + "search: {trials: 1, space: {temprature: {low: 1, high: 2}}}\n",
        "f.yaml:7: search.space.temprature: no setting temprature; did you mean 'temperature'? possible: encoder,",
    ),
    (
        ARMS + "search: {trials: 1, space: {training.epoch: {low: 1, high: 2}}}\n",
        "f.yaml:7: search.space.training.epoch: no setting training.epoch; did you mean 'epochs'?",
    ),
    (
        ARMS + SOFT + "search: {trials: 1, space: {loss.alpha: {low: 1, high: 1.5}}}\n",
        "f.yaml:10: search.space.loss.alpha: no setting loss.alpha (arm infonce); settings that only some arms have",
    ),
    (
        ARMS + "search: {trials: 1, space: {training: {low: 1, high: 2}}}\n",
        "f.yaml:7: search.space.training: training is a group of settings, not one",
    ),
    (
        ARMS + "search: {trials: 1, space: {loss.name: {choices: [infonce, soft_infonce]}}}\n",
        "f.yaml:7: search.space.loss.name: the space of arm infonce reaches an impossible setting (loss.name = ",
    ),
    (
        ARMS + "search: {trials: 1, space: {encoder.kind: {choices: [bag, minilm]}}}\n",
        "f.yaml:7: search.space.encoder.kind: encoder.kind makes another arm: write one arm for each",
    ),
    (
        ARMS + "search: {trials: 1, space: {temperature: {low: -1, high: 1}}}\n",
        "f.yaml:7: search.space.temperature: the space of arm infonce reaches an impossible setting (temperature = -1",
    ),
    (
        ARMS + SOFT + "    search: {loss.alpha: {low: 1, high: 3}}\nsearch: {trials: 1}\n",
        "f.yaml:10: arms.soft.search.loss.alpha: the space of arm soft reaches an impossible setting (loss.alpha = 3",
    ),
    (
        ARMS + "search: {trials: 1, space: {temperature: {low: 2, high: 1}}}\n",
        "f.yaml:7: search.space.temperature.low: expected low < high, got 2 and 1",
    ),
    (
        ARMS + "search: {trials: 1, space: {temperature: {low: 0, high: 1, log: true}}}\n",
        "f.yaml:7: search.space.temperature.low: expected low > 0 with log: true, got 0",
    ),
    (
        ARMS + "search: {trials: 1, space: {training.epochs: {low: 1, high: 4, step: 0.5}}}\n",
        "f.yaml:7: search.space.training.epochs: training.epochs is a whole number: expected a whole step, got 0.5",
    ),
    (
        ARMS + "search: {trials: 1, space: {training.batch_tokens: {low: 1000, high: 2000, step: 0.5}}}\n",
        "f.yaml:7: search.space.training.batch_tokens: training.batch_tokens is a whole number: expected a whole step",
    ),
    (
        ARMS + "search: {trials: 1, space: {training.epochs: {low: 1.5, high: 4}}}\n",
        "f.yaml:7: search.space.training.epochs: the space of arm infonce reaches an impossible setting",
    ),
    (
        ARMS + "search: {trials: 1, space: {mask_duplicates: {low: 0, high: 1}}}\n",
        "f.yaml:7: search.space.mask_duplicates: mask_duplicates is true or false: expected choices",
    ),
    (
        ARMS + "search: {trials: 1, space: {tokens.query_length: {low: 8, high: 64}}}\n",
        "f.yaml:7: search.space.tokens.query_length: tokens.query_length decides what texts are read, once for all",
    ),
    (
        ARMS + SOFT + "    search: {loss.alpha: {low: 1, high: 1.5}}\n",
        "f.yaml:10: arms.soft.search: the study has no search: add search: {trials: …} or remove it here",
    ),
    (
        ARMS + "search: {trials: 1, seed: 2}\n",
        "f.yaml:7: search.seed: expected a seed that no confirmation uses, got 2",
    ),
    (ARMS + "search: {seed: 3}\n", "f.yaml:7: search.trials: missing: give a value"),
    (
        ARMS + "resources: {gpus: 2}\n",
        "f.yaml:7: resources.gpus: expected at most 1, as a worker trains on one GPU, got 2: write workers: 2, gpus: 1",
    ),
    (
        ARMS + "resources: {gpus: 2, workers: 3}\n",
        "f.yaml:7: resources.gpus: expected at most 1, as a worker trains on one GPU, got 2: write workers: 6, gpus: 1",
    ),
    (
        ARMS + "resources: {gpus: 1.5}\n",
        "f.yaml:7: resources.gpus: expected at most 1, as a worker trains on one GPU, got 1.5: write gpus: 1",
    ),
    (
        ARMS + "resources: {workers: 2, gpus: 0.5}\n",
        "f.yaml:7: resources.gpus: expected 1 with workers: 2, as no two workers of a trial can share a GPU, got 0.5: "
        "write workers: 2, gpus: 1, or workers: 1, gpus: 0.5",
    ),
    (
        ARMS + "resources: {device: cpu, gpus: 1}\n",
        "f.yaml:7: resources.device: expected auto or cuda with gpus: 1, got cpu, and trials would reserve GPUs",
    ),
    (
        ARMS + "resources:\n  cpus: 2\n  device: cuda\n",
        "f.yaml:7: resources.gpus: expected 1, or a fraction that trials share, with device: cuda, got 0",
    ),
]


@pytest.mark.parametrize(("rest", "expected"), MISTAKES, ids=lambda text: text.split(" ")[1][:50] if text else "")
def test_a_mistake_is_named_with_its_line_and_key(write, rest: str, expected: str) -> None:
    found = wrong(write(rest))
    assert len(found) == 1, found
    assert found[0].startswith(expected)


def test_a_misspelt_value_of_the_defaults_is_reported_once(write) -> None:
    found = wrong(write("defaults:\n  training: {epochs: x}\n" + ARMS + SOFT))
    assert found == ["f.yaml:6: defaults.training.epochs: expected a whole number, got 'x'"]


def test_defaults_that_every_arm_replaces_are_checked_too(write) -> None:
    found = wrong(write("defaults: {loss: {name: soft_infonce, alpa: 1}}\narms: {infonce: {loss: {name: infonce}}}\n"))
    assert [line.split(" unknown")[0] for line in found] == ["f.yaml:5: defaults.loss.alpa:"]


def test_defaults_may_hold_what_only_makes_sense_together_with_an_arm(write) -> None:
    study = parse_study(write("defaults: {estimator: {name: bm25}}\narms: {infonce: {loss: {name: soft_infonce}}}\n"))
    assert study.arms["infonce"].estimator is not None


# --- many mistakes ---


def test_ten_mistakes_are_reported_together() -> None:
    text = """\
study: Bad Name
corpus: nowhere
languages: [python, python]
seeds: [-1]
baseline: missing
defaults: {tokens: {vocabulry: 400}}
arms:
  one: {}
  two:
    loss: {name: sof_infonce}
resources: {cpus: 0}
search:
  trials: 0
  space:
    temperature: {low: 2, high: 1}
"""
    found = wrong(text)
    assert [line.split(":")[1] for line in found] == ["1", "2", "3", "4", "5", "6", "10", "11", "13", "15"]
    assert len(found) == 10


def test_a_law_between_settings_is_checked_beside_wrong_settings_elsewhere(write) -> None:
    found = wrong(
        write(
            "quesiton: x\nbaseline: other\narms:\n  infonce: {}\n  same: {}\n"
            "  soft: {loss: {name: soft_infonce}}\n  bad: {training: {epoch: 1}}\n"
            "search: {trials: 1, seed: 1, space: {temprature: {low: 1, high: 2}}}\n"
        )
    )
    assert [line.split(": ")[1] for line in found] == [
        "quesiton",
        "baseline",
        "arms.same",
        "arms.soft.estimator",
        "arms.bad.training.epoch",
        "search.seed",
        "search.space.temprature",
        "search.space.temprature",  # in both arms that are sound
    ]


def test_a_mistake_in_an_arm_brings_no_second_one_that_only_follows_from_it(write) -> None:
    text = (
        ARMS
        + "  soft:\n    loss: {name: sof_infonce}\n    estimator: {name: bm25}\n"
        + "    search: {loss.alpha: {low: 0, high: 1}}\n"
    )
    found = wrong(write(text + "search: {trials: 2}\nbaseline: soft\n"))
    assert len(found) == 1
    assert "unknown name 'sof_infonce'" in found[0]


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        ("3", ["f.yaml:4: seeds: expected a list or {at_least: …, at_most: …, half_width: …}, got 3"]),
        ("{at_least: 5, at_most: 3, half_width: 0.1}",
         ["f.yaml:4: seeds.at_most: expected at_most >= at_least = 5, got 3: raise it"]),
        ("{at_least: 1, at_most: 9, half_width: 0}",
         ["f.yaml:4: seeds.at_least: input should be greater than or equal to 2, got 1",
          "f.yaml:4: seeds.half_width: input should be greater than 0, got 0"]),
        ("{at_least: 3, at_most: 9, half_width: 0.1, halfwidth: 1}",
         ["f.yaml:4: seeds.halfwidth: unknown key; did you mean 'half_width'? possible: at_least, at_most, "
          "half_width"]),
        ("{at_most: 9}",
         ["f.yaml:4: seeds.at_least: missing: give a value", "f.yaml:4: seeds.half_width: missing: give a value"]),
        ("{at_least: 3, at_most: 12, half_width: 0.004}\nsearch: {trials: 1, seed: 12, space: {temperature: "
         "{low: 0.1, high: 1}}}",
         ["f.yaml:5: search.seed: expected a seed that no confirmation uses, got 12: a configuration tuned on a seed "
          "looks better on it"]),
    ],
    ids=["a number", "too few at most", "impossible numbers", "a misspelt key", "missing keys", "the search's seed"],
)  # fmt: skip
def test_a_mistake_in_a_precision_is_named_with_its_key(tiny_corpus: Path, seeds: str, expected: list[str]) -> None:
    head = f"study: tiny\ncorpus: {tiny_corpus}\nlanguages: [python]\nseeds: {seeds}\n"
    assert wrong(head + "arms: {infonce: {}}\n") == expected


def test_a_missing_corpus_is_reported_with_the_rest() -> None:
    text = "study: tiny\ncorpus: nowhere\nlanguages: [python]\nseeds: [1]\nbaseline: other\n" + ARMS
    assert [line.split(": ")[1] for line in wrong(text)] == ["corpus", "baseline"]


def test_an_unknown_language_is_reported_with_the_corpus_own(write) -> None:
    text = write("baseline: other\n" + ARMS).replace("[python]", "[python, cobol]")
    found = wrong(text)
    assert [line.split(": ")[1] for line in found] == ["languages.1", "baseline"]
    assert found[0].endswith("has no language 'cobol'; possible: python")


def test_all_missing_keys_are_named() -> None:
    assert wrong("question: x\n") == [
        f"f.yaml: {key}: missing: give a value" for key in ("study", "corpus", "languages", "seeds", "arms")
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "f.yaml: expected keys such as study, corpus and arms, got NoneType"),
        ("# nothing\n", "f.yaml: expected keys"),
        ("- 1\n", "f.yaml: expected keys such as study, corpus and arms, got list"),
        ("study: a\n  b: [\n", "f.yaml:2: not YAML: mapping values are not allowed"),
        ("a: [1, 2\n", "f.yaml:2: not YAML"),
        ("a: *b\n", "f.yaml:1: not YAML: found undefined alias"),
        ("a: 2020-99-99\n", "f.yaml: not YAML that can be read: month must be in 1..12"),
        ("a: &a [*a]\n", "f.yaml:1: expected aliases of what stands before them, got one within what it names"),
        ("a: " + "[" * 51 + "]" * 51, "f.yaml:1: expected values at most 50 levels deep, got deeper ones"),
        ("a: " + "[" * 99_999, "f.yaml:1: expected values at most 50 levels deep, got deeper ones"),
        ("a: 1\nb:\n  ? [a]\n  : b", "f.yaml:3: expected words as keys, got a list or a mapping"),
        ("x: 1" + "0" * 500, "f.yaml:1: expected numbers of at most 500 characters, got one of 501"),
    ],
)
def test_what_is_no_study_at_all_is_one_line(text: str, expected: str) -> None:
    found = wrong(text)
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_a_file_that_is_not_there_or_no_text_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"no such study file; the studies that ship lie in search_spaces/"):
        load_study(tmp_path / "none.yaml")
    with pytest.raises(StudyError, match="cannot be read"):
        load_study(tmp_path)
    with pytest.raises(StudyError, match="cannot be read: embedded null byte"):
        load_study("a\0b")
    file = tmp_path / "study.yaml"
    for data, got in (
        ("study: a\n".encode("utf-16"), "expected text in UTF-8, got UTF-16: save it as UTF-8"),
        ("study: a\n".encode("utf-16-le"), "not YAML"),  # zeros are UTF-8, and no text
        ("study: a\nquestion: à\n".encode("latin-1"), "study.yaml:2: expected text in UTF-8, got a byte 0xe0"),
    ):
        file.write_bytes(data)
        with pytest.raises(StudyError, match=got):
            load_study(file)
    with file.open("wb") as large:
        large.truncate(50_000_000)
    with pytest.raises(StudyError, match="expected at most 16 MB of text, got more"):
        load_study(file)


@pytest.mark.parametrize("corpus", ["a\0b", "x" * 5000, "/dev/null", ""])
def test_a_corpus_that_no_folder_can_be_is_a_problem_of_its_key(corpus: str) -> None:
    text = json.dumps({"study": "s", "corpus": corpus, "languages": ["python"], "seeds": [1], "arms": {"infonce": {}}})
    assert [line.split(": ")[1] for line in wrong(text)] == ["corpus"]


# --- from the file to arms ---


def test_scientific_notation_without_a_point_is_a_number(write) -> None:
    text = "arms:\n  infonce: {training: {learning_rate: 1e-4}}\n"
    study = parse_study(write(text + "search: {trials: 1, space: {temperature: {low: 1e-3, high: 1e-1, log: true}}}\n"))
    assert study.arms["infonce"].training.learning_rate == 0.0001
    assert study.space("infonce")["temperature"].low == 0.001  # type: ignore[union-attr]


def test_an_arm_takes_from_the_defaults_what_it_does_not_name(write) -> None:
    study = parse_study(
        write(
            "defaults: {encoder: {kind: bag, width: 8}, training: {epochs: 5, batch_size: 32}}\n"
            "arms:\n  infonce:\n  other: {training: {epochs: 7}, encoder: {width: 16}}\n"
        )
    )
    other = study.arms["other"]
    assert (other.training.epochs, other.training.batch_size) == (7, 32)
    assert other.encoder == BagEncoder(width=16)
    assert study.arms["infonce"].training.epochs == 5


def test_another_kind_or_name_takes_nothing_from_the_defaults(write) -> None:
    study = parse_study(
        write(
            "defaults:\n  encoder: {kind: bag, width: 8}\n  loss: {name: soft_infonce, floor: 0.5}\n"
            "  estimator: {name: bm25, k1: 3}\narms:\n  infonce:\n    loss: {name: infonce}\n    estimator: null\n"
            "  transformer: {encoder: {kind: transformer}}\n  uniform: {estimator: {name: uniform}}\n"
            "  same: {loss: {name: soft_infonce, alpha: 1}}\n"
        )
    )
    assert study.arms["transformer"].encoder == TransformerEncoder()
    assert study.arms["infonce"].encoder == BagEncoder(width=8)
    assert study.arms["same"].loss.floor == 0.5  # type: ignore[union-attr]
    assert study.arms["infonce"].estimator is None


def test_a_large_space_is_searched_for_broken_laws_at_all_its_ends(write) -> None:
    space = {
        "training.batch_size": {"choices": [3, 100]},
        "loss.alpha": {"low": 0.1, "high": 1.0},
        "temperature": {"low": 0.01, "high": 0.1},
        "training.epochs": {"low": 1, "high": 3},
        "training.warmup": {"low": 0.1, "high": 0.3},
        "training.learning_rate": {"low": 0.001, "high": 0.1},
        "training.max_gradient_norm": {"low": 0.1, "high": 1},
        "estimator.k1": {"low": 1, "high": 2},
        "estimator.b": {"low": 0.1, "high": 0.9},
        "loss.beta": {"low": 0.4, "high": 1.0},
        "loss.floor": {"low": 0.1, "high": 0.9},
    }
    estimator = {"name": "bm25", "statistics": "batch"}
    arms = {"infonce": {}, "soft": {"loss": {"name": "soft_infonce"}, "estimator": estimator, "search": space}}
    found = wrong(write(yaml.safe_dump({"arms": arms, "search": {"trials": 1}})))
    assert len(found) == 1  # only batch size 3 with alpha 1 and beta 0.4 breaks the law
    assert "expected beta > alpha / (batch_size - 1)" in found[0]


@pytest.mark.parametrize(
    "arm, path",
    [
        ({"estimator": {"name": "bm25"}}, "estimator.k1"),
        ({"estimator": {"name": "bm25", "statistics": "batch"}}, "estimator.epsilon"),
        ({"estimator": {"name": "simcse"}}, "estimator.learning_rate"),
        ({"estimator": {"name": "uniform"}, "hard_negatives": {"name": "bm25_code"}}, "hard_negatives.depth"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_prepared_once_for_all_trials_cannot_be_searched(write, arm: dict[str, Any], path: str) -> None:
    """The searched value was recorded, and every trial was trained with the arm's own."""
    soft = {"loss": {"name": "soft_infonce"}, **arm, "search": {path: {"low": 1e-4, "high": 0.9}}}
    found = wrong(write(yaml.safe_dump({"arms": {"infonce": {}, "soft": soft}, "search": {"trials": 1}})))
    assert len(found) == 1
    assert f"{path} decides what is prepared once for all trials of an arm: write one arm for each" in found[0]


def test_a_study_made_in_python_is_checked_as_its_file_would_be(tiny_corpus: Path) -> None:
    def make(**changes: Any) -> StudyConfig:
        values = {"study": "s", "corpus": str(tiny_corpus), "languages": ["python"], "seeds": [1]}
        return StudyConfig.model_validate({**values, "arms": {"infonce": {}}, **changes})

    assert check_study(make()) == make()
    for changes, message in (
        ({"corpus": "nowhere"}, "corpus: expected a corpus folder"),
        ({"languages": ["cobol"]}, "no language 'cobol'"),
        ({"arms": {"infonce": {}, "other": {}}}, "same settings"),
        ({"search": {"trials": 1, "space": {"x": {"low": 0, "high": 1}}}}, "no setting x"),
    ):
        with pytest.raises(StudyError, match=message):
            check_study(make(**changes))


@pytest.mark.parametrize("path", sorted(ROOT.glob("search_spaces/*.yaml")), ids=lambda path: path.name)
def test_the_schema_accepts_the_studies_that_ship(path: Path) -> None:
    schema = StudyFile.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), schema)


def test_the_schema_has_both_kinds_of_seeds() -> None:
    schema = jsonschema.Draft202012Validator(StudyFile.model_json_schema())
    study = {"study": "s", "corpus": "c", "languages": ["python"], "arms": {"infonce": {}}}
    right: list[Any] = [[1, 2], {"at_least": 3, "at_most": 12, "half_width": 0.004}]
    refused: list[Any] = [[], 3, {"at_least": 3}, {"at_least": 1, "at_most": 12, "half_width": 0.004}]
    for seeds in right:
        assert schema.is_valid({**study, "seeds": seeds})
    for seeds in refused:
        assert not schema.is_valid({**study, "seeds": seeds})


def test_the_schema_refuses_a_misspelt_key() -> None:
    with pytest.raises(jsonschema.ValidationError, match="quesiton"):
        jsonschema.validate({"study": "s", "quesiton": "x"}, StudyFile.model_json_schema())


# --- batches that the corpus cannot fill ---


def sizes(write, rest: str) -> list[str]:
    """The problems of a study over the tiny corpus, of which each must be about a batch."""
    found = wrong(write(rest))
    assert all("the training pairs of python, got" in line for line in found), found
    return [
        line.split(": lower")[0].replace(f"at most {TRAIN}, the training pairs of python", "fewer") for line in found
    ]


TRAIN = 216  # pairs of the tiny corpus
BIG = "{low: 16, high: 300, step: 100}"  # 216 at most


def test_the_tiny_corpus_has_as_many_training_pairs_as_these_tests_say(tiny_corpus: Path) -> None:
    assert read_manifest(tiny_corpus).languages["python"].pairs["train"] == TRAIN


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (
            "arms:\n  infonce: {training: {batch_size: 217}}\n",
            "f.yaml:6: arms.infonce.training.batch_size: expected fewer, got 217",
        ),
        (
            "defaults: {training: {batch_size: 500}}\n" + ARMS + SOFT,  # once, though two arms have it
            "f.yaml:5: defaults.training.batch_size: expected fewer, got 500",
        ),
        (
            ARMS + SOFT + "search:\n  trials: 1\n  space:\n    training.batch_size: {low: 16, high: 512, log: true}\n",
            "f.yaml:13: search.space.training.batch_size: expected fewer, got 512",
        ),
        (
            ARMS + SOFT + "    search: {training.batch_size: {choices: [16, 1000, 32]}}\nsearch: {trials: 1}\n",
            "f.yaml:10: arms.soft.search.training.batch_size: expected fewer, got 1000",
        ),
        (  # the arm's own size stands where the condition does not hold
            "arms:\n  infonce:\n    training: {batch_size: 400}\n    search:\n      symmetric: {choices: [true, false]}"
            "\n      training.batch_size: {low: 16, high: 300, when: {symmetric: true}}\nsearch: {trials: 1}\n",
            "f.yaml:7: arms.infonce.training.batch_size: expected fewer, got 400",
        ),
        (
            "arms:\n  infonce:\n    training: {batch_size: 300}\n    search:\n      symmetric: {choices: [true, false]}"
            "\n      training.batch_size: {low: 16, high: 400, when: {symmetric: true}}\nsearch: {trials: 1}\n",
            "f.yaml:10: arms.infonce.search.training.batch_size: expected fewer, got 400",
        ),
    ],
)
def test_a_batch_larger_than_the_training_split_is_found_before_any_trial(write, rest: str, expected: str) -> None:
    assert sizes(write, rest) == [expected]


@pytest.mark.parametrize(
    "rest",
    [
        "arms:\n  infonce: {training: {batch_size: 216}}\n",
        f"arms:\n  infonce: {{search: {{training.batch_size: {BIG}}}}}\nsearch: {{trials: 1}}\n",
        # a size that no trial has
        "arms:\n  infonce: {training: {batch_size: 500}, search: {training.batch_size: {low: 16, high: 32}}}\n"
        "search: {trials: 1}\n",
    ],
)
def test_a_batch_of_all_training_pairs_is_none_too_many(write, rest: str) -> None:
    parse_study(write(rest))


def test_each_language_that_is_too_small_is_named_once(tiny_pairs, tmp_path: Path) -> None:
    more = [dataclasses.replace(pair, language="ruby") for pair in tiny_pairs]
    build_corpus([*tiny_pairs, *more], tmp_path / "two", valid=30, test=30, codebase=20)
    text = f"study: tiny\ncorpus: {tmp_path / 'two'}\nlanguages: [python, ruby]\nseeds: [1, 2, 3]\n"
    found = wrong(text + "arms:\n  infonce: {training: {batch_size: 5000}}\n  other: {training: {batch_size: 6000}}\n")
    assert [(line.split(": ")[1], line.split(" of ")[1].split(":")[0]) for line in found] == [
        (f"arms.{arm}.training.batch_size", f"{language}, got {size}")
        for arm, size in (("infonce", 5000), ("other", 6000))
        for language in ("python", "ruby")
    ]


def test_no_batch_is_said_to_be_too_large_where_the_search_itself_is_wrong(write) -> None:
    found = wrong(write("arms:\n  infonce: {training: {batch_size: 500}}\nsearch: {trials: 0}\n"))
    assert [line.split(": ")[1] for line in found] == ["search.trials"]


def test_a_batch_of_a_study_made_in_python_is_checked_too(tiny_corpus: Path) -> None:
    values = {"study": "s", "corpus": str(tiny_corpus), "languages": ["python"], "seeds": [1]}
    study = StudyConfig.model_validate({**values, "arms": {"infonce": {"training": {"batch_size": 500}}}})
    with pytest.raises(StudyError, match=r"arms\.infonce\.training\.batch_size: expected at most 216"):
        check_study(study)


# --- anything at all ---

WORDS = [
    "study", "corpus", "languages", "seeds", "arms", "defaults", "search", "space", "trials", "loss", "name", "encoder",
    "kind", "bag", "infonce", "soft_infonce", "estimator", "bm25", "low", "high", "log", "choices", "temperature",
    "training", "epochs", "loss.alpha", "training.epochs", "python", "baseline", "resources", "early_stopping", "when",
]  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), st.sampled_from(WORDS), st.dates()
)
KEYS = st.one_of(st.sampled_from(WORDS), st.sampled_from(WORDS), st.integers(-2, 2), st.booleans(), st.none())
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=15,
)
QUIET = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)


def reads_or_refuses(text: str) -> None:
    try:
        assert isinstance(parse_study(text), StudyConfig)
    except StudyError as error:
        assert error.problems
        assert len(str(error).splitlines()) == len(error.problems)


@QUIET
@given(st.text(alphabet=st.sampled_from("study: arms{}[]-&*!|>'\"#\n 0x_1e.~\t?,\0é")))
@example("x: 0x_")
@example("x: !!timestamp foo")
@example("[" * 3000)
@example("? [a]\n: b")
def test_any_text_is_a_study_or_a_study_error(text: str) -> None:
    reads_or_refuses(text)


@QUIET
@given(st.dictionaries(KEYS, TREES, max_size=6))
def test_any_structure_is_a_study_or_a_study_error(raw: dict[Any, Any]) -> None:
    reads_or_refuses(yaml.safe_dump(raw))


@QUIET
@given(st.data())
def test_a_study_with_any_part_replaced_is_a_study_or_a_study_error(data: st.DataObject) -> None:
    whole: dict[str, Any] = {
        "study": "tiny",
        "corpus": "nowhere",
        "languages": ["python"],
        "seeds": [1, 2],
        "defaults": {"training": {"epochs": 2}, "encoder": {"kind": "bag", "width": 8}},
        "arms": {
            "infonce": {},
            "soft": {
                "loss": {"name": "soft_infonce", "alpha": 1.0},
                "estimator": {"name": "bm25"},
                "search": {
                    "loss.alpha": {"low": 0.5, "high": 1.0, "when": {"symmetric": True, "temperature": [0.1, 1]}},
                    "symmetric": {"choices": [True, False], "when": {"temperature": 1}},
                    "temperature": {"choices": [0.1, 1]},
                },
            },
        },
        "search": {"trials": 3, "space": {"temperature": {"low": 0.1, "high": 1}}, "early_stopping": {"reduction": 2}},
        "resources": {"cpus": 1},
    }
    inner: Any = whole
    while True:
        key = data.draw(st.sampled_from(sorted(inner)) if isinstance(inner, dict) else st.integers(0, len(inner) - 1))
        if not isinstance(inner[key], dict | list) or not inner[key] or data.draw(st.booleans()):
            break
        inner = inner[key]
    inner[key] = data.draw(TREES)
    reads_or_refuses(yaml.safe_dump(whole))


def test_the_paper_s_preset_gives_the_published_settings_and_yields_to_the_arm_s_own(plain_study):
    study = plain_study()
    study["arms"] = {
        "infonce": {},
        "published": {"preset": "paper", "estimator": {"name": "simcse"}},
        "bent": {"preset": "paper", "estimator": {"name": "simcse", "temperature": 0.3}, "loss": {"alpha": 1.0}},
    }
    arms = {name: flatten(resolved(arm)) for name, arm in parse_study(yaml.safe_dump(study)).arms.items()}
    keys = ("loss.alpha", "loss.beta", "estimator.temperature")
    assert [arms["published"][key] for key in keys] == [1.3, 0.7, 0.1]
    assert [arms["bent"][key] for key in keys] == [1.0, 0.7, 0.3]


def test_a_preset_without_published_settings_is_refused_where_it_stands(plain_study):
    study = plain_study()
    study["arms"] = {
        "infonce": {},
        "odd": {"preset": "paper", "loss": {"name": "bce"}, "estimator": {"name": "uniform"}},
    }
    with pytest.raises(StudyError, match=r"arms\.odd\.preset: expected an estimator of bm25, simcse, trained"):
        parse_study(yaml.safe_dump(study))


def test_a_corpus_that_trains_on_what_it_tests_is_refused(tmp_path, tiny_pairs) -> None:
    from softnce_ray.corpus import build_corpus
    from softnce_ray.corpus.manifest import read_manifest

    corpus = tmp_path / "leaky"
    build_corpus({"train": tiny_pairs[:200], "valid": tiny_pairs[200:220], "test": tiny_pairs[220:240]}, corpus)
    manifest = read_manifest(corpus)
    assert manifest.findings is not None
    leak = "python: expected no function of test in train, got 3 whose code, but for layout, is also trained on"
    leaky = manifest.model_copy(update={"findings": manifest.findings.model_copy(update={"problems": (leak,)})})
    (corpus / "manifest.json").write_text(leaky.model_dump_json())
    text = f"study: s\ncorpus: {corpus}\nlanguages: [python]\nseeds: [1]\narms:\n  infonce: {{}}\n"
    with pytest.raises(StudyError, match="corpus: python: expected no function of test in train, got 3"):
        parse_study(text)
