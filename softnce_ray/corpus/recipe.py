"""Recipes: named lists of packages with documented sources."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softnce_ray.corpus.languages import LANGUAGES
from softnce_ray.corpus.pairs import CorpusError
from softnce_ray.yaml_text import YamlError, load, text_at

RECIPES = Path(__file__).parent / "recipes"

# What is handed to a client as an argument must not be read as an option of it, or as a path.
_REGISTRIES = {
    "debian": ("a name", r"[a-z0-9][a-z0-9+.-]+"),
    "npm": ("name@version", r"(?:@[a-z0-9~-][\w.~-]*/)?[A-Za-z0-9~-][\w.~-]*@\d[\w.+-]*"),
    "pypi": ("name==version", r"[A-Za-z0-9][\w.-]*==\d[\w.!+-]*"),
}
"""What a package is called in each registry: in words, and as a pattern."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package as its client is asked for it: `spec` is a Debian package's name, an npm package's
    `name@version` or a PyPI project's `name==version`. `licence` is empty where it is not known."""

    registry: str
    spec: str
    licence: str

    @property
    def name(self) -> str:
        """The name without the version."""
        return re.sub(r"(?<=.)(?:@|==).*", "", self.spec)


@dataclass(frozen=True)
class Recipe:
    """Packages for each language, and a sentence about them."""

    name: str
    about: str
    languages: Mapping[str, tuple[Package, ...]]


def recipe_names() -> list[str]:
    """The recipes that come with this package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name: str | Path) -> Recipe:
    """The recipe with this name, or of this YAML file.

    Raises:
        CorpusError: there is no such recipe, or it is not written as one: every problem on a line.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPES / f"{name}.yaml"
        if path.parent != RECIPES or not path.is_file():
            known = ", ".join(recipe_names())
            raise CorpusError(f"expected a recipe of {known}, or a YAML file, got {str(name)!r}: correct the name")
    try:
        written = load(text_at(path))
    except (OSError, YamlError) as error:
        raise CorpusError(f"{path}: expected a recipe in YAML: {error}; correct the file") from error
    problems: list[str] = []
    languages = _languages(written, problems)
    if problems:
        raise CorpusError("\n".join(f"{path}: {problem}" for problem in problems))
    return Recipe(path.stem, str(written.get("about", "")), languages)


def _languages(written: Any, problems: list[str]) -> dict[str, tuple[Package, ...]]:
    if not isinstance(written, dict) or not isinstance(written.get("languages"), dict) or not written["languages"]:
        problems.append("expected 'languages' with a registry's packages for each, got none: see six_languages.yaml")
        return {}
    if unknown := sorted(set(map(str, written)) - {"about", "languages"}):
        problems.append(f"expected the keys about and languages, got {', '.join(unknown)}: remove these")
    result: dict[str, tuple[Package, ...]] = {}
    for language, registries in written["languages"].items():
        if language not in LANGUAGES:
            problems.append(f"expected languages of {', '.join(LANGUAGES)}, got {language!r}: correct the name")
            continue
        if not isinstance(registries, dict) or not registries:
            problems.append(
                f"{language}: expected registries of {', '.join(_REGISTRIES)}, got {type(registries).__name__}"
            )
            continue
        packages: list[Package] = []
        for registry, specs in registries.items():
            if registry not in _REGISTRIES or not isinstance(specs, dict):
                expected = f"expected {' or '.join(_REGISTRIES)} with a mapping of packages to licences"
                problems.append(f"{language}: {expected}, got {registry!r}: correct it")
                continue
            for spec, licence in specs.items():
                package = Package(registry, str(spec), str(licence or ""))
                if not _is_spec(package):
                    problems.append(
                        f"{language}: expected {_REGISTRIES[registry][0]} in {registry}, got {spec!r}: correct it"
                    )
                packages.append(package)
        result[language] = tuple(packages)
    return result


def _is_spec(package: Package) -> bool:
    return not package.spec.startswith("-") and bool(re.fullmatch(_REGISTRIES[package.registry][1], package.spec))
