"""Studies that the store keeps: what resume and extend start from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from softnce_ray.store import Store, StoreError
from softnce_ray.study.problems import StudyError
from softnce_ray.study.saved import extended, save_study, saved_study


def test_a_study_comes_back_as_it_was_from_any_directory(tiny_study, tmp_path, monkeypatch) -> None:
    study = tiny_study()
    monkeypatch.chdir(Path(study.corpus).parent)
    study = study.model_copy(update={"corpus": Path(study.corpus).name})
    store = Store.at(tmp_path / "store")
    save_study(store, study)
    monkeypatch.chdir(tmp_path)
    saved = saved_study(store, "tiny")
    assert Path(saved.study.corpus).is_absolute()
    assert saved.study.model_copy(update={"corpus": study.corpus}) == study
    assert saved.directory.samefile(Path(saved.study.corpus).parent)
    assert [path.name for path in (tmp_path / "store" / "studies").iterdir()] == ["tiny.yaml"]


def test_a_study_that_is_launched_again_takes_the_place_of_what_it_was(tiny_study, tmp_path) -> None:
    store = Store.at(tmp_path)
    save_study(store, tiny_study())
    save_study(store, tiny_study(seeds=[7]))
    assert saved_study(store, "tiny").study.seeds == (7,)


@pytest.mark.parametrize("name", ["other", "../tiny", "/etc/passwd", "", "tiny.yaml", "a\0b", "x" * 300])
def test_a_name_that_no_study_has_is_refused_with_those_that_there_are(tiny_study, tmp_path, name: str) -> None:
    store = Store.at(tmp_path)
    save_study(store, tiny_study())
    with pytest.raises(StoreError, match=r"expected a study that was launched with .*; there: tiny$"):
        saved_study(store, name)


def test_a_store_without_studies_says_so(tmp_path) -> None:
    with pytest.raises(StoreError, match="there: none yet"):
        saved_study(Store.at(tmp_path / "nowhere"), "tiny")


def test_a_study_grows_and_keeps_what_it_has(tiny_study, two_languages) -> None:
    study = tiny_study(
        corpus=str(two_languages), search={"trials": 3, "seed": 9, "space": {"temperature": {"low": 0.1, "high": 1}}}
    )
    more = extended(study, seeds=[2, 5, 5], languages=["ruby", "python"], trials=4)
    assert more.seeds == (1, 2, 5)
    assert more.language_names == ("python", "ruby")
    assert more.search is not None
    assert more.search.trials == 4
    same = {"seeds", "languages", "search"}
    assert more.model_dump(exclude=same) == study.model_dump(exclude=same)
    assert extended(study) == study


def test_what_cannot_be_added_is_told(tiny_study) -> None:
    with pytest.raises(
        StudyError, match=r"search.trials: expected none .* without a search, got 4: add search to its file"
    ):
        extended(tiny_study(), trials=4)
    searched = tiny_study(search={"trials": 3, "seed": 9, "space": {"temperature": {"low": 0.1, "high": 1}}})
    with pytest.raises(StudyError, match=r"expected at least the 3 .*, got 2: count those too, --trials 5 adds 2"):
        extended(searched, trials=2)
    with pytest.raises(StudyError, match="9"):
        extended(searched, seeds=[9])
    precise = tiny_study(seeds={"at_least": 2, "at_most": 6, "half_width": 0.01})
    with pytest.raises(
        StudyError,
        match=r"seeds: expected none for a study that adds them itself until the half-width is 0.01, got 7, 8: raise "
        r"at_most \(6\) or lower half_width in its file and launch that",
    ):
        extended(precise, seeds=[7, 8])
    assert extended(precise).seeds == precise.seeds
    with pytest.raises(StudyError, match="cobol"):
        extended(searched, languages=["cobol"])


def test_a_saved_study_that_changed_is_refused_and_one_of_an_earlier_version_is_read(tiny_study, tmp_path) -> None:
    store = Store.at(tmp_path / "store")
    save_study(store, tiny_study())
    path = store.root / "studies" / "tiny.yaml"
    written = path.read_text()
    for wrong in (written.replace("epochs: 2", "epochs: 3"), written[: len(written) // 2], written + "# more\n"):
        path.write_text(wrong)
        with pytest.raises(StoreError, match=r"expected the study as it was launched in .*tiny.yaml, got one that was"):
            saved_study(store, "tiny")
    lines = written.splitlines(keepends=True)
    path.write_text("".join([lines[0], *lines[2:]]))
    earlier = saved_study(store, "tiny")
    path.write_text(written)
    assert saved_study(store, "tiny") == earlier
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StoreError, match=r"got a named pipe is in the place of a file: launch its study file again"):
        saved_study(store, "tiny")
