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
    """Valid keys of a section; ``expected`` has their annotations, ``defaults`` their defaults as far as known."""

    def __init__(self, expected: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
        super().__init__(expected)
        self.expected, self.defaults = dict(expected), dict(defaults or {})


def load(path: str | Path | None, overrides: Sequence[str], sections: Mapping[str, Iterable[str]]) -> Config:
    """Read a configuration and refuse what nothing would read.

    Defaults are not filled in: they live in the signatures that the sections are passed to.

    Args:
        path: YAML file of ``section: {key: value}``, or the name of a shipped one; None starts from nothing.
        overrides: see ``override``.
        sections: the known keys of each section; those from ``keywords`` also say what type of value each takes.

    Returns:
        ``config[section][key]``, with every known section present, those not mentioned empty.

    Raises:
        FileNotFoundError: there is no such file.
        KeyError: an unknown section or key; the message has the nearest valid name.
        ValueError: the file is not YAML or not of that form, an override lacks its value or its dot, or a value is not
            of the type that the signature asks for.
    """
    return override(checked(read_yaml(path) if path is not None else {}, sections, str(path)), overrides, sections)


def override(config: Config, words: Sequence[str], sections: Mapping[str, Iterable[str]]) -> Config:
    """Set keys of a configuration, which is returned, by the words of a command line; raises as ``load`` does.

    The words are ``section.key value`` or ``section.key=value``; ``section.key.name`` is one entry of a key that holds
    names and values. Values are read as YAML: ``null``, ``true``, ``[60, 100]`` and ``1e-4`` mean what they say.
    """
    rest = iter(words)
    for word in rest:
        dotted, equals, text = word.partition("=")
        name, dot, key = dotted.partition(".")
        if not dot:
            raise ValueError(f"override {word!r} has no section: write section.key, e.g. optim.lr 1e-4")
        given = text if equals else next(rest, None)
        if given is None:
            raise ValueError(f"overrides are `section.key value` pairs; {word!r} has no value")
        value = _value(given, dotted)
        key, dot, entry = key.partition(".")
        if dot:
            before = config.get(name, {}).get(key)
            value = {**(before if isinstance(before, Mapping) else {}), entry: value}
        _set(config, sections, name, key, value, where="the command line")
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
    """Sections and their keys for ``--list-keys``."""
    lines = ["sections and their keys, in the YAML file and as section.key value:"]
    for name, keys in sections.items():
        lines += textwrap.wrap(f"{name}: {', '.join(keys)}", 100, initial_indent="  ", subsequent_indent="      ")
    return "\n".join(lines)


def dump(config: Config) -> str:
    """The configuration as YAML text; sections without a key are left out."""
    return yaml.safe_dump({name: section for name, section in config.items() if section}, sort_keys=False)


def shipped() -> dict[str, Path]:
    """The configurations that come with the package, by name."""
    here = Path(__file__).parent
    # beside the package in the repository, inside it once installed
    folder = next(path for path in (here / "configs", here.parent / "configs") if path.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_yaml(path: str | Path) -> dict[Any, Any]:
    """Content of a YAML file of keys and values.

    Args:
        path: of the file, or the name of a shipped one without its ending.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML or holds something else.
    """
    if not Path(path).is_file():
        if str(path) not in shipped():
            raise FileNotFoundError(
                f"no configuration file at {path}, and none shipped by that name: {', '.join(shipped())}"
            )
        path = shipped()[str(path)]
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if content is not None and not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, expected sections with keys and values")
    return content or {}


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``1e-4`` as text; this reads every float that Python does."""


_FLOAT = re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _value(text: str, dotted: str) -> Any:
    if text.startswith("%"):
        return text  # a format of times, which YAML refuses
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
