"""Read from a model's own files how texts become its vectors: pooling, similarity, prompts and lengths.

Two kinds of files say it: those of sentence-transformers (`modules.json` and its parts, read as its `encode_query` and
`encode_document` read them) and the settings that an export of this system carries. No weights are read.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softnce_ray import json_text
from softnce_ray.config import ArmConfig
from softnce_ray.config.encoders import PUBLISHED_MODELS
from softnce_ray.errors import UserError
from softnce_ray.exported import EXPORT_SETTINGS
from softnce_ray.named import located

MODULES = "modules.json"
"""The file that says of a folder that it holds a model of sentence-transformers."""

LONGEST = 8192
"""Tokens that a study's lengths can have."""

_SECONDS = 4.0
"""That the hub has to answer."""

_POOLINGS = {"mean": "mean", "cls": "first"}
_LEGACY_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ENCODER_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_PLAIN: dict[str, Any] = {
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
    "processing_kwargs": None,
    "query_expansion": None,
    "tokenizer_name_or_path": None,
}
"""Options of sentence-transformers' first module under which it is read as networks are read here."""

_HARMLESS = {"trust_remote_code", "torch_dtype", "dtype", "attn_implementation"}
"""Options of loading that change no vector by more than rounding."""

Read = Callable[[str], Any]
"""Name of a JSON file of a model in, its content out; None: there is no such file."""


class Unseen(UserError):
    """A model whose files are not on this machine and cannot be fetched."""


@dataclass(frozen=True)
class Described:
    """Settings that a model's files state.

    Attributes:
      origin: what kind of model it is, for people.
      kinds: the kinds of encoder that read it as its files say.
      settings: dotted settings of an arm with the values that its files give them.
      problems: (setting, what it is that no encoder here does); giving the setting in a study takes its place, but for
        `encoder.model`.
      unused: its prompts that neither queries nor codes get.
    """

    origin: str
    kinds: tuple[str, ...] = ("transformer",)
    settings: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[tuple[str, str], ...] = ()
    unused: tuple[str, ...] = ()


def described(model: str) -> Described | None:
    """Read the settings that the files of a named model state; None where they state none.

    Raises:
      Unseen: it is not on this machine, and the hub cannot be asked.
      UserError: its files cannot be read, or it comes with a package that is not installed.
    """
    if model in PUBLISHED_MODELS:
        return None
    place = located(model)
    here = Path(place).is_dir()
    read = _folder(Path(place)) if here else _hub(place)
    ours = None
    with nullcontext() if here else suppress(Unseen):  # of the hub's models one may have looked for modules.json alone
        ours = read(EXPORT_SETTINGS)
    if ours is not None:
        return _export(model, ours)
    modules = read(MODULES)
    if modules is None:
        return None
    try:
        return _sentence_model(modules, read)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"encoder.model: expected the files of a sentence-transformers model in {model!r}, got others than it "
            f"writes ({type(error).__name__}: {error}); save the model again"
        ) from error


def _export(model: str, content: Any) -> Described:
    try:
        config = ArmConfig.model_validate(content)
    except ValueError as error:
        raise UserError(
            f"encoder.model: expected the settings of an export in {model!r}, got {EXPORT_SETTINGS} that cannot be "
            "read; export the model again"
        ) from error
    encoder, inputs = config.encoder, config.encoder.inputs
    origin = f"an export of encoder {encoder.kind}"
    if encoder.kind == "bag":
        return Described(origin, problems=(("encoder.model", "has no network of transformers"),))
    graph = {} if inputs.flow_length is None else {"encoder.flow_length": inputs.flow_length}
    return Described(
        origin,
        kinds=(encoder.kind,) if graph else tuple(dict.fromkeys(("transformer", encoder.kind))),
        settings={
            "encoder.pooling": encoder.pooling,
            "similarity": config.similarity,
            "encoder.query_prompt": inputs.query_prompt,
            "encoder.code_prompt": inputs.code_prompt,
            "tokens.query_length": config.tokens.query_length,
            "tokens.code_length": config.tokens.code_length,
            **graph,
        },
    )


def _sentence_model(modules: Any, read: Read) -> Described:
    kinds = [str(each["type"]).rpartition(".")[2] for each in modules]
    about = read("config_sentence_transformers.json") or {}
    family = about.get("model_type", "SentenceTransformer")
    if family != "SentenceTransformer":
        return Described(
            f"a {family} of sentence-transformers", problems=(("encoder.model", "has no vector of a text"),)
        )
    origin = "a sentence-transformers model"
    if kinds[:1] != ["Transformer"]:
        first = kinds[0] if kinds else "nothing"
        return Described(
            origin, problems=(("encoder.model", f"begins with {first}, where a network of transformers would be"),)
        )
    if modules[0]["path"]:
        where = f"has its network in the folder {modules[0]['path']}, as old versions saved it"
        return Described(origin, problems=(("encoder.model", where),))
    encoder: dict[str, Any] = next((found for name in _ENCODER_FILES if (found := read(name))), {})
    given = {name: text for name, text in (about.get("prompts") or {}).items() if text}
    prompts = {"encoder.query_prompt": given.pop("query", ""), "encoder.code_prompt": given.pop("document", "")}
    settings, problems = _pooled(modules[1:], kinds[1:], about, prompts, read)
    lengths = _lengths(encoder, read)
    problems += [
        (key, f"says no length up to which texts are read, or one beyond {LONGEST:,} tokens")
        for key, length in lengths.items()
        if not 2 <= length <= LONGEST
    ]
    settings |= {key: length for key, length in lengths.items() if 2 <= length <= LONGEST}
    problems += [("encoder.model", text) for text in _beyond(encoder, read)]
    return Described(origin, settings=settings | prompts, problems=tuple(problems), unused=tuple(given))


def _pooled(
    modules: list[Any], kinds: list[str], about: Mapping[str, Any], prompts: Mapping[str, str], read: Read
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Settings and problems of what comes after the network."""
    parts = [(read(f"{each['path']}/config.json") or {}) if each["path"] else {} for each in modules]
    unit = bool(kinds) and kinds[-1] == "Normalize"
    settings: dict[str, Any] = {}
    problems: list[tuple[str, str]] = []
    if kinds not in (["Pooling"], ["Pooling", "Normalize"]) or (
        unit and parts[-1].get("module_input_name", "sentence_embedding") != "sentence_embedding"
    ):
        problems.append(("encoder.pooling", f"makes vectors by {', '.join(kinds) or 'its network alone'}"))
    elif (mode := _mode(parts[0])) in _POOLINGS:
        settings["encoder.pooling"] = _POOLINGS[mode]
    else:
        problems.append(("encoder.pooling", f"pools by {mode}"))
    if parts and parts[0].get("include_prompt", True) is False:
        problems += [(key, "leaves its prompt out of what it pools") for key, text in prompts.items() if text]
    if about.get("truncate_dim"):
        problems.append(("encoder.pooling", f"cuts vectors to their first {about['truncate_dim']} numbers"))
    name = about.get("similarity_fn_name") or "cosine"
    if name not in ("cosine", "dot"):
        problems.append(("similarity", f"compares vectors by their {name} distance"))
    else:
        settings["similarity"] = "dot" if name == "dot" and not unit else "cosine"
    return settings, problems


def _mode(pooling: Mapping[str, Any]) -> str:
    """Return the name of a Pooling's way, or one name for several ways that is none of them."""
    mode = pooling.get("pooling_mode")
    if mode is None:
        mode = [name for key, name in _LEGACY_POOLINGS.items() if pooling.get(key)] or ["mean"]
    return mode if isinstance(mode, str) else " and ".join(mode)


def _lengths(encoder: Mapping[str, Any], read: Read) -> dict[str, int]:
    """Tokens that are read of each side; 0 where there is no limit."""
    longest = encoder.get("max_seq_length")
    if longest is None:
        tokenizer, network = read("tokenizer_config.json") or {}, read("config.json") or {}
        possible = [tokenizer.get("model_max_length"), network.get("max_position_embeddings")]
        known = [int(each) for each in possible if isinstance(each, int | float) and each != -1]
        longest = min(known, default=0)
    query, code = encoder.get("query_length"), encoder.get("document_length")
    return {
        "tokens.query_length": int(longest if query is None else query),
        "tokens.code_length": int(longest if code is None else code),
    }


def _beyond(encoder: Mapping[str, Any], read: Read) -> Iterator[str]:
    """Yield what the first module of sentence-transformers does to texts or their network that none does here."""
    known = {"max_seq_length", "do_lower_case", "query_length", "document_length", "unpad_inputs", "modality_config"}
    for key, value in encoder.items():
        if key in known or (key in _PLAIN and (value == _PLAIN[key] or (_PLAIN[key] is None and not value))):
            continue
        if key.endswith(("_args", "_kwargs")) and (not value or set(value) <= _HARMLESS):
            continue
        yield f"has the option {key}: {json.dumps(value)}"
    text = {"method": "forward", "method_output_name": "last_hidden_state"}
    modalities = encoder.get("modality_config") or {"text": text}
    if "message" in modalities or modalities.get("text") != text:
        yield "reads texts as messages of a chat or by a method of its own"
    if encoder.get("do_lower_case") and not _lower_cases((read("tokenizer.json") or {}).get("normalizer")):
        yield "lower-cases texts before its tokenizer, which cased models need not (do_lower_case)"
    if (read("tokenizer_config.json") or {}).get("truncation_side") == "left":
        yield "cuts the beginnings of long texts (truncation_side: left)"


def _lower_cases(normalizer: Any) -> bool:
    if not isinstance(normalizer, dict):
        return False
    kind = normalizer.get("type")
    if kind == "Sequence":
        return any(map(_lower_cases, normalizer.get("normalizers", ())))
    return kind == "Lowercase" or (kind == "BertNormalizer" and normalizer.get("lowercase") is True)


def _folder(folder: Path) -> Read:
    def read(name: str) -> Any:
        path = folder / name
        return _parsed(path) if path.is_file() else None

    return read


def _hub(name: str) -> Read:
    """Files of a hub's model: of the cache, else of the hub, which has some seconds to say what there is."""
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

    @functools.cache
    def there() -> set[str]:
        return {each.rfilename for each in HfApi().model_info(name, timeout=_SECONDS).siblings or ()}

    def read(file: str) -> Any:
        try:
            found = try_to_load_from_cache(name, file)
            if found is None and file in there():
                found = hf_hub_download(name, file)
        except Exception as error:  # of the library's, of its client's and of the system's own kinds
            raise Unseen(f"{name!r} is not on this machine, and no hub gives its {file}") from error
        return _parsed(Path(found)) if isinstance(found, str) else None  # else it is known that there is none

    return read


def _parsed(path: Path) -> Any:
    try:
        return json_text.load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"encoder.model: expected JSON in {path}, got {error}; save or download the model again"
        ) from error
