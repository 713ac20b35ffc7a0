"""The numbers of the table, computed again from the ranks that the store keeps, by other means."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from reported_study import ARMS, SEEDS, make
from scipy import stats
from typer.testing import CliRunner

from softnce_ray.cli import app
from softnce_ray.report import Report, build_report
from softnce_ray.report.sensitivity import sensitivities
from softnce_ray.statistics import randomisation_p_values
from softnce_ray.store import Store
from softnce_ray.tracking import load_results


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Store:
    return make(tmp_path_factory.mktemp("statistics"), tiny_corpus, search=0)


@pytest.fixture(scope="module")
def stored(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Arm -> (S, Q), read from the runs' files without the package's readers."""
    client = MlflowClient(store.tracking_uri)
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    found: dict[str, dict[int, dict[str, float]]] = {}
    for run in client.search_runs(
        [experiment.experiment_id], "tags.phase = 'confirm' and attributes.status = 'FINISHED'"
    ):
        folder = tmp_path_factory.mktemp("ranks")
        table = pq.read_table(client.download_artifacts(run.info.run_id, "reciprocal_ranks.parquet", str(folder)))
        values = {row["id"]: row["reciprocal_rank"] for row in table.to_pylist() if row["split"] == "test"}
        found.setdefault(run.data.tags["arm"], {})[int(run.data.tags["seed"])] = values
    ids = sorted(found["infonce"][SEEDS[0]])
    return {arm: np.array([[of_seed[seed][each] for each in ids] for seed in SEEDS]) for arm, of_seed in found.items()}


@pytest.fixture(scope="module")
def report(store: Store) -> Report:
    return build_report(load_results(store, "small"))


def test_means_spreads_and_differences(report: Report, stored: dict[str, np.ndarray]) -> None:
    assert [row.arm for row in report.rows] == list(ARMS)
    for row in report.rows:
        ranks = stored[row.arm]
        assert row.mean is not None
        assert row.mean.mean == pytest.approx(sum(map(sum, ranks.tolist())) / ranks.size)
        assert row.spread == pytest.approx(stats.tstd([float(np.mean(each)) for each in ranks]))
        if row.arm != "infonce":
            assert row.difference is not None
            assert row.difference.mean == pytest.approx(ranks.mean() - stored["infonce"].mean())


def test_intervals_and_p(report: Report, stored: dict[str, np.ndarray]) -> None:
    """The analysis of variance written out with sums of squares, and Satterthwaite's degrees of freedom."""
    found = {row.arm: row for row in report.rows}
    p = {}
    for arm in ("soft", "flat"):
        values = stored[arm] - stored["infonce"]
        (seeds, queries), mean = values.shape, values.mean()
        of_seeds = queries * sum((row.mean() - mean) ** 2 for row in values) / (seeds - 1)
        of_queries = seeds * sum((column.mean() - mean) ** 2 for column in values.T) / (queries - 1)
        total = ((values - mean) ** 2).sum()
        rest_df = (seeds - 1) * (queries - 1)
        rest = (total - of_seeds * (seeds - 1) - of_queries * (queries - 1)) / rest_df
        variance = max(of_seeds + of_queries - rest, of_seeds, of_queries) / values.size
        spread = of_seeds**2 / (seeds - 1) + of_queries**2 / (queries - 1) + rest**2 / rest_df
        df = max((variance * values.size) ** 2 / spread, seeds - 1)
        low, high = stats.t.interval(0.95, df, mean, np.sqrt(variance))
        p[arm] = float(2 * stats.t.sf(abs(mean) / np.sqrt(variance), df))
        difference = found[arm].difference
        assert difference is not None
        assert (difference.low, difference.high, difference.p) == pytest.approx((low, high, p[arm]))
    small, large = sorted(p, key=lambda arm: p[arm])
    assert found[small].p_holm == pytest.approx(min(1.0, 2 * p[small]))
    assert found[large].p_holm == pytest.approx(min(1.0, max(2 * p[small], p[large])))
    assert p["soft"] < 0.01 < 0.05 < p["flat"]  # one that differs and one that does not


def test_an_exact_p_of_these_models_is_that_of_all_sign_flips(report: Report, stored: dict[str, np.ndarray]) -> None:
    """Of the first ten queries all 1,024 flips can be counted one by one."""
    ours, theirs = stored["flat"][:, :10], stored["infonce"][:, :10]
    difference = ours.mean(axis=0) - theirs.mean(axis=0)
    seen = abs(difference.sum())
    flips = [abs(np.dot(signs, difference)) for signs in itertools.product((1, -1), repeat=10)]
    expected = sum(each >= seen - 1e-9 for each in flips) / len(flips)
    assert randomisation_p_values({"flat": [ours], "infonce": [theirs]}, "infonce") == pytest.approx({"flat": expected})


def test_the_best_is_the_highest_mean_and_ties_are_those_that_do_not_differ(
    report: Report, stored: dict[str, np.ndarray]
) -> None:
    best = max(stored, key=lambda arm: stored[arm].mean())
    assert [row.arm for row in report.rows if row.is_best] == [best] == ["soft"]
    assert not any(row.ties_best for row in report.rows)


def test_the_command_power_plans_from_a_study_that_was_made(store: Store, report: Report) -> None:
    asked = ["power", "small", "--store", str(store.root), "--effect", "0.02", "--format", "json"]
    found = {each["label"]: each for each in json.loads(CliRunner().invoke(app, asked).stdout)}
    expected = {each.label: each for each in sensitivities(report, (0.02,))}
    assert found.keys() == expected.keys() == {"soft, python", "flat, python"}
    for label, each in expected.items():
        assert found[label]["seeds"] == {"0.02": each.seeds[0.02]}
    more = json.loads(CliRunner().invoke(app, [*asked, "--seeds", "20", "--queries", "5000"]).stdout)
    assert {each["design"]["seeds"] for each in more} == {20}
    assert all(each["detectable"] < expected[each["label"]].detectable for each in more)
