"""What a report's page is made of is collected from the store, the searches and the corpus; what is not at hand makes
the page shorter by a sentence."""

from __future__ import annotations

import shutil
from dataclasses import replace
from html import escape
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from reported_study import distributions, make, search_settings
from servers import free_port

from softnce_ray.corpus import Corpus, copy_corpus
from softnce_ray.distributions import DISTRIBUTIONS_FILE, together
from softnce_ray.report import Evidence, Report, build_report, to_html
from softnce_ray.results import StudyResults
from softnce_ray.store import Store
from softnce_ray.study.importances import ImportancesError, importances
from softnce_ray.study.reporting import collect
from softnce_ray.tracking import load_results


def search_of(store: Store, name: str, values: list[float]) -> None:
    """A finished search in which the value is alpha's, whatever the temperature."""
    made = optuna.create_study(storage=store.optuna_url, study_name=name, direction="maximize")
    for number, value in enumerate(values):
        made.add_trial(
            optuna.trial.create_trial(
                params={"loss.alpha": value, "temperature": (number * 7 % len(values)) / len(values)},
                distributions={
                    name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in ("loss.alpha", "temperature")
                },
                value=value,
            )
        )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Store:
    made = make(tmp_path_factory.mktemp("reporting"), tiny_corpus, running=True, diagnostics={"weight_entropy": 1.5})
    search_of(made, "small/soft/python/d2", [number / 30 for number in range(30)])
    search_of(made, "small/soft/python/older", [0.1, 0.2, 0.3, 0.4, 0.5])
    search_of(made, "small/infonce/python/d1", [0.1, 0.2])
    search_of(made, "other/soft/python/d2", [0.1, 0.2, 0.3, 0.4, 0.5])
    return made


def collected(store: Store, **options) -> tuple[StudyResults, Report, Evidence]:
    results = load_results(store, "small")
    report = build_report(results)
    return results, report, collect(store, results, report, **options)


def test_a_running_study_has_all_parts(store: Store, tiny_corpus: Path) -> None:
    results, report, found = collected(store)
    assert "still running: 8 of 9" in report.title
    (curve,) = [each for each in found.curves if (each.name, each.metric) == ("flat", "valid_mrr")]
    assert curve.seeds == (3, 2)
    (entropy,) = [each for each in found.curves if each.metric == "weight_entropy"]
    assert (entropy.arm, entropy.mean) == ("soft", (1.5, 3.0))
    (search,) = found.searches
    assert set(search.searched) == {"loss.alpha", "temperature"}
    assert search.logarithmic == {"temperature"}
    # by identity: runs that begin in the same millisecond come in any order
    identities = {trial.run_id: trial.identity for trial in results.trials}
    states = {identities[trial.run_id]: trial.state for trial in search.trials}
    assert states == {"s0": "stopped early", **{f"s{number}": "finished" for number in range(1, 6)}}
    assert search.chosen == {key: str(value) for key, value in search_settings(5).items()}
    (duel,) = found.duels
    rows = Corpus.open(tiny_corpus).table("python", "test").to_pylist()
    texts = {row["id"]: (row["query"], row["code"]) for row in rows}
    for change in (*duel.gained, *duel.lost):
        assert change.text and (change.text.query, change.text.code) == texts[change.id]
    assert found.lacking == {}
    assert "Gained most" in to_html(report, found)


def test_importances_are_those_of_the_present_search(store: Store) -> None:
    found = importances(store, "small")
    assert set(found) == {("soft", "python")}  # infonce's has two trials, older's is of an earlier definition
    shares = found["soft", "python"]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["loss.alpha"] > 0.7 > shares["temperature"]


def test_from_another_machine_there_is_a_sentence_for_what_is_not_there(store: Store, tmp_path: Path) -> None:
    away = replace(store, root=tmp_path)
    with pytest.raises(ImportancesError, match=r"optuna\.db of the store's folder, which is not here"):
        importances(away, "small")
    _, report, found = collected(away, corpus=tmp_path / "nowhere")
    assert set(found.lacking) == {"importances", "texts"}
    (duel,) = found.duels
    assert duel.gained and all(change.text is None for change in duel.gained)
    page = to_html(report, found)
    assert "are shown by their id" in page and "--corpus" in page and "optuna.db" in page
    assert duel.gained[0].id in page


def test_queries_of_a_corpus_in_an_object_store_are_shown_with_their_code(
    store: Store, tiny_corpus: Path, bucket: str
) -> None:
    copy_corpus(tiny_corpus, bucket)
    _, _, found = collected(store, corpus=bucket)
    assert found.lacking == {}
    (duel,) = found.duels
    assert duel.gained and all(change.text is not None for change in duel.gained)


def test_the_page_says_what_happened_to_a_corpus_that_cannot_be_read(
    store: Store, tiny_corpus: Path, bucket: str, tmp_path: Path
) -> None:
    shutil.copytree(tiny_corpus, tmp_path / "damaged")
    (tmp_path / "damaged" / "python" / "test.parquet").write_bytes(b"no table")
    away = f"s3://bucket/c?scheme=http&endpoint_override=127.0.0.1:{free_port()}&region=us-east-1"
    for place, said in (
        (tmp_path / "nowhere", f"the corpus {tmp_path / 'nowhere'} is not here; give its folder"),
        (away, "cannot be read: expected a storage that can be read at s3://bucket/c/manifest.json"),
        (f"{bucket}/none", f"cannot be read: expected a corpus at {bucket}/none, got nothing"),
        (tmp_path / "damaged", "cannot be read: expected a parquet table in"),
    ):
        _, report, found = collected(store, corpus=place)
        assert said in found.lacking["texts"] and "--corpus" in found.lacking["texts"]
        assert escape(said) in to_html(report, found)


def test_distributions_are_those_of_an_arms_finished_seeds(store: Store) -> None:
    _, report, found = collected(store)
    assert [(each.arm, each.language, each.seeds) for each in found.spreads] == [
        ("infonce", "python", 3),
        ("soft", "python", 3),
        ("flat", "python", 2),
    ]
    for spread in found.spreads:
        assert spread.found == together(distributions(spread.arm, seed) for seed in range(1, spread.seeds + 1))
    page = to_html(report, found)
    assert "n = 2,880 pairs an arm, 3 seeds" in page and "n = 1,920 to 2,880 pairs an arm, 2 to 3 seeds" in page


def test_a_study_without_distributions_has_a_sentence(tmp_path: Path, tiny_corpus: Path) -> None:
    _, report, found = collected(make(tmp_path, tiny_corpus, search=0, counted=False))
    assert found.spreads == ()
    assert "the trials ran before they were" in to_html(report, found)


def test_distributions_that_cannot_be_read_are_named_and_the_others_shown(tmp_path: Path, tiny_corpus: Path) -> None:
    store = make(tmp_path, tiny_corpus, search=0)
    results = load_results(store, "small")
    client = MlflowClient(tracking_uri=store.tracking_uri)
    soft = [trial.run_id for trial in results.trials if trial.arm == "soft"]
    client.log_text(soft[0], "{}", DISTRIBUTIONS_FILE)
    for file in (tmp_path / "artifacts").rglob(f"{soft[1]}/artifacts/{DISTRIBUTIONS_FILE}"):
        file.unlink()
    _, report, found = collected(store)
    assert {each.arm: each.seeds for each in found.spreads} == {"infonce": 3, "soft": 1, "flat": 3}
    told = found.lacking["distributions"]
    assert "cannot be read" in told and "and 1 more" in told and any(run in told for run in soft[:2])
    assert told in to_html(report, found).replace("&#x27;", "'")


def test_another_corpus_in_its_place_is_not_shown(store: Store, two_languages: Path) -> None:
    _, _, found = collected(store, corpus=two_languages)
    assert "is another corpus now" in found.lacking["texts"]


def test_searches_that_cannot_be_read_are_no_error_of_the_report(store: Store, tmp_path: Path) -> None:
    broken = replace(store, root=tmp_path)
    (tmp_path / "optuna.db").write_text("no database")
    _, _, found = collected(broken)
    assert "cannot be read" in found.lacking["importances"]
    shutil.rmtree(tmp_path)
