"""YAML files and command-line overrides, read strictly: a section is the keyword arguments of a callable."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from torchreid_dfrst.checks import check, expected_types, in_words
from torchreid_dfrst.files import DAMAGED, require_file
from torchreid_dfrst.messages import nearest, short

Section = dict[str, Any]
Config = dict[str, Section]


class Keywords(list[str]):
    """Valid keys of a section: their annotations, their defaults as far as known, and whose docstrings explain them."""

    def __init__(
        self,
        expected: Mapping[str, Any],
        defaults: Mapping[str, Any] | None = None,
        readers: Iterable[Callable[..., Any]] = (),
    ) -> None:
        super().__init__(expected)
        self.expected, self.defaults, self.readers = dict(expected), dict(defaults or {}), tuple(readers)


Sections = Mapping[str, Keywords]


def load(path: str | Path | None, overrides: Sequence[str], sections: Sections) -> Config:
    """Read a configuration and refuse what nothing would read; defaults are not filled in.

    Args:
        path: YAML file of ``section: {key: value}``, or the name of a shipped one; None starts from nothing.
        overrides: see ``override``.
        sections: the known keys of each section, all of which the configuration then has.

    Raises:
        FileNotFoundError: there is no such file.
        KeyError: an unknown section or key; the message has the nearest valid name.
        ValueError: the file or an override is not of that form, or a value is not of the type that its reader takes.
    """
    return override(checked(read_yaml(path) if path is not None else {}, sections, str(path)), overrides, sections)


def override(config: Config, words: Sequence[str], sections: Sections) -> Config:
    """Set keys of a configuration, which is returned, by the words of a command line; raises as ``load`` does.

    The words are ``section.key value`` or ``section.key=value``; ``section.key.name`` is one entry of a key that holds
    names and values. Values are read as YAML: ``null``, ``true``, ``[60, 100]`` and ``1e-4`` mean what they say.
    """
    for dotted, given in pairs(words).items():
        name, _, key = dotted.partition(".")
        value = _parse_value(given, dotted)
        key, dot, entry = key.partition(".")
        if dot:
            before = config.get(name, {}).get(key)
            value = {**(before if isinstance(before, Mapping) else {}), entry: value}
        _set_key(config, sections, name, key, value, where="the command line")
    return config


def pairs(words: Sequence[str]) -> dict[str, str]:
    """The words of a command line as ``section.key`` and the text of its value; a ``ValueError`` if they are not."""
    found: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        dotted, equals, text = word.partition("=")
        if "." not in dotted:
            raise ValueError(f"override {word!r} has no section: write section.key, e.g. optim.lr 1e-4")
        given = text if equals else next(rest, None)
        if given is None:
            raise ValueError(f"overrides are `section.key value` pairs; {word!r} has no value")
        if not given.strip():
            raise ValueError(f"{dotted} is followed by nothing: give a value, or null for none")
        if dotted in found:
            raise ValueError(f"{dotted} is given twice, {found[dotted]} and {given}: leave one out")
        found[dotted] = given
    return found


def checked(content: Mapping[Any, Any], sections: Sections, where: str) -> Config:
    """``content`` of a file as ``load`` gives it, with every known section; errors start with ``where``."""
    config: Config = {name: {} for name in sections}
    for name, section in content.items():
        if not isinstance(section, Mapping):
            raise ValueError(f"{where}: section {name!r} is {section!r}, expected keys and values below it")
        for key, value in section.items():
            _set_key(config, sections, str(name), str(key), value, where=where)
    return config


def keywords(*callables: Callable[..., Any], leave_out: Iterable[str] = (), **types: Any) -> Keywords:
    """A section's valid keys: the parameters with a default of ``callables``, which the section is passed to.

    Of two with the same parameter the first counts. ``types`` are annotations where a signature says too little.
    """
    expected: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for function in callables:
        annotations = expected_types(function)
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.default is not parameter.empty and name not in (*expected, *leave_out):
                expected[name] = types.get(name, annotations[name])
                defaults[name] = parameter.default
    return Keywords(expected, defaults, callables)


def listing(sections: Sections) -> str:
    """Sections and their keys for ``--list-keys``, with the values they take and their defaults."""
    lines = ["section.key, as on the command line and in the YAML file; what it takes; [what it is otherwise]"]
    for name, known in sections.items():
        for key in known:
            words = [f"{name}.{key}", in_words(known.expected[key])]
            if key in known.defaults:
                words.append(f"[{shown(known.defaults[key])}]")
            lines.append("  " + "  ".join([f"{words[0]:34}", *filter(None, words[1:])]).rstrip())
    return "\n".join(lines)


def shown(value: Any) -> str:
    """A value as it is written in YAML, in one line."""
    plain = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=math.inf).removesuffix("...\n").strip()


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
    """Content of a YAML file of keys and values, or of a shipped one by its name without ending."""
    if not Path(path).is_file():
        names = shipped()
        require_file(
            names.get(str(path), path),
            f"no configuration file at {path}, and none is shipped by that name{nearest(str(path), names)}",
        )
        path = names[str(path)]
    content = _parse_yaml(Path(path).read_bytes(), str(path))
    if content is not None and not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, expected sections with keys and values")
    return content or {}


class _Loader(yaml.SafeLoader):
    """YAML of which every word counts once: no key twice, no aliases, names as text, numbers as JSON and Python do."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """One node of the document; no alias, no nesting without end."""
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not read, write it out", problem_mark=mark)
        if self.depth == DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"more than {DEEPEST} levels", problem_mark=mark)
        self.depth += 1
        mark = getattr(self.peek_event(), "start_mark", None)
        if str(getattr(self.peek_event(), "tag", None) or "").startswith("tag:yaml.org"):
            raise yaml.MarkedYAMLError(problem="a type such as !!int, leave it out", problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Names and values."""
        names: set[str] = set()
        for key, _ in node.value:
            if key.tag != TEXT:
                problem = "a name that is not text, write it in quotes"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            if key.value in names:
                raise yaml.MarkedYAMLError(problem=f"{key.value} stands there twice", problem_mark=key.start_mark)
            names.add(key.value)
        return super().construct_mapping(node, deep)


DEEPEST = 20
TEXT = "tag:yaml.org,2002:str"
# YAML 1.1 reads 012 as 10, 1:30 as 90 and 1e-4 as text
_NUMBERS = {
    "tag:yaml.org,2002:int": re.compile(r"^[-+]?(0|[1-9]\d*)$"),
    "tag:yaml.org,2002:float": re.compile(r"^[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][-+]?\d+)?$"),
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag not in _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _form in _NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, _form, list("-+0123456789."))


def _parse_yaml(text: str | bytes, what: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{what} is not YAML as it is read here{where}: {error.problem or error.context}") from error
    except (yaml.YAMLError, *DAMAGED) as error:
        why = f": {' '.join(str(error).split())}" if isinstance(error, yaml.YAMLError | ValueError) else ""
        raise ValueError(f"{what} is not YAML{short(why)}") from error


def _parse_value(text: str, dotted: str) -> Any:
    if text.startswith("%"):
        return text  # a format of times, which YAML refuses
    return _parse_yaml(text, f"the value {short(repr(text))} of {dotted}")


def _set_key(config: Config, sections: Sections, name: str, key: str, value: Any, where: str) -> None:
    if name not in sections:
        raise KeyError(f"{where}: unknown section {name!r}{nearest(name, sections)}")
    if key not in sections[name]:
        raise KeyError(f"{where}: unknown key {key!r} in section {name!r}{nearest(key, sections[name])}")
    check(f"{where}: {name}.{key}", value, sections[name].expected[key])
    config[name][key] = value
