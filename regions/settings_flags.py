"""The flags of ``perdure serve`` and ``perdure config``, made from the settings."""

import argparse
from pathlib import Path
from typing import Any, get_args

from perdure.regions.settings import Settings, flag_of, unit_of
from perdure.regions.settings_reading import CONFIG_FILE


def add_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for each setting. What is not given stays None, so that others can say it; what is
    given is checked with the rest, which tells all that is wrong at once."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"settings as TOML, for what no flag and no variable says ({CONFIG_FILE})",
    )
    for name, field in Settings.model_fields.items():
        default = field.get_default()
        text = field.description or ""
        options: dict[str, Any] = {"dest": name, "default": None}
        if field.annotation is bool:
            options["action"] = "store_true"
        elif words := _words(field.annotation):
            options["choices"] = words
        else:
            options["metavar"] = unit_of(name)
            if isinstance(default, tuple):
                options["action"] = "append"
            elif isinstance(default, int | str):
                text += f" ({default:,})" if _is_long(default) else f" ({default})"
            elif field.is_required():
                text += "; required"
        parser.add_argument(flag_of(name), help=text, **options)


def given(options: argparse.Namespace) -> dict[str, Any]:
    """What the flags say, by the names of settings."""
    return {
        name: value
        for name, value in vars(options).items()
        if name in Settings.model_fields and value is not None
    }


def _words(annotation: Any) -> tuple[str, ...]:
    """Where a setting is one of a few words: they."""
    return tuple(word for each in get_args(annotation) for word in get_args(each))


def _is_long(default: Any) -> bool:
    return isinstance(default, int) and default > 99_999
