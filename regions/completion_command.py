"""``perdure completion``: what a shell needs to complete commands, options and their values."""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

from perdure.regions.command_tree import Command, Option, tree

SHELLS = ("bash", "zsh", "fish")
_CODES = "Exit codes: 0 printed, 2 wrong arguments."
_ABOUT = (
    'Print what a shell needs to complete commands. bash: eval "$(perdure completion bash)" in'
    " ~/.bashrc; zsh: perdure completion zsh > a file _perdure in a directory of $fpath; fish:"
    " perdure completion fish > ~/.config/fish/completions/perdure.fish"
)


def add_completion(commands: Any, whole: Callable[[], argparse.ArgumentParser]) -> None:
    """Add the command to the parser's subcommands. ``whole`` makes the parser of all commands."""
    text = "print what a shell needs to complete commands"
    parser = commands.add_parser("completion", help=text, description=_ABOUT, epilog=_CODES)
    parser.add_argument("shell", choices=SHELLS, help="which shell")
    parser.set_defaults(run=lambda options: _completion(options, whole))


def _completion(options: argparse.Namespace, whole: Callable[[], argparse.ArgumentParser]) -> int:
    scripts = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    print("\n".join(scripts[options.shell](tree(whole()))))
    return 0


def _quoted(text: str) -> str:
    """A word of any of the shells: in single quotes, without any inside."""
    return "'" + text.replace("\\", "").replace("'", "\u2019").replace("\n", " ") + "'"


def _paths(commands: list[Command]) -> str:
    """The pattern of a ``case`` that all the commands' paths match."""
    return "|".join(_quoted(" ".join(one.path)) for one in commands if one.path)


def _words(command: Command) -> str:
    """What can come next, but for values."""
    flags = [flag for option in command.options for flag in option.flags]
    placed = [word for option in command.options if not option.flags for word in option.words]
    return " ".join([*command.children, *placed, *flags])


def _takes_file(command: Command) -> bool:
    """Whether a file is told by its place, without a flag."""
    return any(not option.flags and option.value == "file" for option in command.options)


def _with_values(commands: list[Command]) -> Iterator[tuple[Command, Option, str]]:
    """Every flag that takes a value."""
    for command in commands:
        for option in command.options:
            if option.value != "none":
                yield from ((command, option, flag) for flag in option.flags)


_BASH_VALUES = {
    "file": 'compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur"))',
    "directory": 'compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$cur"))',
    "other": "COMPREPLY=()",
}


def _bash(commands: list[Command]) -> Iterator[str]:
    yield "# perdure: completion for bash"
    yield "_perdure() {"
    yield "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}"
    yield "    local at='' next i IFS=$'\\n'"
    yield "    for ((i = 1; i < COMP_CWORD; i++)); do"
    yield '        next="${at:+$at }${COMP_WORDS[i]}"'
    yield '        case "$next" in'
    yield f"            {_paths(commands)}) at=$next ;;"
    yield "        esac"
    yield "    done"
    yield "    COMPREPLY=()"
    # --data=x is three words here.
    yield "    [[ $prev == = ]] && prev=${COMP_WORDS[COMP_CWORD-2]}"
    yield "    [[ $cur == = ]] && cur=''"
    yield '    case "$at $prev" in'
    for command, option, flag in _with_values(commands):
        done = _BASH_VALUES.get(option.value) or _bash_words(" ".join(option.words))
        yield f"        {_quoted(' '.join([' '.join(command.path), flag]))}) {done}; return ;;"
    yield "    esac"
    yield '    case "$at" in'
    for command in commands:
        done = _bash_words(_words(command))
        if _takes_file(command):
            done = f"if [[ $cur == -* ]]; then {done}; else {_BASH_VALUES['file']}; fi"
        yield f"        {_quoted(' '.join(command.path))}) {done} ;;"
    yield "    esac"
    yield "}"
    yield "complete -F _perdure perdure"


def _bash_words(words: str) -> str:
    # The words are parted by new lines, which is what IFS is set to.
    listed = "\\n".join(words.split())
    return f"COMPREPLY=($(compgen -W $'{listed}' -- \"$cur\"))"


_ZSH_VALUES = {"file": "_files", "directory": "_files -/", "other": "_message value"}


def _zsh(commands: list[Command]) -> Iterator[str]:
    helps = {one.path: one.help for one in commands}
    yield "#compdef perdure"
    yield "# perdure: completion for zsh"
    yield "_perdure() {"
    yield "    local at='' next i"
    yield "    local -a each"
    yield "    for ((i = 2; i < CURRENT; i++)); do"
    yield '        next="${at:+$at }${words[i]}"'
    yield '        case "$next" in'
    yield f"            {_paths(commands)}) at=$next ;;"
    yield "        esac"
    yield "    done"
    yield "    local prev=${words[CURRENT-1]}"
    yield "    if [[ ${words[CURRENT]} == --*=* ]]; then"
    yield "        prev=${words[CURRENT]%%=*}"
    yield "        compset -P '*='"
    yield "    fi"
    yield '    case "$at $prev" in'
    for command, option, flag in _with_values(commands):
        done = _ZSH_VALUES.get(option.value) or f"compadd {' '.join(map(_quoted, option.words))}"
        yield f"        {_quoted(' '.join([' '.join(command.path), flag]))}) {done}; return ;;"
    yield "    esac"
    yield '    case "$at" in'
    for command in commands:
        told = [f"{name}:{helps[(*command.path, name)]}" for name in command.children]
        for option in command.options:
            told += [f"{flag}:{option.help}" for flag in option.flags]
            told += [] if option.flags else [f"{word}:{option.help}" for word in option.words]
        yield f"        {_quoted(' '.join(command.path))}) each=({' '.join(map(_quoted, told))}) ;;"
    yield "    esac"
    files = [command for command in commands if _takes_file(command)]
    # What is told by its place comes first, as long as no flag is begun.
    yield f'    case "$at" in {_paths(files)}) [[ $PREFIX == -* ]] || {{ _files; return }} ;; esac'
    yield "    _describe perdure each"
    yield "}"
    # From a directory of $fpath it is the function itself; sourced, it makes itself known.
    yield 'if [ "$funcstack[1]" = "_perdure" ]; then'
    yield '    _perdure "$@"'
    yield "else"
    yield "    compdef _perdure perdure"
    yield "fi"


_FISH_VALUES = {
    "none": "",
    "file": " -r -F",
    "directory": " -x -a '(__fish_complete_directories)'",
    "other": " -x",
}


def _fish(commands: list[Command]) -> Iterator[str]:
    yield "# perdure: completion for fish"
    yield "function __perdure_at"
    yield "    set -l at ''"
    yield "    for word in (commandline -opc)[2..-1]"
    yield '        set -l next (string trim -- "$at $word")'
    yield f'        if contains -- "$next" {_paths(commands).replace("|", " ")}'
    yield "            set at $next"
    yield "        end"
    yield "    end"
    yield '    test "$at" = "$argv[1]"'
    yield "end"
    yield "complete -c perdure -f"
    helps = {one.path: one.help for one in commands}
    for command in commands:
        when = f'complete -c perdure -n "__perdure_at {_quoted(" ".join(command.path))}"'
        for name in command.children:
            yield f"{when} -a {name} -d {_quoted(helps[(*command.path, name)])}"
        for option in command.options:
            yield from _fish_option(when, option)


def _fish_option(when: str, option: Option) -> Iterator[str]:
    words = " ".join(option.words)
    about = f" -d {_quoted(option.help)}" if option.help else ""
    if not option.flags:
        if words:
            yield f"{when} -a {_quoted(words)}{about}"
        elif option.value == "file":
            yield f"{when} -F"
        return
    names = "".join(
        f" -l {flag[2:]}" if flag.startswith("--") else f" -s {flag[1:]}" for flag in option.flags
    )
    takes = _FISH_VALUES.get(option.value, f" -x -a {_quoted(words)}")
    yield f"{when}{names}{takes}{about}"
