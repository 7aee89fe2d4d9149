"""``perdure config``: what is wrong with the settings of a region, all of it; and what they are."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perdure.regions.clock import SystemClock
from perdure.regions.config_checks import look
from perdure.regions.settings import Settings
from perdure.regions.settings_config import SECRETS
from perdure.regions.settings_flags import add_flags, given
from perdure.regions.settings_reading import Fault, Loaded, load, without_password

EXIT_WRONG = 2
_CODES_CHECK = (
    f"Exit codes: 0 a region would start with them (there may be warnings), {EXIT_WRONG} something"
    " is wrong, or wrong arguments."
)
_CODES_SHOW = f"Exit codes: 0 shown, {EXIT_WRONG} something is wrong, or wrong arguments."
_ABOUT = (
    "Settings are flags, variables of the environment (PERDURE_PORT for --port) and keys of a file"
    " (port = 7101); the flag counts before the variable, and that before the file."
)


def add_config(commands: Any) -> None:
    """Add the command to the parser's subcommands."""
    text = "check and show the settings of a region"
    config = commands.add_parser("config", help=text, description=_ABOUT, epilog=_CODES_CHECK)
    kinds = config.add_subparsers(title="commands", metavar="COMMAND", required=True)
    text = "tell all that is wrong with the settings, and where it is said"
    checking = kinds.add_parser("check", help=text, description=text, epilog=_CODES_CHECK)
    _add(checking, _check)
    text = "print the settings that count, and where each is from; secrets are not shown"
    showing = kinds.add_parser("show", help=text, description=text, epilog=_CODES_SHOW)
    _add(showing, _show)


def _add(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    add_flags(parser)
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(run=run)


def _check(options: argparse.Namespace) -> int:
    loaded = load(given(options), options.config)
    if loaded.config is not None:
        found = look(loaded.config, SystemClock().wall_ms())
        loaded.faults += map(Fault, found.faults)
        loaded.warnings += map(Fault, found.warnings)
    if options.json:
        told = {
            "ok": not loaded.faults,
            "faults": [vars(fault) for fault in loaded.faults],
            "warnings": [vars(fault) for fault in loaded.warnings],
        }
        print(json.dumps(told, ensure_ascii=False))
        return EXIT_WRONG if loaded.faults else 0
    for word, faults in (("wrong", loaded.faults), ("warning", loaded.warnings)):
        for fault in faults:
            print(f"{word}: {fault.text}")
            if fault.at:
                print(f"{'':{len(word)}}  {fault.at}")
    if loaded.config is None:
        print("files, certificates, ports and the disk were not looked at: mend these first")
    if loaded.faults:
        return EXIT_WRONG
    print(f"good: region {loaded.settings.region} would start with these settings")
    return 0


def _show(options: argparse.Namespace) -> int:
    loaded = load(given(options), options.config)
    shown = _effective(loaded)
    if options.json:
        print(json.dumps({"settings": shown}, ensure_ascii=False, default=str))
    else:
        width = max(map(len, shown))
        for name, one in shown.items():
            note = ": wrong, see below" if "wrong" in one else ""
            print(f"{name:<{width}} = {_toml(one['value']):<28} # {one['from']}{note}")
    for fault in loaded.faults:
        print(f"perdure: {fault}", file=sys.stderr)
    return EXIT_WRONG if loaded.faults else 0


def _effective(loaded: Loaded) -> dict[str, dict[str, Any]]:
    """Each setting, and where it is from, also of a value that cannot be taken; of a secret,
    whether there is one."""
    found: dict[str, dict[str, Any]] = {}
    for name, setting in Settings.model_fields.items():
        if name not in loaded.origins and setting.is_required():
            # What stands in its place is nobody's value.
            found[name] = {"value": None, "from": "required"}
            continue
        value = loaded.wrong.get(name, getattr(loaded.settings, name))
        value = str(value) if isinstance(value, Path) else value
        value = list(value) if isinstance(value, tuple) else value
        found[name] = {
            "value": _without_password(value),
            "from": loaded.origins.get(name, "default"),
        }
        if name in loaded.wrong:
            found[name]["wrong"] = True
    for name, variable in SECRETS.items():
        found[name] = {"value": _told(loaded, name), "from": variable}
    return found


def _told(loaded: Loaded, name: str) -> str:
    """Whether a secret is there, and nothing else of it."""
    if loaded.config is None:
        return "(not read)"
    count = {
        "peer_secret": 1 + len(loaded.config.peer_secrets_accepted),
        "jwt_secret": len(loaded.config.jwt_secrets),
        "storage_key": len(loaded.config.storage_keys),
    }[name]
    return f"({count} set)" if count else "(none)"


def _without_password(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_password(one) for one in value]
    if isinstance(value, dict):
        return {name: _without_password(one) for name, one in value.items()}
    return without_password(value) if isinstance(value, str) else value


def _toml(value: Any) -> str:
    """As it stands in a file; what is not set is said so."""
    return "(not set)" if value is None else json.dumps(value, ensure_ascii=False, default=str)
