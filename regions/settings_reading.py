"""The settings of a region, put together: flags before the environment before the file; and all
that is wrong with them, each in the operator's words and with where it is from."""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from perdure.regions.config import Config
from perdure.regions.config_faults import faults
from perdure.regions.settings import (
    PREFIX,
    Settings,
    flag_of,
    from_environment,
    from_file,
    variable_of,
)
from perdure.regions.settings_config import SECRETS, made
from pydantic import ValidationError

# Variables of the same beginning that are no settings of a region.
CONFIG_FILE = "PERDURE_CONFIG"
_OTHER_VARIABLES = {CONFIG_FILE, "PERDURE_GRANT", "PERDURE_URL", "PERDURE_ARGS"}
_QUOTED_CHARS_MAX = 80
# Who somebody is, and their password, in a URL.
_USER = re.compile(r"://[^\s'\"]*@")
# What stands for a setting that is missing, while the others are looked at.
_STAND_INS: dict[str, Any] = {"region": "region", "data": Path()}


@dataclass(frozen=True)
class Fault:
    """Something that is wrong. ``at``: where it is said, as a reader finds it."""

    text: str
    at: str | None = None

    def __str__(self) -> str:
        return f"{self.text} ({self.at})" if self.at else self.text


@dataclass
class Loaded:
    """What was read. ``config`` is None where something is wrong; ``settings`` has what is not, and
    ``wrong`` what was said in the place of that."""

    settings: Settings
    origins: dict[str, str]
    faults: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)
    config: Config | None = None
    wrong: dict[str, Any] = field(default_factory=dict)


def load(flags: Mapping[str, Any], path: Path | None = None) -> Loaded:
    """The settings of these flags, the environment and the file (or that which the environment
    names). Raises nothing: what is wrong is listed, all of it."""
    if path is None and (named := os.environ.get(CONFIG_FILE)):
        path = Path(named)
    found: list[Fault] = []
    told, lines = _file(path, found)
    variables = from_environment()
    values = {**told, **variables, **flags}
    origins = {name: f"{path}, line {lines.get(name, '?')}" for name in told}
    origins |= {name: variable_of(name) for name in variables}
    origins |= {name: flag_of(name) for name in flags}
    settings, wrong = _settings(values, origins, found)
    loaded = Loaded(settings, origins, found, _strange_variables(os.environ))
    loaded.wrong = {name: values[name] for name in wrong if name in values}
    _convert(loaded, os.environ, wrong)
    if loaded.config is not None and path is not None:
        loaded.config = _following(loaded, loaded.config, path)
    return loaded


def _following(loaded: Loaded, config: Config, path: Path) -> Config:
    """Where the peers stand in the file of the settings, it is read again with them on SIGHUP."""
    is_there = loaded.origins.get("peers", "").startswith(f"{path}, line ")
    if not is_there or path.suffix != ".toml" or config.peers_file is not None:
        return config
    return replace(config, peers={}, peers_file=path)


# The file


def _file(path: Path | None, found: list[Fault]) -> tuple[dict[str, Any], dict[str, int]]:
    """What the file says, without what cannot stand there; and in which lines."""
    if path is None:
        return {}, {}
    try:
        # First, for the library takes a file that is not there for an empty one.
        text = path.read_text(encoding="utf-8")
        told = from_file(path)
    except OSError as error:
        found.append(Fault(f"cannot read {path}: {error.strerror}"))
    except UnicodeDecodeError:
        found.append(Fault(f"{path} is not UTF-8"))
    except tomllib.TOMLDecodeError as error:
        found.append(Fault(f"{path} is no TOML: {error}"))
    else:
        lines = _lines(text)
        for name in [name for name in told if name not in Settings.model_fields]:
            del told[name]
            at = f"{path}, line {lines.get(name, '?')}"
            found.append(Fault(_unknown(name), at))
        return told, lines
    return {}, {}


def _lines(text: str) -> dict[str, int]:
    """Where each key of the first level is set, or its table begins."""
    found: dict[str, int] = {}
    in_table = False
    for number, line in enumerate(text.splitlines(), 1):
        if table := re.match(r"\s*\[+\s*\"?([\w-]+)", line):
            in_table = True
            found.setdefault(table[1], number)
        elif not in_table and (key := re.match(r"\s*\"?([\w-]+)\"?\s*[.=]", line)):
            found.setdefault(key[1], number)
    return found


def _unknown(name: str) -> str:
    if name in SECRETS:
        return f"{name}: secrets do not stand here; name a file of its own with {name}_file"
    return f"{name!r} is no setting{_meant(name.replace('-', '_'), list(Settings.model_fields))}"


def _meant(name: str, known: list[str]) -> str:
    (*close,) = difflib.get_close_matches(name, known, 1, 0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _strange_variables(environment: Mapping[str, str]) -> list[Fault]:
    """Variables that look like settings and are none: they may be other programs'."""
    known = {variable_of(name) for name in Settings.model_fields} | _OTHER_VARIABLES
    known |= {*SECRETS.values()}
    return [
        Fault(f"{name} is set, and is no setting{_meant(name, sorted(known))}")
        for name in sorted(environment)
        if name.startswith(PREFIX) and name not in known
    ]


# Values


def _settings(
    values: Mapping[str, Any], origins: Mapping[str, str], found: list[Fault]
) -> tuple[Settings, set[str]]:
    """The settings, with defaults in the place of what is wrong; and the names of that."""
    try:
        return Settings(**values), set()
    except ValidationError as error:
        wrong: set[str] = set()
        for one in error.errors():
            name = str(one["loc"][0])
            if name not in wrong:
                wrong.add(name)
                found.append(_fault(name, one, values, origins))
    rest = {name: value for name, value in values.items() if name not in wrong}
    rest |= {name: value for name, value in _STAND_INS.items() if name in wrong}
    return Settings(**rest), wrong


def _fault(
    name: str, error: Mapping[str, Any], values: Mapping[str, Any], origins: Mapping[str, str]
) -> Fault:
    flag = flag_of(name)
    if error["type"] == "missing":
        text = f"{flag} is required: give it, or set {variable_of(name)}, or {name} in the file"
        return Fault(text)
    value = values[name]
    if isinstance(value, str) and value.startswith("tcp://") and name == "port":
        text = (
            f"{variable_of(name)}={value} is set by Kubernetes, for a service that is called"
            " perdure; set enableServiceLinks: false in the pod, or give --port"
        )
        return Fault(text)
    return Fault(f"{flag} {_quoted(value)} {_must(name, error)}", _origin(flag, origins.get(name)))


def _must(name: str, error: Mapping[str, Any]) -> str:
    """What a value must be, in words that are not the library's."""
    kind = error["type"]
    if kind in ("int_parsing", "int_type", "int_from_float", "int_parsing_size"):
        return "must be a whole number"
    if kind in ("greater_than_equal", "less_than_equal"):
        least, most = _bounds(name)
        return f"must be {least} or more" if most is None else f"must be {least} to {most}"
    if kind.startswith("bool"):
        return "must be true or false"
    if kind == "literal_error":
        return f"must be {error['ctx']['expected'].replace(chr(39), '')}"
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind.startswith("tuple"):
        return "must be a list of texts"
    return "must be a text"


def _bounds(name: str) -> tuple[int | None, int | None]:
    limits = Settings.model_fields[name].metadata
    least = next((one.ge for one in limits if hasattr(one, "ge")), None)
    most = next((one.le for one in limits if hasattr(one, "le")), None)
    return least, None if most == 2**53 - 1 else most


def without_password(text: str) -> str:
    """URLs may hold what is nobody's business."""
    return _USER.sub("://…@", text)


def _quoted(value: Any) -> str:
    text = value if isinstance(value, str) and value.isprintable() and value else repr(value)
    text = without_password(text)
    return text if len(text) <= _QUOTED_CHARS_MAX else f"{text[:_QUOTED_CHARS_MAX]}…"


def _origin(flag: str, origin: str | None) -> str | None:
    """Where something is from, where the flag that a fault begins with does not say it."""
    return None if origin in (None, flag) else origin


# Together


def _convert(loaded: Loaded, environment: Mapping[str, str], wrong: set[str]) -> None:
    """Make the region's settings of them, and look whether they go together."""
    texts: list[str] = []
    config = made(loaded.settings, environment, texts)
    texts += faults(config)
    flags = {flag_of(name) for name in wrong}
    told = set()
    for text in map(partial(_as_setting, loaded.origins), texts):
        named = re.findall(r"--[a-z][a-z-]*", text)
        # What is said of a wrong value's default is not the operator's doing.
        if flags.isdisjoint(named[:1]) and text not in told:
            told.add(text)
            loaded.faults.append(Fault(text, _origins(loaded.origins, named)))
    if not loaded.faults:
        loaded.config = config


def _as_setting(origins: Mapping[str, str], text: str) -> str:
    """What is said of a secret's file, by the name of the setting where another than the variable
    has named it: nobody finds a variable that they have not set."""
    for name, variable in SECRETS.items():
        setting = f"{name}_file"
        if origins.get(setting, variable_of(setting)) != variable_of(setting):
            text = text.replace(f"{variable}_FILE", flag_of(setting))
    return text


def _origins(origins: Mapping[str, str], flags: list[str]) -> str | None:
    found = []
    for name, origin in origins.items():
        flag = flag_of(name)
        if flag in flags and origin != flag:
            found.append(f"{flag} is from {origin}")
    return "; ".join(found) or None
