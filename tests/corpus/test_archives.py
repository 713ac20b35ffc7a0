import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pytest

from softnce_ray.corpus.archives import is_archive, is_whole, unpack_archive
from softnce_ray.corpus.pairs import CorpusError

FILES = {"lib/a.py": "x = 1\n", "README": "hello", "lib/b.rb": "y = 1\n"}


def tar_of(files: Mapping[str, str | bytes | tarfile.TarInfo]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def zip_of(files: Mapping[str, str | bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def zstd(data: bytes) -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        stream.write(data)
    return out.getvalue().to_pybytes()


def ar_of(members: dict[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, data in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return out


CONTROL = "Package: ruby-thing\nSource: thing (1.0)\nVersion: 1:1.0-2\nDescription: x\n"


def deb_of(files: Mapping[str, str | bytes | tarfile.TarInfo], compress=lzma.compress, suffix="xz") -> bytes:
    control = gzip.compress(tar_of({"./control": CONTROL}))
    return ar_of(
        {
            "debian-binary": b"2.0\n",
            "control.tar.gz": control,
            f"data.tar.{suffix}": compress(tar_of({f"./{name}": content for name, content in files.items()})),
        }
    )


def kind(name: str, content: bytes, folder: Path) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def unpacked_files(folder: Path) -> dict[str, str]:
    return {str(each.relative_to(folder)): each.read_text() for each in folder.rglob("*") if each.is_file()}


MAKERS = {
    "a-1.0.zip": lambda: zip_of(FILES),
    "a-1.0.jar": lambda: zip_of(FILES),
    "a-1.0.tar": lambda: tar_of(FILES),
    "a-1.0.tar.gz": lambda: gzip.compress(tar_of(FILES)),
    "a-1.0.tgz": lambda: gzip.compress(tar_of(FILES)),
    "a-1.0.tar.xz": lambda: lzma.compress(tar_of(FILES)),
    "a-1.0.tar.bz2": lambda: bz2.compress(tar_of(FILES)),
    "a-1.0.tar.zst": lambda: zstd(tar_of(FILES)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_sources_of_every_kind_of_archive_are_unpacked(tmp_path, name):
    path = kind(name, MAKERS[name](), tmp_path)
    assert is_archive(path)
    assert is_whole(path)
    unpacked = unpack_archive(path, tmp_path / "cache")
    assert unpacked_files(unpacked.folder) == {"lib/a.py": "x = 1\n", "lib/b.rb": "y = 1\n"}
    assert unpacked.project == unpacked.package == "a"


@pytest.mark.parametrize(("compress", "suffix"), [(lzma.compress, "xz"), (zstd, "zst"), (gzip.compress, "gz")])
def test_a_debian_package_says_its_project_version_and_licence(tmp_path, compress, suffix):
    copyright_file = "Format: x\n\nFiles: *\nCopyright: me\nLicense: Expat\n\nFiles: debian/*\nLicense: GPL-2\n"
    files: Mapping[str, str | bytes | tarfile.TarInfo] = {
        "usr/share/doc/ruby-thing/copyright": copyright_file,
        "usr/lib/thing.rb": "y = 1\n",
    }
    path = kind("ruby-thing_1%3a1.0-2_all.deb", deb_of(files, compress, suffix), tmp_path)
    unpacked = unpack_archive(path, tmp_path / "cache")
    assert unpacked_files(unpacked.folder) == {"usr/lib/thing.rb": "y = 1\n"}
    assert (unpacked.project, unpacked.package, unpacked.version) == ("thing", "ruby-thing", "1:1.0-2")
    assert unpacked.licence == "Expat"


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb to build a package")
def test_a_package_that_dpkg_built_is_unpacked(tmp_path):
    root = tmp_path / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        "Package: thing\nVersion: 1\nArchitecture: all\nMaintainer: me <me@example.org>\nDescription: x\n"
    )
    (root / "usr").mkdir()
    (root / "usr/a.rb").write_text("y = 1\n")
    path = tmp_path / "thing_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", str(root), str(path)], check=True, capture_output=True)
    unpacked = unpack_archive(path, tmp_path / "cache")
    assert unpacked_files(unpacked.folder) == {"usr/a.rb": "y = 1\n"}
    assert (unpacked.project, unpacked.version) == ("thing", "1")


def test_an_archive_of_sources_in_a_package_becomes_a_folder(tmp_path):
    inner = zip_of({"java.base/java/lang/A.java": "class A {}\n", "x/../../../B.java": "class B {}\n"})
    good = zip_of({"java.base/java/lang/A.java": "class A {}\n"})
    path = kind("jdk_1_all.deb", deb_of({"usr/lib/src.zip": good}), tmp_path)
    folder = unpack_archive(path, tmp_path / "cache").folder
    assert unpacked_files(folder) == {"usr/lib/src.zip/java.base/java/lang/A.java": "class A {}\n"}
    with pytest.raises(CorpusError, match="leads out of it"):
        unpack_archive(kind("bad_1_all.deb", deb_of({"usr/lib/src.zip": inner}), tmp_path), tmp_path / "cache")


def test_a_gem_is_unpacked(tmp_path):
    inner = gzip.compress(tar_of({"lib/a.rb": "y = 1\n"}))
    path = kind("thing-1.0.gem", tar_of({"metadata.gz": b"x", "data.tar.gz": inner}), tmp_path)
    unpacked = unpack_archive(path, tmp_path / "cache")
    assert unpacked_files(unpacked.folder) == {"lib/a.rb": "y = 1\n"}
    assert unpacked.project == "thing"


@pytest.mark.parametrize(
    ("facts", "project"),
    [
        ({"name": "a", "repository": "me/other"}, "a"),
        ({"name": "a", "repository": {"url": "git+https://host/me/many.git", "directory": "packages/a"}}, "me/many"),
        ({"name": "@s/a", "repository": {"url": "git@host:me/many.git"}}, "me/many"),
        ({"name": "@s/a"}, "@s"),
    ],
)
def test_packages_of_one_npm_repository_are_one_project(tmp_path, facts, project):
    files = {"package/package.json": json.dumps({**facts, "version": "1.0", "license": "MIT"}), "package/a.js": "1"}
    unpacked = unpack_archive(kind("x-9.tgz", gzip.compress(tar_of(files)), tmp_path), tmp_path / "cache")
    assert (unpacked.project, unpacked.package) == (project, facts["name"])
    assert (unpacked.version, unpacked.licence) == ("1.0", "MIT")


def test_a_wheel_is_called_as_its_metadata_says(tmp_path):
    metadata = "Metadata-Version: 2.4\nName: My.Thing\nVersion: 2.0\nLicense-Expression: MIT\n\nLicense: no\n"
    files = {"my_thing/a.py": "x = 1\n", "my_thing-2.0.dist-info/METADATA": metadata}
    path = kind("my_thing-2.0-py3-none-any.whl", zip_of(files), tmp_path)
    unpacked = unpack_archive(path, tmp_path / "cache")
    assert (unpacked.project, unpacked.version, unpacked.licence) == ("my-thing", "2.0", "MIT")


def member(name: str, type_: bytes, target: str = "") -> tarfile.TarInfo:
    result = tarfile.TarInfo(name)
    result.type, result.linkname = type_, target
    return result


@pytest.mark.parametrize("name", ["../a.py", "lib/../../a.py", "/tmp/a.py", "C:/a.py", "..\\a.py"])
@pytest.mark.parametrize("make", [tar_of, zip_of, lambda files: gzip.compress(tar_of(files))])
def test_a_path_out_of_the_archive_is_an_error_and_nothing_is_left(tmp_path, name, make):
    path = kind("bad.zip", make({"lib/ok.py": "x", name: "y = 1"}), tmp_path)
    with pytest.raises(CorpusError, match=r"expected paths inside the archive, got .*, which leads out"):
        unpack_archive(path, tmp_path / "cache")
    assert [each.name for each in tmp_path.rglob("*.py")] == []
    assert not Path("/tmp/a.py").exists()


def test_links_and_devices_are_passed_over(tmp_path):
    outside = tmp_path / "outside.py"
    outside.write_text("secret")
    files: Mapping[str, str | bytes | tarfile.TarInfo] = {
        "link.py": member("link.py", tarfile.SYMTYPE, str(outside)),
        "folder": member("folder", tarfile.SYMTYPE, str(tmp_path)),
        "hard.py": member("hard.py", tarfile.LNKTYPE, "lib/a.py"),
        "pipe.py": member("pipe.py", tarfile.FIFOTYPE),
        "device.py": member("device.py", tarfile.CHRTYPE),
        "folder/a.py": "x = 1\n",
    }
    folder = unpack_archive(kind("a.tar", tar_of(files), tmp_path), tmp_path / "cache").folder
    assert unpacked_files(folder) == {"folder/a.py": "x = 1\n"}
    assert not (tmp_path / "a.py").exists()


def test_a_link_in_a_zip_is_passed_over(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("link.py")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("b.py", "x = 1\n")
    assert unpacked_files(unpack_archive(path, tmp_path / "cache").folder) == {"b.py": "x = 1\n"}


@pytest.mark.parametrize("make", [zip_of, lambda files: gzip.compress(tar_of(files))])
def test_a_decompression_bomb_is_an_error(tmp_path, make):
    path = kind("bomb.zip", make({"a.py": b"0" * 5_000_000}), tmp_path)
    assert path.stat().st_size < 20_000
    with pytest.raises(CorpusError, match="expected at most 1,000,000 bytes of sources, got more"):
        unpack_archive(path, tmp_path / "cache", max_bytes=1_000_000)
    assert list((tmp_path / "cache").glob("*/files/**/*.py")) == []


def test_too_many_files_are_an_error(tmp_path):
    path = kind("many.zip", zip_of({f"{number}.py": "x" for number in range(11)}), tmp_path)
    with pytest.raises(CorpusError, match="expected at most 10 source files, got more"):
        unpack_archive(path, tmp_path / "cache", max_files=10)


@pytest.mark.parametrize("name", [*MAKERS, "a_1_all.deb"])
def test_an_archive_that_was_cut_short_is_an_error_at_every_place(tmp_path, name):
    noise = bytes(number * number % 251 for number in range(4000)).hex()
    files = {f"lib/{number}.py": noise[number:] for number in range(3)}
    whole = {
        ".zip": zip_of(files),
        ".jar": zip_of(files),
        ".tar": tar_of(files),
        ".gz": gzip.compress(tar_of(files)),
        ".tgz": gzip.compress(tar_of(files)),
        ".xz": lzma.compress(tar_of(files)),
        ".bz2": bz2.compress(tar_of(files)),
        ".zst": zstd(tar_of(files)),
        ".deb": deb_of(dict(files)),
    }[Path(name).suffix]
    for part in (0, 3, 100, len(whole) // 2):
        path = kind(name, whole[:part], tmp_path)
        assert not is_whole(path), part
        with pytest.raises(CorpusError, match=r"expected a whole archive \(.*\), got .+: fetch it again"):
            unpack_archive(path, tmp_path / "cache")


def test_what_cannot_be_unpacked_is_a_line_that_says_what_it_is(tmp_path):
    text = kind("text.zip", b"hello, this is no archive at all", tmp_path)
    page = kind("page.tar.gz", b"<html>404</html>", tmp_path)
    ar = kind("a.deb", ar_of({"debian-binary": b"2.0\n"}), tmp_path)
    for path, said in (
        (text, "expected a whole archive"),
        (page, "expected a whole archive"),
        (ar, "no Debian package"),
        (tmp_path, "got a folder"),
        (tmp_path / "none.zip", "got nothing"),
    ):
        with pytest.raises(CorpusError, match=said) as caught:
            unpack_archive(path, tmp_path / "cache")
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_equal_archives_are_unpacked_once(tmp_path):
    path = kind("a.zip", zip_of(FILES), tmp_path)
    first = unpack_archive(path, tmp_path / "cache")
    os.utime(first.folder / "lib/a.py", (1, 1))
    assert unpack_archive(path, tmp_path / "cache") == first
    assert (first.folder / "lib/a.py").stat().st_mtime == 1
    path.write_bytes(zip_of({**FILES, "c.py": "z = 1\n"}))
    assert unpack_archive(path, tmp_path / "cache").folder != first.folder


def test_several_processes_may_unpack_the_same_archive(tmp_path):
    path = kind("a.zip", zip_of({f"{number}.py": "x = 1\n" for number in range(300)}), tmp_path)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(unpack_archive(path, tmp_path / "cache"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len(set(results)) == 1
    assert len(unpacked_files(results[0].folder)) == 300


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path):
    path = kind("a.zip", zip_of(FILES), tmp_path)
    with pytest.raises(CorpusError, match="give another folder"):
        unpack_archive(path, kind("file", b"", tmp_path))
