import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from softnce_ray.cli import app
from softnce_ray.corpus import Corpus, CorpusError, Pair, build_corpus, check_corpus, examine_corpus
from softnce_ray.corpus.manifest import MANIFEST_NAME
from softnce_ray.corpus.pairs import pairs_to_table
from softnce_ray.corpus.store import fingerprint
from softnce_ray.corpus.verifying import RowsDigest
from softnce_ray.digests import with_checksum


def pair(number: int, package: str = "p", **changes: Any) -> Pair:
    code = f"def f{number}(a{number}, b{number}):\n    value{number} = a{number}\n    return value{number} + b{number}"
    made = Pair(f"Give number {number} back", code, "python", package, f"{package}/{number}.py", 1, f"f{number}")
    return replace(made, **changes)


def by_package(folder: Path) -> Path:
    build_corpus([pair(number, f"p{number // 3}") for number in range(60)], folder, valid=5, test=5, codebase=1)
    return folder


def change(folder: Path, split: str, changed: Callable[[dict], dict], *, forget: bool = True) -> None:
    """Change a split's rows as somebody would who also knows the manifest."""
    rows = Corpus.open(folder).table("python", split).to_pylist()
    pairs = [Pair(**{key: value for key, value in changed(row).items() if key != "id"}) for row in rows]
    table = pairs_to_table(pairs)
    pq.write_table(table, folder / "python" / f"{split}.parquet")
    digest = RowsDigest()
    digest.update(table)
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    manifest["languages"]["python"]["digests"][split] = digest.hexdigest()
    manifest["fingerprint"] = fingerprint({"python": manifest["languages"]["python"]["digests"]})
    if forget:
        del manifest["findings"]
    (folder / MANIFEST_NAME).write_text(json.dumps(with_checksum(manifest)))


def test_a_built_corpus_has_no_problems_and_its_manifest_says_so(tmp_path):
    folder = by_package(tmp_path / "c")
    findings = Corpus.open(folder).manifest.findings
    assert findings is not None
    assert findings.problems == ()
    assert findings == examine_corpus(folder)
    assert check_corpus(folder) == check_corpus(folder, read_rows=True) == []


@pytest.mark.parametrize("split", ["valid", "test"])
def test_evaluation_code_that_is_in_train_is_found(tmp_path, split):
    folder = by_package(tmp_path / "c")
    trained = Corpus.open(folder).table("python", "train").column("code")[0].as_py()
    change(folder, split, lambda row: {**row, "code": trained.replace("    ", "\t")})
    (problem,) = check_corpus(folder)
    assert f"no function of {split} in train" in problem


def test_a_package_on_both_sides_is_found_where_packages_were_split(tmp_path):
    folder = by_package(tmp_path / "c")
    package = Corpus.open(folder).table("python", "train").column("package")[0].as_py()
    change(folder, "test", lambda row: {**row, "package": package})
    (problem,) = check_corpus(folder)
    assert "in both train and test" in problem
    assert repr(package) in problem


def test_splits_that_were_given_may_share_packages(tmp_path):
    given = {"train": [pair(1)], "test": [pair(2)], "valid": [pair(3)]}
    build_corpus(given, tmp_path / "c")
    assert check_corpus(tmp_path / "c", read_rows=True) == []


def test_a_split_by_file_may_share_packages_in_old_manifests_too(tmp_path):
    folder = tmp_path / "c"
    manifest = build_corpus([pair(number) for number in range(30)], folder)
    assert manifest.rules["split_by_file"] == ["python"]
    assert check_corpus(folder, read_rows=True) == []
    old = json.loads((folder / MANIFEST_NAME).read_text())
    del old["rules"]["split_by_file"], old["findings"], old["checksum"]
    (folder / MANIFEST_NAME).write_text(json.dumps(old))
    assert check_corpus(folder) == []


def test_the_manifests_findings_are_believed_unless_rows_are_to_be_read(tmp_path):
    folder = by_package(tmp_path / "c")
    trained = Corpus.open(folder).table("python", "train").column("code")[0].as_py()
    change(folder, "test", lambda row: {**row, "code": trained}, forget=False)
    assert check_corpus(folder) == []
    assert len(check_corpus(folder, read_rows=True)) == 1


def test_rows_that_are_not_the_manifests_are_an_error(tmp_path):
    folder = by_package(tmp_path / "c")
    rows = Corpus.open(folder).table("python", "test").to_pylist()
    rows[0]["name"] = "other"
    pq.write_table(
        Corpus.open(folder)
        .table("python", "test")
        .from_pylist(rows, Corpus.open(folder).table("python", "test").schema),
        folder / "python" / "test.parquet",
    )
    with pytest.raises(CorpusError, match="other rows"):
        check_corpus(folder, read_rows=True)


def test_equal_queries_with_other_codes_are_counted(tmp_path):
    query = "Give it back"
    train = [pair(1, query=query), pair(2, query=query.upper()), pair(3), pair(4), pair(4, path="other.py", query="X")]
    build_corpus({"train": train, "test": [pair(5, query=query)]}, tmp_path / "c")
    assert examine_corpus(tmp_path / "c").same_query_other_code == {"python": {"train": 2, "valid": 0, "test": 0}}


def test_the_check_command_fails_where_there_are_problems(tmp_path):
    folder = by_package(tmp_path / "c")
    done = CliRunner().invoke(app, ["corpus", "check", str(folder)])
    assert done.exit_code == 0
    assert "no function of valid or test is in train" in done.stdout
    trained = Corpus.open(folder).table("python", "train").column("code")[0].as_py()
    change(folder, "test", lambda row: {**row, "code": trained})
    done = CliRunner().invoke(app, ["corpus", "check", str(folder)])
    assert done.exit_code == 1
    assert "no function of test in train" in done.output
