"""The manual of the command line: what people wrote, and what is made from the parser."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from perdure.regions.command_tree import Command, Option, tree
from perdure.regions.main import SLOW, _parser
from perdure.regions.settings import Settings, flag_of, variable_of

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "operating" / "command-line.md"
_MADE = re.compile(r"(<!-- (\w+): made by `make commands` -->\n).*?(<!-- end -->)", re.DOTALL)


def commands() -> list[Command]:
    """Every command of the command line."""
    return tree(_parser(SLOW))


def written(text: str) -> str:
    """The manual, with what is made in its places."""
    parts = {"settings": settings, "commands": lambda: "\n".join(described(commands()))}
    return _MADE.sub(lambda found: f"{found[1]}{parts[found[2]]()}\n{found[3]}", text)


def settings() -> str:
    """All settings of a region."""
    lines = ["| key of the file | flag | variable | default | |", "|---|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "required" if field.is_required() else _default(field.get_default())
        names = f"`{name}` | `{flag_of(name)}` | `{variable_of(name)}`"
        lines.append(f"| {names} | {default} | {_cell(field.description or '')} |")
    return "\n".join(lines)


def _default(value: Any) -> str:
    return "" if value is None or value == () else f"`{json.dumps(value)}`"


def described(every: list[Command]) -> Iterator[str]:
    """Each command with its exit codes and options."""
    for command in every:
        if not command.path:
            continue
        yield f"### perdure {' '.join(command.path)}"
        yield ""
        yield f"{_sentence(command.description)}"
        yield ""
        if command.codes and not command.children:
            yield command.codes
            yield ""
        if command.children:
            kinds = (f"`perdure {' '.join((*command.path, child))}`" for child in command.children)
            yield f"Commands: {', '.join(kinds)}."
            yield ""
        options = [option for option in command.options if "--help" not in option.flags]
        if "--config" in {flag for option in options for flag in option.flags} and _is_of_settings(
            options
        ):
            yield "Its options are `--config FILE`, the flags of all [settings](#settings)" + (
                " and `--json`." if _has(options, "--json") else "."
            )
            yield ""
        elif options:
            yield "| | |"
            yield "|---|---|"
            yield from (f"| {_named(option)} | {_cell(option.help)} |" for option in options)
            yield ""


def _is_of_settings(options: list[Option]) -> bool:
    return _has(options, "--peer-port")


def _has(options: list[Option], flag: str) -> bool:
    return any(flag in option.flags for option in options)


def _named(option: Option) -> str:
    value = "\\|".join(option.words) if option.words else option.name.replace("|", "\\|")
    if not option.flags:
        return f"`{value}`"
    names = ", ".join(option.flags)
    return f"`{names}`" if option.value == "none" else f"`{names} {value}`"


def _sentence(text: str) -> str:
    told = text[:1].upper() + text[1:]
    return told if told.endswith((".", "?")) else f"{told}."


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")
