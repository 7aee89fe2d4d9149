"""The commands and options of the command line, as they stand in its parser."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Value = Literal["none", "file", "directory", "word", "other"]
_VALUES: dict[str, Value] = {"FILE": "file", "FILE|URL": "file", "DIR": "directory"}


@dataclass(frozen=True)
class Option:
    """``flags`` is empty for what is told by its place. ``value``: what it takes; ``words``: the
    only ones, where there are such."""

    flags: tuple[str, ...]
    name: str
    help: str
    value: Value
    words: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """``path``: as it is typed, without ``perdure``; empty for the command alone."""

    path: tuple[str, ...]
    help: str
    description: str
    codes: str
    usage: str
    options: tuple[Option, ...]
    children: tuple[str, ...]


def tree(parser: argparse.ArgumentParser) -> list[Command]:
    """Every command, each before those that belong to it."""
    return list(_walk(parser, (), ""))


def _walk(parser: argparse.ArgumentParser, path: tuple[str, ...], text: str) -> Iterator[Command]:
    options, children = [], {}
    helps: dict[str, str] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            children = dict(action.choices)
            helps = {each.dest: each.help or "" for each in action._choices_actions}
        elif action.help != argparse.SUPPRESS:
            options.append(_option(action))
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    yield Command(
        path,
        text,
        parser.description or "",
        parser.epilog or "",
        usage,
        tuple(options),
        tuple(children),
    )
    for name, child in children.items():
        yield from _walk(child, (*path, name), helps.get(name, ""))


def _option(action: argparse.Action) -> Option:
    metavar = action.metavar if isinstance(action.metavar, str) else None
    words = tuple(map(str, action.choices or ()))
    value: Value = "word" if words else _VALUES.get(metavar or "", "other")
    if action.nargs == 0 or (action.nargs == "?" and action.option_strings):
        # Nothing needs to follow.
        value = "none"
    name = metavar or (action.dest if not action.option_strings else action.dest.upper())
    return Option(tuple(action.option_strings), name, action.help or "", value, words)
