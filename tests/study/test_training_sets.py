"""Languages as an axis: a model for each, one for all, or trained on some and tested on others; from file to report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from mlflow import MlflowClient

from softnce_ray.config import StudyConfig, TrainingSet
from softnce_ray.corpus import build_corpus
from softnce_ray.corpus.pairs import Pair
from softnce_ray.export import export
from softnce_ray.ranks_file import place
from softnce_ray.report import build_report, to_html, to_json, to_latex, to_markdown
from softnce_ray.retrieval import build_index, evaluate_corpus
from softnce_ray.selection import best
from softnce_ray.store import Store
from softnce_ray.study.cells import Cell, cells
from softnce_ray.study.definitions import definition, search_name
from softnce_ray.study.file import check_study, parse_study
from softnce_ray.study.planned import planned_trials
from softnce_ray.study.planner import Planner
from softnce_ray.study.problems import StudyError, StudyFile
from softnce_ray.study.run import launch

from .launching import small_cluster

TRANSFER = {"name": "to_ruby", "train": ["python"], "test": ["ruby"]}
CPP = "visual c++"
TO_CPP = {"name": "to_cpp", "train": ["python"], "test": [CPP]}


@pytest.fixture(scope="module")
def odd_languages(tiny_pairs: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus whose second language has a name that is no name of a metric."""
    other = [dataclasses.replace(pair, language=CPP) for pair in tiny_pairs[80:]]
    folder = tmp_path_factory.mktemp("corpora") / "odd"
    build_corpus([*tiny_pairs, *other], folder, valid=22, test=22, codebase=20)
    return folder


def text(corpus: Path | str, languages: list[Any], **changes: Any) -> str:
    study = {
        "study": "tongues",
        "corpus": str(corpus),
        "languages": languages,
        "seeds": [1],
        "defaults": {
            "encoder": {"kind": "bag", "width": 8},
            "tokens": {"vocabulary": 400},
            "training": {"epochs": 2, "batch_size": 16},
        },
        "arms": {
            "infonce": {},
            "soft": {"loss": {"name": "soft_infonce"}, "estimator": {"name": "bm25"}},
        },
        **changes,
    }
    return yaml.safe_dump(study, sort_keys=False, default_flow_style=None)


def wrong(corpus: Path, *languages: Any, **changes: Any) -> list[str]:
    """Key and message of each problem of a study of these languages."""
    with pytest.raises(StudyError) as caught:
        parse_study(text(corpus, list(languages), **changes))
    return [f"{problem.key}: {problem.message}" for problem in caught.value.problems]


# --- the file ---


def test_languages_are_names_all_or_mappings(two_languages) -> None:
    study = parse_study(text(two_languages, ["python", "all", TRANSFER]))
    assert study.language_names == ("python", "all", "to_ruby")
    assert study.training_set("to_ruby") == TrainingSet(name="to_ruby", train=("python",), test=("ruby",))
    whole = study.with_all(("python", "ruby"))
    assert whole.training_set("all") == TrainingSet.of_all(("python", "ruby"))
    assert whole.training_set("python").is_language
    assert whole.language_names == study.language_names
    assert StudyConfig.model_validate(whole.model_dump(mode="json")) == whole
    assert study.model_dump(mode="json")["languages"][0] == "python"  # as plain as it was written


def test_every_problem_of_the_languages_is_told_at_its_place(two_languages) -> None:
    found = wrong(
        two_languages,
        "pyton",
        {"name": "one", "train": ["python", "cobol"], "test": ["perl"]},
        {"name": "ruby", "train": ["python"], "test": ["ruby"]},
        {"name": "two", "train": ["python"], "tests": ["ruby"]},
        {"name": "three", "train": ["python", "python"], "test": []},
        3,
    )
    corpus = f"the corpus {two_languages} has no language"
    assert set(found) == {
        f"languages.0: {corpus} 'pyton'; possible: python, ruby, all",
        f"languages.1.train.1: {corpus} 'cobol'; possible: python, ruby",
        f"languages.1.test.0: {corpus} 'perl'; possible: python, ruby",
        "languages.2.name: ruby is a language of the corpus: expected another name for what is trained and tested on "
        "several",
        "languages.3.tests: unknown key; did you mean 'test'? possible: name, test, train",
        "languages.3.test: missing: give a value",
        "languages.4.train: expected each once, got more than one python, got ['python', 'python']",
        "languages.4.test: expected at least 1 of a list, got []",
        "languages.5: expected text, got 3, which YAML reads as a number: quote it, as in '3'",
    }


def test_a_name_that_stands_twice_is_told(two_languages) -> None:
    twice = {"name": "all", "train": ["python"], "test": ["ruby"]}
    found = wrong(two_languages, "all", twice, "python", "python")
    assert found[0].startswith("languages: expected each once, got more than one all, python")


def test_two_names_for_the_same_languages_are_told(two_languages, tiny_corpus) -> None:
    both = {"name": "both", "train": ["ruby", "python"], "test": ["python", "ruby"]}
    assert wrong(two_languages, "all", both) == [
        "languages.1: both is trained and tested on the same languages as all: they would be trained twice; remove one"
    ]
    assert wrong(tiny_corpus, "python", "all") == [
        "languages.1: all is trained and tested on the same languages as python: they would be trained twice; "
        "remove one"
    ]
    assert parse_study(text(tiny_corpus, ["all"])).with_all(["python"]).training_set("all").test == ("python",)


def test_languages_to_test_on_need_pairs_to_be_tested_with(tiny_pairs, tmp_path) -> None:
    ruby = [dataclasses.replace(pair, language="ruby") for pair in tiny_pairs]
    splits = {"train": [*tiny_pairs[:100], *ruby[100:200]], "valid": tiny_pairs[200:240], "test": tiny_pairs[240:]}
    build_corpus(splits, tmp_path / "half")
    message = "expected languages with valid and test pairs to test on, got ruby, which has no {} pairs: test on others"
    both = [message.format(split) for split in ("valid", "test")]
    for entry, key in (("all", "languages.0"), ("ruby", "languages.0"), (TRANSFER, "languages.0.test.0")):
        found = wrong(tmp_path / "half", entry)
        assert [line.split(", or build")[0] for line in found] == [f"{key}: {each}" for each in both]
    parse_study(text(tmp_path / "half", [{"name": "from_both", "train": ["python", "ruby"], "test": ["python"]}]))


def test_a_language_may_have_any_name(odd_languages) -> None:
    assert parse_study(text(odd_languages, [CPP, "all", TO_CPP])).language_names == (CPP, "all", "to_cpp")
    assert wrong(odd_languages, "c#") == [
        f"languages.0: the corpus {odd_languages} has no language 'c#'; possible: python, visual c++, all"
    ]
    for name in ("../c", "c/d", "C", "c ", "", ".net", "c" * 64):
        assert wrong(odd_languages, name)


def test_graphcodebert_takes_only_languages_whose_data_flow_is_known(odd_languages) -> None:
    arms = {"infonce": {"encoder": {"kind": "graphcodebert"}}, "bag": {}}
    for entry in (CPP, "all", TO_CPP):
        assert wrong(odd_languages, entry, arms=arms, defaults={}) == [
            "arms.infonce.encoder.kind: encoder graphcodebert reads data flow: expected languages of go, java, "
            "javascript, php, python, ruby, got visual c++: use another encoder there, as codebert, or leave them out"
        ]
    parse_study(text(odd_languages, ["python"], arms=arms, defaults={}))


def test_a_batch_may_be_as_large_as_all_training_pairs_together(two_languages) -> None:
    arms = {"infonce": {"training": {"batch_size": 300}}}
    parse_study(text(two_languages, ["all"], arms=arms))
    found = wrong(two_languages, "all", "python", arms=arms)
    assert [line.split(",")[0] for line in found] == ["arms.infonce.training.batch_size: expected at most 244"]


def test_a_study_made_in_python_is_checked_too(two_languages) -> None:
    study = parse_study(text(two_languages, ["all", TRANSFER]))
    assert check_study(study) == study
    missing = study.model_copy(update={"languages": (TrainingSet(name="x", train=("go",), test=("ruby",)),)})
    with pytest.raises(StudyError, match=r"languages\.0\.train\.0: the corpus .* has no language 'go'"):
        check_study(missing)


def test_the_schema_knows_training_sets() -> None:
    schema = StudyFile.model_json_schema()
    study = yaml.safe_load(text("c", ["python", "all", TRANSFER]))
    jsonschema.validate(study, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**study, "languages": [{"name": "x", "train": ["python"]}]}, schema)


# --- the plan ---


def planned(*languages: Any, **changes: Any) -> StudyConfig:
    search = {"trials": 2, "space": {"loss.alpha": {"low": 0.2, "high": 1.5}}}
    arms = {"soft": {"loss": {"name": "soft_infonce"}, "estimator": {"name": "bm25"}}}
    return StudyConfig.model_validate(
        {"study": "s", "corpus": "c", "languages": languages, "seeds": [1], "baseline": "soft", "arms": arms}
        | {"search": search}
        | changes
    )


def test_a_training_set_is_a_cell_of_its_own_under_its_name() -> None:
    study = planned("python", "all", TRANSFER).with_all(["python", "ruby"])
    assert [str(cell) for cell in cells(study)] == ["soft/python", "soft/all", "soft/to_ruby"]
    assert {row[:2] for row in planned_trials(study)} == {("soft", each) for each in ("python", "all", "to_ruby")}
    planner = Planner(study.model_copy(update={"search": None}), "c", {}, {})
    configs = {trial.key.language: trial.config for trial in iter(planner.next, None) if trial}
    assert configs["python"].train_languages is None
    assert configs["all"].training_set == TrainingSet.of_all(["python", "ruby"])
    assert configs["to_ruby"].training_set == TrainingSet.of(study.training_set("to_ruby"))


def test_a_search_in_a_language_goes_on_where_it_was_before_there_were_training_sets() -> None:
    study = StudyConfig.model_validate(
        {
            "study": "s",
            "corpus": "c",
            "languages": ["python", "ruby"],
            "seeds": [1],
            "arms": {
                "infonce": {},
                "soft": {
                    "loss": {"name": "soft_infonce"},
                    "estimator": {"name": "bm25"},
                    "search": {"loss.alpha": {"low": 0.2, "high": 1.5}},
                },
            },
            "search": {"trials": 2},
        }
    )
    assert search_name(study, Cell("soft", "ruby"), "c0ffee") == "s/soft/ruby/665f341b59530efa"


def test_another_training_set_of_the_same_name_is_another_search() -> None:
    def name(**changes: Any) -> str:
        return search_name(planned({**TRANSFER, **changes}), Cell("soft", "to_ruby"), "c")

    assert len({name(), name(train=["java"]), name(test=["python", "ruby"])}) == 3
    assert name(train=["java", "python"]) == name(train=["python", "java"])
    assert definition(planned(TRANSFER), "soft", "c", "to_ruby") in name()


# --- a launch ---


@pytest.fixture(scope="module")
def launched(odd_languages, tmp_path_factory) -> Iterator[tuple[Path, Store, Any]]:
    """A study with a model for each language, one for both and a transfer, run to its end."""
    root = tmp_path_factory.mktemp("launched")
    store = Store(root / "store", f"sqlite:///{root}/store/mlflow.db")
    (root / "study.yaml").write_text(text(odd_languages, ["python", "visual c++", "all", TO_CPP]))
    with small_cluster(1):
        yield root / "study.yaml", store, launch(root / "study.yaml", store=store)


@pytest.mark.slow
def test_a_study_of_several_training_sets_runs_to_its_end(launched) -> None:
    path, store, done = launched
    assert (done.ran, done.failed, done.problems, done.unsent) == (8, 0, (), ())
    assert done.results.languages == ("python", CPP, "all", "to_cpp")
    of = {(trial.arm, trial.language): trial for trial in done.results.trials}
    both = of["soft", "all"]
    assert set(both.reciprocal_ranks) == {"valid/python", f"valid/{CPP}", "test/python", f"test/{CPP}"}
    for split in ("valid", "test"):
        means = [both.reciprocal_ranks[place(split, each)].mean() for each in ("python", CPP)]
        assert both.metrics[f"{split}_mrr"] == pytest.approx(sum(means) / 2)
        assert [both.metrics[f"{split}_mrr/{each}"] for each in ("python", CPP)] == pytest.approx(means)
    assert both.metrics[f"test_recall@1/{CPP}"] <= 1
    assert set(of["soft", "to_cpp"].reciprocal_ranks) == {"valid", "test"}
    assert not any("/" in name for name in of["soft", "python"].metrics)
    client = MlflowClient(tracking_uri=store.tracking_uri)
    names = {client.get_run(trial.run_id).info.run_name for trial in done.results.trials}
    assert {"soft/all/confirm-1", "infonce/to_cpp/confirm-1"} <= names
    said = client.get_run(both.run_id).data
    assert said.metrics["test_mrr/visual.20c.2B.2B"] == both.metrics[f"test_mrr/{CPP}"]
    assert client.get_run(of["soft", CPP].run_id).data.tags["language"] == CPP
    again = launch(path, store=store)
    assert (again.ran, again.already_done) == (0, 8)


@pytest.mark.slow
def test_the_report_has_every_model_in_the_tables_of_its_languages(launched) -> None:
    _, _, done = launched
    report = build_report(done.results)
    rows = [(row.name, row.language or "overall") for row in report.rows]
    arms = ("infonce", "soft")
    assert rows == [
        *((f"{arm}{tail}", "python") for tail in ("", " [all]") for arm in arms),
        *((f"{arm}{tail}", CPP) for tail in ("", " [all]", " [to_cpp]") for arm in arms),
        *((f"{arm}{tail}", "overall") for tail in ("", " [all]") for arm in arms),
    ]
    assert all(row.mean for row in report.rows)
    trials = {(trial.arm, trial.language): trial for trial in done.results.trials}
    for row in report.rows:
        if row.language and row.mean:
            trial = trials[row.arm, row.training_set or row.language]
            name = place("test_mrr", row.language if row.training_set == "all" else None)
            assert row.mean.mean == pytest.approx(trial.metrics[name])
            assert row.metrics["test_mrr"] == pytest.approx(row.mean.mean)
    assert "[all] on python, visual c++, [to_cpp] on python" in to_markdown(report)
    assert all("visual c++" in render(report) for render in (to_latex, to_html, to_json))


@pytest.mark.slow
def test_the_model_of_all_languages_is_exported_by_its_name(launched, odd_languages, tmp_path) -> None:
    _, store, _ = launched
    assert [each.language for each in best("tongues", store=store, language=CPP)] == [CPP]
    exported = export("tongues", tmp_path / "best", store=store, arm="soft", language="all")
    assert (exported.trial.arm, exported.trial.language) == ("soft", "all")
    card = (tmp_path / "best" / "README.md").read_text()
    assert "soft, all" in card
    assert "| test_mrr/visual c++ |" in card
    assert "['python', 'visual c++']" in card
    lines = evaluate_corpus(tmp_path / "best", odd_languages).lines
    assert {line.language for line in lines} == {"python", CPP, "mean"}
    done = build_index(odd_languages, tmp_path / "best", tmp_path / "index")
    assert set(done.languages) == {"python", CPP}
