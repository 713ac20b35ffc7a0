"""The numbers of the table, computed again from the ranks that the store keeps, by other means."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from reported_study import ARMS, SEEDS, make
from scipy import stats

from softnce_ray.report import Report, build_report
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
    return build_report(load_results(store, "small"), permutations=20_000, resamples=20_000)


def bootstrap(matrices: list[np.ndarray], seed: int) -> np.ndarray:
    """Means, or differences of two, of resamples in which every query and every seed is drawn with replacement."""
    rng = np.random.default_rng(seed)
    seeds, queries = matrices[0].shape
    signs = (1, -1)
    values = []
    for _ in range(20_000):
        rows, columns = rng.integers(0, seeds, seeds), rng.integers(0, queries, queries)
        drawn = [matrix[rows][:, columns].mean() for matrix in matrices]
        values.append(sum(sign * each for sign, each in zip(signs, drawn, strict=False)))
    return np.array(values)


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


@pytest.mark.slow
def test_intervals(report: Report, stored: dict[str, np.ndarray]) -> None:
    """Both ends have an error of simulation; a hundredth of the interval's width times six is beyond it."""
    for row in report.rows:
        compared = [(row.mean, [stored[row.arm]])]
        if row.difference is not None:
            compared.append((row.difference, [stored[row.arm], stored["infonce"]]))
        for interval, matrices in compared:
            assert interval is not None
            low, high = np.percentile(bootstrap(matrices, seed=11), [2.5, 97.5])
            assert interval.low == pytest.approx(low, abs=0.06 * (high - low))
            assert interval.high == pytest.approx(high, abs=0.06 * (high - low))


def test_p_values_and_their_correction(report: Report, stored: dict[str, np.ndarray]) -> None:
    """SciPy's own sign-flip test; Holm by its definition: the least p times 2, the other's, and never less."""
    p = {}
    for arm in ("soft", "flat"):
        difference = stored[arm].mean(axis=0) - stored["infonce"].mean(axis=0)
        test = stats.permutation_test(
            (difference,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(3)
        )
        p[arm] = float(test.pvalue)
    found = {row.arm: row for row in report.rows}
    ours: dict[str, float] = {}
    for arm in p:
        assert found[arm].p_value == pytest.approx(p[arm], abs=0.02)
        ours[arm] = found[arm].p_value or 0.0
    small, large = sorted(ours, key=lambda arm: ours[arm])
    assert found[small].p_holm == pytest.approx(min(1.0, 2 * ours[small]), rel=1e-9)
    assert found[large].p_holm == pytest.approx(max(2 * ours[small], ours[large]), rel=1e-9)
    assert p["soft"] < 0.001 < 0.05 < p["flat"]  # one that differs and one that does not


def test_an_exact_p_is_that_of_all_sign_flips(report: Report, stored: dict[str, np.ndarray]) -> None:
    """Of the first ten queries all 1,024 flips can be counted one by one."""
    from softnce_ray.statistics import randomisation_p_values

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
