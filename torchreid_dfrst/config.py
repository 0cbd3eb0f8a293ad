"""YAML files and command-line overrides, read strictly: a section is the keyword arguments of a callable."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from torchreid_dfrst.checks import check, expected_types, nearest

Section = dict[str, Any]
Config = dict[str, Section]


class Keywords(list[str]):
    """Valid keys of a section.

    Attributes:
        expected: key to annotation; a key that is not here takes anything.
        defaults: key to the value it has where nothing is said, as far as known.
    """

    def __init__(self, expected: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
        super().__init__(expected)
        self.expected, self.defaults = dict(expected), dict(defaults or {})


def load(path: str | Path | None, overrides: Sequence[str], sections: Mapping[str, Iterable[str]]) -> Config:
    """Read a configuration and refuse what nothing would read.

    Defaults are not filled in: they live in the signatures that the sections are passed to.

    Args:
        path: YAML file of ``section: {key: value}``; None starts from nothing.
        overrides: ``section.key value`` pairs, flat, as the command line gives them; values are read as YAML, so
            ``null``, ``true``, ``[60, 100]`` and ``1e-4`` mean what they say.
        sections: the known keys of each section; those from ``keywords`` also say what type of value each takes.

    Returns:
        ``config[section][key]``, with every known section present, those not mentioned empty.

    Raises:
        FileNotFoundError: there is no such file.
        KeyError: an unknown section or key; the message has the nearest valid name.
        ValueError: the file is not YAML or not of that form, an override lacks its value or its dot, or a value is not
            of the type that the signature asks for.
    """
    config = checked(read_yaml(path) if path is not None else {}, sections, where=str(path))
    if len(overrides) % 2:
        raise ValueError(f"overrides are `section.key value` pairs; {overrides[-1]!r} has no value")
    for dotted, text in zip(overrides[::2], overrides[1::2], strict=True):
        name, dot, key = dotted.partition(".")
        if not dot:
            where = "options stand before the first section.key" if dotted.startswith("-") else "write section.key"
            raise ValueError(f"override {dotted!r} has no section: {where}, e.g. optim.lr 1e-4")
        _set(config, sections, name, key, _value(text, dotted), where="the command line")
    return config


def checked(content: Mapping[Any, Any], sections: Mapping[str, Iterable[str]], where: str) -> Config:
    """What a file holds as a configuration: ``content`` with every known section, as ``load`` gives it.

    Raises:
        KeyError, ValueError: as ``load`` does; the message starts with ``where``.
    """
    config: Config = {name: {} for name in sections}
    for name, section in content.items():
        if not isinstance(section, Mapping):
            raise ValueError(f"{where}: section {name!r} is {section!r}, expected keys and values below it")
        for key, value in section.items():
            _set(config, sections, str(name), str(key), value, where=where)
    return config


def keywords(*callables: Callable[..., Any], leave_out: Iterable[str] = (), **types: Any) -> Keywords:
    """Names of the parameters that ``callables`` take by keyword and that have a default: a section's valid keys.

    Args:
        callables: what the section is passed to; of two with the same parameter the first counts.
        leave_out: parameters that are not to be set.
        types: annotations for parameters whose own signature says nothing, or too little.
    """
    expected: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for function in callables:
        annotations = expected_types(function)
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.default is not parameter.empty and name not in (*expected, *leave_out):
                expected[name] = types.get(name, annotations[name])
                defaults[name] = parameter.default
    return Keywords(expected, defaults)


def listing(sections: Mapping[str, Iterable[str]]) -> str:
    """Sections and their keys for ``--help``."""
    lines = ["sections and their keys, in the YAML file and as section.key value:"]
    for name, keys in sections.items():
        lines += textwrap.wrap(f"{name}: {', '.join(keys)}", 100, initial_indent="  ", subsequent_indent="      ")
    return "\n".join(lines)


def dump(config: Config) -> str:
    """The configuration as YAML text; sections without a key are left out."""
    return yaml.safe_dump({name: section for name, section in config.items() if section}, sort_keys=False)


def read_yaml(path: str | Path) -> dict[Any, Any]:
    """Content of a YAML file of keys and values.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML or holds something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no configuration file at {path}")
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if content is not None and not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, expected sections with keys and values")
    return content or {}


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``1e-4`` as a string; this reads every float that Python does."""


_Loader.yaml_implicit_resolvers = {
    first: [entry for entry in entries if entry[0] != "tag:yaml.org,2002:float"]
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf)$|^\.(nan|NaN)$"),
    list("-+0123456789."),
)


def _value(text: str, dotted: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"the value {text!r} of {dotted} is not YAML: {error}") from error


def _set(config: Config, sections: Mapping[str, Iterable[str]], name: str, key: str, value: Any, where: str) -> None:
    if name not in sections:
        raise KeyError(f"{where}: unknown section {name!r}{nearest(name, sections)}")
    if key not in sections[name]:
        raise KeyError(f"{where}: unknown key {key!r} in section {name!r}{nearest(key, sections[name])}")
    keys = sections[name]
    if isinstance(keys, Keywords):
        check(f"{where}: {name}.{key}", value, keys.expected[key])
    config[name][key] = value
