"""YAML that users wrote, read within bounds: its values, with those of aliases counted wherever they stand, and its
depth."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.resolver import Resolver

from softnce_ray.encodings import is_utf16
from softnce_ray.files import open_file

_MOST_CHARACTERS = 4_000_000
_MOST_BYTES = 4 * _MOST_CHARACTERS
_MOST_VALUES = 500_000
_DEEPEST = 50
_LONGEST_NUMBER = 500

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


_UNKNOWN_TAG = re.compile("could not determine a constructor for the tag '(.*)'")


class YamlError(ValueError):
    """Text that is no YAML, or more than is read.

    Attributes:
      line: where, from 1; None: nowhere in particular.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def text_at(path: Path) -> str:
    """Return the text of a file.

    Raises:
      YamlError: it is too long, or not written in UTF-8.
      OSError: it cannot be read.
    """
    piped = str(path).startswith(("/dev/fd/", "/dev/stdin"))  # by a shell
    with path.open("rb") if piped else open_file(path) as file:
        data = file.read(4 * _MOST_CHARACTERS + 1)
    if len(data) > 4 * _MOST_CHARACTERS:
        raise YamlError(
            f"expected at most {4 * _MOST_CHARACTERS / 1e6:.0f} MB of text, got more: is it the right file?"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        got = "UTF-16" if is_utf16(data) else f"a byte {data[error.start]:#04x}"
        line = data.count(b"\n", 0, error.start) + 1
        raise YamlError(f"expected text in UTF-8, got {got}: save it as UTF-8", line) from None


def compose(text: str) -> yaml.Node | None:
    """Return the nodes of a text; None of one without any.

    A node that aliases name is one object in several places. All walks over nodes, and over the values made of them,
    end soon: there are at most 500,000 with every alias followed, and 50 below one another.

    Raises:
      YamlError: it is no YAML, is larger or deeper, or an alias stands in what it names.
    """
    if len(text) > _MOST_CHARACTERS:
        raise YamlError(f"expected at most {_MOST_CHARACTERS:,} characters, got {len(text):,}")
    try:
        return _Composer(text).get_single_node()
    except YamlError:
        raise
    except yaml.reader.ReaderError as error:
        line = text.encode(errors="replace")[: error.position].count(b"\n") + 1
        raise YamlError(f"not YAML: a control character, {error.character:#x}: remove it", line) from None
    except Exception as error:  # PyYAML's own, of many kinds
        raise _told(error) from None


def value_of(node: yaml.Node | None) -> Any:
    """Return what a node stands for; merges (`<<`) are then part of the mappings that have them.

    Raises:
      YamlError: it stands for nothing that is safe to make, such as a date that does not exist.
    """
    if node is None:
        return None
    try:
        return yaml.constructor.SafeConstructor().construct_document(node)
    except Exception as error:  # PyYAML's own, and of dates and numbers
        raise _told(error) from None


def load(text: str) -> Any:
    """Return the value of a text.

    Raises:
      YamlError: see `compose` and `value_of`.
    """
    return value_of(compose(text))


_Parser: Any = yaml.cyaml.CParser if yaml.__with_libyaml__ else yaml.SafeLoader  # type: ignore[attr-defined]
"""libyaml's parser takes a fifth of the time of PyYAML's own; its composer knows no bounds of depth."""


class _Composer(Composer, _Parser, Resolver):  # type: ignore[misc]
    """Counts what it composes."""

    def __init__(self, text: str) -> None:
        _Parser.__init__(self, text)
        Composer.__init__(self)
        Resolver.__init__(self)
        self._level = 0
        self._measures: dict[int, tuple[int, int]] = {}  # id of a node: values in it and levels, aliases followed

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        is_alias = self.check_event(yaml.AliasEvent)
        line = self.peek_event().start_mark.line + 1
        self._level += 1
        node = self._checked(None if self._level > _DEEPEST else super().compose_node(parent, index), line)
        self._level -= 1
        if is_alias:
            if id(node) not in self._measures:
                raise YamlError(
                    "expected aliases of what stands before them, got one within what it names: remove it", line
                )
            return node
        inner = [self._measures[id(each)] for each in _inner(node)]
        self._measures[id(node)] = 1 + sum(count for count, _ in inner), 1 + max((deep for _, deep in inner), default=0)
        values, levels = self._measures[id(node)]
        if max(values, len(self._measures)) > _MOST_VALUES:
            raise YamlError(
                f"expected at most {_MOST_VALUES:,} values, with those of aliases wherever they stand, got more: write "
                "fewer",
                line,
            )
        return self._checked(node if levels <= _DEEPEST else None, line)

    def _checked(self, node: yaml.Node | None, line: int) -> yaml.Node:
        if node is None:
            raise YamlError(
                f"expected values at most {_DEEPEST} levels deep, got deeper ones: write fewer levels", line
            )
        if isinstance(node, yaml.MappingNode) and not all(isinstance(key, yaml.ScalarNode) for key, _ in node.value):
            raise YamlError("expected words as keys, got a list or a mapping: write a word", line)
        if node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
            raise YamlError(
                f"expected numbers of at most {_LONGEST_NUMBER} characters, got one of {len(node.value):,}", line
            )
        return node


def _inner(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _told(error: Exception) -> YamlError:
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, yaml.constructor.ConstructorError) and (tag := _UNKNOWN_TAG.match(str(error.problem))):
        line = mark.line + 1 if mark else None
        return YamlError(f"expected values without tags, got {tag[1]}: remove it, or quote the text", line)
    if isinstance(error, yaml.YAMLError):
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        return YamlError(f"not YAML: {problem}", mark.line + 1 if mark else None)
    reason = " ".join(str(error).split()) or type(error).__name__
    return YamlError(f"not YAML that can be read: {reason}")
