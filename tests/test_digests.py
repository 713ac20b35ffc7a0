"""Digests that this machine remembers, and checksums of JSON files."""

from __future__ import annotations

import json
import os
import platform
import shutil
from pathlib import Path

import pytest

from softnce_ray import digests
from softnce_ray.digests import cache_folder, checksum_problem, known_digest, sha256_of, with_checksum


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOFTNCE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "file"
    path.write_text("one")
    return path


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled at once."""
    monkeypatch.setattr(digests, "_SETTLED", -1.0)


def digest(path: Path) -> str:
    return known_digest(path, "content", path.read_text)


def entries() -> list[Path]:
    return sorted(cache_folder().rglob("*.json"))


@pytest.mark.usefixtures("settled")
def test_a_file_that_did_not_change_is_read_once(file: Path) -> None:
    read: list[str] = []

    def compute() -> str:
        read.append("read")
        return "digest"

    assert [known_digest(file, "a", compute) for _ in range(3)] == ["digest"] * 3
    assert read == ["read"]
    known_digest(file, "b", compute)
    assert read == ["read"] * 2
    shutil.rmtree(cache_folder())
    assert known_digest(file, "a", compute) == "digest"
    assert read == ["read"] * 3


@pytest.mark.usefixtures("settled")
def test_a_change_of_the_same_size_and_time_is_seen(file: Path) -> None:
    assert digest(file) == "one"
    before = file.stat()
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert digest(file) == "two"
    other = file.with_name("other")
    other.write_text("six")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, file)
    assert digest(file) == "six"


def test_a_file_that_changed_a_moment_ago_is_not_remembered(file: Path) -> None:
    assert digest(file) == "one"
    assert entries() == []


@pytest.mark.usefixtures("settled")
def test_a_file_that_changes_while_it_is_read_is_not_remembered(file: Path) -> None:
    def compute() -> str:
        text = file.read_text()
        file.write_text("more")
        return text

    assert known_digest(file, "content", compute) == "one"
    assert digest(file) == "more"


@pytest.mark.usefixtures("settled")
def test_a_cache_of_another_host_or_a_damaged_one_is_not_believed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest(file)
    (entry,) = entries()
    content = json.loads(entry.read_text())
    for wrong in ("{", "[]", "null", json.dumps({**content, "digest": None}), json.dumps({"state": content["state"]})):
        entry.write_text(wrong)
        assert digest(file) == "one"
    entry.write_text(json.dumps({**content, "digest": "a lie"}))
    assert digest(file) == "a lie"
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    assert digest(file) == "one"
    assert len(entries()) == 2


@pytest.mark.usefixtures("settled")
def test_a_cache_that_cannot_be_written_costs_only_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = file.with_name("blocked")
    blocked.write_text("")
    monkeypatch.setenv("SOFTNCE_CACHE", str(blocked))
    assert [digest(file), digest(file)] == ["one", "one"]
    assert sha256_of(file) == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"


def test_a_checksum_finds_any_change_and_may_be_removed() -> None:
    written = json.loads(json.dumps(with_checksum({"a": 1, "b": {"c": [0.1, None, "ü"]}})))
    assert checksum_problem(written) == ""
    assert checksum_problem({**written, "a": 2}).startswith("a change after it was written")
    assert checksum_problem({**written, "d": 0})
    assert checksum_problem({"a": 2}) == ""
