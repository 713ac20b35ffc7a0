"""Locations on a disk and in a real S3-compatible object store; both must behave alike."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from remedies import printed, run_here
from servers import free_port
from typer.testing import CliRunner, Result

from softnce_ray import shared, storage
from softnce_ray.cli import app
from softnce_ray.corpus import Corpus, CorpusError, copy_corpus, store
from softnce_ray.corpus.verifying import Verify
from softnce_ray.digests import cache_folder
from softnce_ray.errors import UserError
from softnce_ray.shared import shared_once
from softnce_ray.storage import Location, StorageError, on_disk
from softnce_ray.study.jobs.checking import checked_study


@pytest.fixture(params=["disk", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """An empty place: all that is asked of one is asked of both kinds."""
    if request.param == "disk":
        return Location.at(tmp_path / "root")
    return Location.at(request.getfixturevalue("bucket")) / "some" / "where"


# --- addresses ---


def test_paths_become_absolute_and_uris_stay(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(Location.at("a/b")) == f"{tmp_path}/a/b"
    assert Location.at("a").path == tmp_path / "a"
    assert str(Location.at("s3://bucket/a/")) == "s3://bucket/a"
    assert Location.at("s3://bucket/a").path is None
    assert str(Location.at("file:///a/b")) == "/a/b"


def test_a_tilde_that_no_shell_has_seen_is_the_home(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert Location.at("~/corpora").path == tmp_path / "corpora"
    assert storage.local("~/corpora/../export", "--to", "") == tmp_path / "export"
    assert Location.at("~who-is-nobody-here/a").path == tmp_path / "~who-is-nobody-here" / "a"
    assert Location.at("./~/a").path == tmp_path / "~" / "a"


@pytest.mark.parametrize("place", [Path("s3://bucket/a"), "s3:/bucket/a", "gs:/bucket"])
def test_a_uri_that_has_lost_a_slash_is_said_and_never_made_a_folder(place: str | Path) -> None:
    assert not storage.is_uri(str(place)) and not storage.is_uri("corpora/s3")
    with pytest.raises(StorageError, match=r"expected (s3|gs)://bucket/folder, got (s3|gs):/bucket.*write two slashes"):
        Location.at(place)
    with pytest.raises(StorageError, match=r"--out: expected a path on this machine.*: copy it"):
        storage.local(place, "--out", "copy it")
    with pytest.raises(CorpusError, match="write two slashes"):
        Corpus.open(place)


@pytest.mark.parametrize("text", ["s3://", "s3:///", "gs://", "s3://?region=us-east-1"])
def test_an_address_without_a_bucket_is_said(text: str, tiny_corpus: Path) -> None:
    with pytest.raises(StorageError, match=r"expected a bucket, as in (s3|gs)://bucket/folder, got .*: name one"):
        copy_corpus(tiny_corpus, text)


def test_an_empty_text_is_no_place(tiny_corpus: Path) -> None:
    with pytest.raises(StorageError, match="got an empty text"):
        copy_corpus(tiny_corpus, "")
    with pytest.raises(StorageError, match="--out: expected a path, got an empty text"):
        storage.local("", "--out", "")


def test_a_path_on_this_machine_stays_as_it_was_given_and_may_not_lie_below_a_file(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert [str(storage.local(text, "--out", "")) for text in ("a/b", "file", "/x/y")] == ["a/b", "file", "/x/y"]
    for text in ("file/below", "file/far/below"):
        with pytest.raises(StorageError, match=rf"--out: .* got {text}, and {tmp_path}/file is no folder"):
            storage.local(text, "--out", "")
    with pytest.raises(StorageError, match="--out: expected a path on this machine, got s3://b/c: copy it"):
        storage.local("s3://b/c", "--out", "copy it")


def test_what_lies_below_keeps_the_query() -> None:
    below = Location.at("s3://bucket/a?endpoint_override=http://10.0.0.1:9000") / "b" / "c"
    assert str(below) == "s3://bucket/a/b/c?endpoint_override=http://10.0.0.1:9000"
    assert below.name == "c"


def test_a_question_mark_of_a_path_is_part_of_a_name(tmp_path) -> None:
    below = Location.at(tmp_path / "job%20a?b#c") / "checkpoint_000001"
    assert (below.name, Location.at(tmp_path / "job%20a?b#c").name) == ("checkpoint_000001", "job%20a?b#c")


def test_credentials_in_an_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID") as caught:
        Location.at("s3://AKIA:hunter2@bucket/a")
    assert "hunter2" not in str(caught.value)


def test_a_kind_of_storage_that_is_unknown_is_a_line() -> None:
    with pytest.raises(StorageError, match="expected a storage that can be used, got nowhere://b"):
        storage.read(Location.at("nowhere://b/c"))


# --- files ---


def test_a_file_is_read_as_it_was_written_last(root) -> None:
    assert storage.read(root / "a" / "file") is None
    storage.write(root / "a" / "file", b"one")
    storage.write(root / "a" / "file", b"three")
    assert storage.read(root / "a" / "file") == b"three"
    assert storage.names(root) == ["a"]
    assert storage.names(root / "a") == ["file"]


def test_names_of_nothing_are_none_and_removing_it_is_no_error(root) -> None:
    assert storage.names(root / "nothing") == []
    storage.remove(root / "nothing")


def test_a_folder_is_removed_with_all_in_it_and_nothing_else(root) -> None:
    for name in ("a/x", "a/b/y", "ab"):
        storage.write(root / name, b"1")
    storage.remove(root / "a")
    assert storage.read(root / "a/b/y") is None
    assert storage.read(root / "ab") == b"1"
    storage.remove(root / "ab")
    assert storage.read(root / "ab") is None


def test_a_file_can_be_sought_in(root) -> None:
    storage.write(root / "file", b"0123456789")
    with storage.opened(root / "file") as file:
        file.seek(-3, os.SEEK_END)
        assert file.read() == b"789"
    with pytest.raises(FileNotFoundError), storage.opened(root / "none"):
        pass


def test_a_folder_on_disk_has_what_was_uploaded(root, tmp_path) -> None:
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "a.txt").write_text("a")
    (source / "deep" / "er" / "b.txt").write_text("b")
    storage.upload(source, root / "folder")
    with on_disk(root / "folder") as folder:
        assert (folder / "a.txt").read_text() == "a"
        assert (folder / "deep" / "er" / "b.txt").read_text() == "b"
    with on_disk(root / "folder", ["a.txt", "none.txt"]) as folder:
        assert (folder / "a.txt").read_text() == "a"
        assert not (folder / "none.txt").exists()


# --- made once, seen everywhere ---


def other_machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """From now on this process keeps what it reads as another machine would: elsewhere."""
    monkeypatch.setenv("SOFTNCE_CACHE", str(folder))


def test_what_one_machine_made_another_fetches(root, tmp_path, monkeypatch) -> None:
    def make(folder: Path) -> None:
        (folder / "part").mkdir()
        (folder / "part" / "array").write_bytes(b"made")

    first = shared_once(root, "kind/key", make)
    other_machine(monkeypatch, tmp_path / "other")
    again = shared_once(root, "kind/key", None)
    assert (again / "part" / "array").read_bytes() == b"made"
    assert (first == again) == (root.path is not None)


def test_what_nobody_made_is_an_error_that_says_what_to_do(root) -> None:
    with pytest.raises(StorageError, match="kind/key, got nothing: was it deleted"):
        shared_once(root, "kind/key", None)


def test_what_fails_half_way_leaves_nothing(root) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shared_once(root, "kind/key", fail)
    made = shared_once(root, "kind/key", lambda folder: (folder / "whole").touch())
    assert sorted(path.name for path in made.iterdir()) == ["sha256.json", "whole"]


@pytest.mark.parametrize("damage", ["change", "remove", "pipe", "record"])
def test_what_was_prepared_and_has_changed_is_refused(root, damage: str) -> None:
    made = shared_once(root, "kind/key", lambda folder: (folder / "file").write_bytes(b"whole"))
    assert shared_once(root, "kind/key", None) == made
    if damage == "change":
        (made / "file").write_bytes(b"other")
    elif damage == "record":
        (made / "sha256.json").write_text("[]")
    else:
        (made / "file").unlink()
        if damage == "pipe":
            os.mkfifo(made / "file")
    with pytest.raises(StorageError, match=rf"what was prepared in {made} as it was written, got .*: it was changed"):
        shared_once(root, "kind/key", None)
    (made / "file").unlink(missing_ok=True)
    (made / "file").write_bytes(b"other")
    (made / "sha256.json").unlink()
    assert shared_once(root, "kind/key", None) == made  # of an earlier version


def test_a_folder_that_was_cut_off_while_it_was_sent_is_not_there(bucket, tmp_path, monkeypatch) -> None:
    root = Location.at(bucket)
    send = storage.write

    def crash(place: Location, content: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shared, "write", crash)
    with pytest.raises(KeyboardInterrupt):
        shared_once(root, "key", lambda folder: (folder / "file").write_bytes(b"first"))
    monkeypatch.setattr(shared, "write", send)
    other_machine(monkeypatch, tmp_path / "other")
    made = shared_once(root, "key", lambda folder: (folder / "file").write_bytes(b"second"))
    other_machine(monkeypatch, tmp_path / "third")
    assert (made / "file").read_bytes() == b"second"
    assert (shared_once(root, "key", None) / "file").read_bytes() == b"second"


def test_two_machines_that_make_the_same_at_once_are_never_mixed(bucket, tmp_path) -> None:
    """Each writes its own number into many files; a third machine must find one number in all of them."""
    program = """
import sys
from pathlib import Path
from softnce_ray.shared import shared_once
from softnce_ray.storage import Location

def make(folder: Path) -> None:
    for number in range(20):
        (folder / f"file{number}").write_text(sys.argv[2])

shared_once(Location.at(sys.argv[1]), "key", make)
"""
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", program, bucket, str(number)],
            env={**os.environ, "SOFTNCE_CACHE": str(tmp_path / f"machine{number}")},
        )
        for number in range(3)
    ]
    assert [maker.wait(timeout=60) for maker in makers] == [0, 0, 0]
    found = shared_once(Location.at(bucket), "key", None)
    assert len({(found / f"file{number}").read_text() for number in range(20)}) == 1


def test_a_damaged_file_in_the_store_is_refused(bucket, tmp_path, monkeypatch) -> None:
    root = Location.at(bucket)
    shared_once(root, "key", lambda folder: (folder / "file").write_bytes(b"whole"))
    listed = json.loads(storage.read(root / "key" / "files.json") or b"")
    storage.write(root / "key" / listed["folder"] / "file", b"part")
    other_machine(monkeypatch, tmp_path / "other")
    with pytest.raises(StorageError, match=r"expected 5 bytes in s3://.*/file, got 4: delete"):
        shared_once(root, "key", None)
    assert not list((tmp_path / "other").rglob("file"))


def test_processes_of_one_machine_fetch_once(bucket, tmp_path, monkeypatch) -> None:
    root = Location.at(bucket)
    shared_once(root, "key", lambda folder: (folder / "file").write_bytes(b"content"))
    other_machine(monkeypatch, tmp_path / "other")
    fetched: list[Path] = []
    really = storage.download

    def counted(place: Location, folder: Path, files: list[str]) -> None:
        fetched.append(folder)
        really(place, folder, files)

    monkeypatch.setattr(shared, "download", counted)
    threads = [threading.Thread(target=shared_once, args=(root, "key", None)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 1


def test_a_store_that_is_not_there_is_a_line_and_not_a_wait(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SOFTNCE_CACHE", str(tmp_path))
    place = Location.at(f"s3://bucket/a?scheme=http&endpoint_override=127.0.0.1:{free_port()}&region=us-east-1")
    with pytest.raises(StorageError, match=r"expected a storage that can be read at s3://bucket/a.*AWS_ENDPOINT_URL"):
        storage.read(place)
    assert issubclass(StorageError, UserError)


def test_a_bucket_that_does_not_exist_is_said_whatever_is_done_with_it(bucket, tiny_corpus, tmp_path) -> None:
    place = Location.at("s3://no-such-bucket-here/folder")
    (tmp_path / "file").touch()
    tried = [
        lambda: storage.write(place, b"1"),
        lambda: storage.upload(tmp_path, place),
        lambda: copy_corpus(tiny_corpus, str(place)),
        lambda: Corpus.open(str(place)),
        lambda: Corpus.listed(str(place)),
    ]
    for attempt in tried:
        with pytest.raises((StorageError, CorpusError)) as caught:
            attempt()
        assert "expected a bucket that exists, got s3://no-such-bucket-here, which does not" in str(caught.value)
        assert "make it first" in str(caught.value) and "\n" not in str(caught.value)


# --- corpora ---


def test_a_corpus_is_copied_and_read_where_it_was_copied_to(root, tiny_corpus, tmp_path, monkeypatch) -> None:
    done: list[tuple[int, int]] = []
    copy_corpus(tiny_corpus, str(root), progress=lambda *counts: done.append(counts))
    assert done[-1][0] == done[-1][1] == len(done)
    here, there = Corpus.open(tiny_corpus), Corpus.open(str(root), verify=Verify.ALL)
    assert there.fingerprint == here.fingerprint
    assert there.location == str(root)
    assert there.table("python", "train").equals(here.table("python", "train"))
    if root.path is None:
        assert there.folder.is_relative_to(cache_folder())
        storage.remove(root / "python")
        assert Corpus.open(str(root)).table("python", "test").num_rows == 30  # kept by this machine
        other_machine(monkeypatch, tmp_path / "other")
        with pytest.raises(CorpusError, match="got none: it was deleted"):
            Corpus.open(str(root))


def test_a_copy_that_is_there_is_left_and_another_corpus_never_replaced(root, tiny_corpus, two_languages) -> None:
    copy_corpus(tiny_corpus, str(root))
    copy_corpus(tiny_corpus, str(root))
    with pytest.raises(CorpusError, match=r"expected nothing or the same corpus .* got another"):
        copy_corpus(two_languages, str(root))
    assert Corpus.open(str(root), verify=Verify.ALL).fingerprint == Corpus.open(tiny_corpus).fingerprint


def test_a_copy_goes_back_to_a_folder(bucket, tiny_corpus, tmp_path) -> None:
    copy_corpus(tiny_corpus, f"{bucket}/corpus")
    copy_corpus(f"{bucket}/corpus", tmp_path / "back")
    assert Corpus.open(tmp_path / "back", verify=Verify.ALL).fingerprint == Corpus.open(tiny_corpus).fingerprint


def test_a_corpus_in_an_object_store_is_read_from_the_manifest_once(bucket, tiny_corpus, monkeypatch) -> None:
    copy_corpus(tiny_corpus, bucket)
    Corpus.open(bucket)
    read: list[str] = []
    parse = store.parse_manifest

    def counted(text: bytes, path: str) -> store.Manifest:
        read.append(path)
        return parse(text, path)

    monkeypatch.setattr(store, "parse_manifest", counted)
    assert Corpus.open(bucket).table("python", "test").num_rows == 30
    assert Corpus.listed(bucket).languages == ("python",)
    assert read == [f"{bucket}/manifest.json"] * 2


def test_a_check_finds_what_is_wrong_in_an_object_store_though_a_whole_copy_is_here(bucket, tiny_corpus) -> None:
    copy_corpus(tiny_corpus, bucket)
    Corpus.open(bucket, verify=Verify.ALL)
    table = Location.at(bucket) / "python" / "train.parquet"
    content = storage.read(table) or b""
    storage.write(table, content[:-1])
    said = rf"expected {len(content):,} bytes in {bucket}/python/train.parquet, got {len(content) - 1:,}.*copy it again"
    with pytest.raises(CorpusError, match=said):
        Corpus.open(bucket, verify=Verify.ALL)
    storage.remove(table)
    with pytest.raises(CorpusError, match=r"train.parquet, got no file"):
        Corpus.open(bucket, verify=Verify.ALL)
    Corpus.open(bucket)  # who only reads has what it needs


def test_a_damaged_copy_of_an_object_store_is_named_with_what_to_delete(bucket, tiny_corpus) -> None:
    copy_corpus(tiny_corpus, bucket)
    kept = Corpus.open(bucket).folder
    (kept / "python" / "test.parquet").unlink()
    with pytest.raises(CorpusError, match=rf"this machine's copy of {bucket} is damaged; delete {kept}, and it"):
        Corpus.open(bucket)


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)


def test_the_commands_of_corpora_take_addresses(bucket, tiny_corpus, tmp_path) -> None:
    place = f"{bucket}/corpus"
    copied = command("corpus", "copy", tiny_corpus, place)
    assert copied.stdout.startswith(f"{place}: corpus ")
    here, there = command("corpus", "check", tiny_corpus), command("corpus", "check", place)
    assert (there.exit_code, there.stdout) == (0, here.stdout.replace(str(tiny_corpus), place))
    shown = command("corpus", "show", place)
    assert shown.stdout == command("corpus", "show", tiny_corpus).stdout
    options = ("--pairs", 40, "--members", 4, "--queries", 5, "--share", 0.2)
    planted = command("corpus", "plant", place, "--out", tmp_path / "planted", *options)
    assert planted.exit_code == 0 and Corpus.open(tmp_path / "planted").languages


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["corpus", "mine", "--source", ".", "--out", "URI"], r"--out: .*then `softnce-ray corpus copy FOLDER URI`"),
        (["corpus", "import", "pairs.jsonl", "--out", "URI"], r"--out: .*then `softnce-ray corpus copy FOLDER URI`"),
        (["corpus", "recipe", "six-languages", "--out", "URI"], r"--out: .*then `softnce-ray corpus copy FOLDER URI`"),
        (["corpus", "plant", "corpus", "--out", "URI"], r"--out: .*then `softnce-ray corpus copy FOLDER URI`"),
        (["corpus", "mine", "--source", "URI", "--out", "c"], r"--source: .* got URI: fetch it"),
        (["corpus", "mine", "--source", ".", "--cache", "URI", "--out", "c"], r"--cache: .* got URI: archives"),
        (["corpus", "import", "URI", "--out", "c"], r"PATH: .* got URI: fetch it"),
        (["export", "study", "--to", "URI"], r"--to: .* got URI: make the export in a folder, and copy that"),
        (["index", ".", "--model", "m", "--out", "URI"], r"--out: .* got URI: make the index here"),
        (["search", "URI", "query"], r"INDEX: .* got URI: copy its folder"),
        (["report", "study", "--out", "URI"], r"--out: .* got URI: write it to a file here"),
        (["report", "study", "--store", "URI"], r"--store: .* got URI: give a folder; .* --storage"),
        (["corpus", "copy", "corpus", "file/below"], r"TARGET: .*/file/below, and .*/file is no folder"),
        (["corpus", "copy", "corpus", "s3://"], "expected a bucket, as in s3://bucket/folder, got s3://: name one"),
        (["corpus", "copy", "corpus", ""], "expected a path or an address .*, got an empty text"),
        (["export", "study", "--to", ""], "--to: expected a path, got an empty text"),
        (["corpus", "mine", "--source", ".", "--out", ""], "--out: expected a path, got an empty text"),
        (["export", "study", "--to", "file/below"], r"--to: .* got file/below, and .*/file is no folder"),
        (["index", ".", "--model", "m", "--out", "file/below"], r"--out: .* got file/below, and .*/file is no folder"),
        (["corpus", "mine", "--source", ".", "--out", "file/c"], r"--out: .* got file/c, and .*/file is no folder"),
        (["report", "study", "--out", "file/a.html"], r"--out: .* got file/a.html, and .*/file is no folder"),
    ],
)
def test_what_must_be_on_this_machine_says_so_and_what_to_do_instead(arguments, says, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    uri = "s3://bucket/folder"
    with pytest.raises(UserError, match=says.replace("URI", uri)) as caught:
        command(*(uri if each == "URI" else each for each in arguments))
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["file"]


def test_a_corpus_is_made_here_and_copied_as_is_printed(bucket, tiny_corpus, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_corpus, tmp_path / "my corpus")
    study = {"study": "tiny", "corpus": "my corpus", "languages": ["python"], "seeds": [1], "arms": {"one": {}}}
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    there, given = "s3://BUCKET/FOLDER", f"{bucket}/given"
    for refused, place in (
        (lambda: command("corpus", "mine", "--source", ".", "--out", f"{bucket}/made"), f"{bucket}/made"),
        (lambda: Corpus.open(f"{bucket}/absent"), f"{bucket}/absent"),
        (lambda: checked_study(Path("study.yaml")), given),
    ):
        with pytest.raises(UserError) as caught:
            refused()
        run_here(*printed(str(caught.value)), **{"FOLDER": tiny_corpus, there: given})
        assert Corpus.open(place).languages == ("python",)


def test_a_store_that_the_environment_names_must_be_a_folder_too(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOFTNCE_STORE", "s3://bucket/store")
    with pytest.raises(StorageError, match=r"--store: .* got s3://bucket/store"):
        command("report", "study")
    assert os.listdir(tmp_path) == []


def test_something_else_at_the_target_is_left(tiny_corpus, tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(CorpusError, match="got something that is no corpus"):
        copy_corpus(tiny_corpus, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_no_corpus_at_an_address_says_how_to_put_one_there(bucket) -> None:
    with pytest.raises(CorpusError, match=f"expected a corpus at {bucket}/none, got nothing.*corpus copy"):
        Corpus.open(f"{bucket}/none")
