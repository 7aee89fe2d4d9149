"""The composition root: the ``perdure`` command. Nobody imports this module."""

import argparse
import asyncio
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from perdure.regions.backup_command import add_backup
from perdure.regions.cluster import ClusterError
from perdure.regions.commands import add_commands
from perdure.regions.completion_command import add_completion
from perdure.regions.config import (
    JWT_SECRET,
    LOOPBACK,
    LOOPBACK_ORIGINS,
    PEER_SECRET,
    STORAGE_KEY,
    Config,
    ConfigError,
)
from perdure.regions.demo_commands import add_demo, add_dev
from perdure.regions.doctor_command import add_doctor
from perdure.regions.log_lines import default_format, last_words, start_logging
from perdure.regions.ports import StorageError, StorageKeyWrong
from perdure.regions.rekey_command import add_rekey

EXIT_USAGE = 2
# The commands whose flags are made from what takes as long to load as all of the rest.
SLOW = ("serve", "config", "token")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code."""
    if not __debug__:
        print("perdure: run it without -O: its assertions are needed", file=sys.stderr)
        return EXIT_USAGE
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser(arguments[:1])
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):
        parser.print_help()
        return EXIT_USAGE
    run: Callable[[argparse.Namespace], int] = options.run
    if run is not _serve:
        # Of the commands only `serve` has logs for programs.
        start_logging("text", logging.WARNING)
    try:
        return run(options)
    except ConfigError as error:
        print(f"perdure: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (StorageError, ClusterError) as error:
        last_words(str(error))
        return EXIT_USAGE if isinstance(error, StorageKeyWrong) else 1
    except KeyboardInterrupt:
        return 130


def _parser(meant: Sequence[str]) -> argparse.ArgumentParser:
    """The command line. ``meant``: of the slow commands, those whose flags are needed."""
    parser = argparse.ArgumentParser(
        prog="perdure", description="Durable sessions for AI applications, in several regions."
    )
    parser.add_argument("--version", action="version", version=f"perdure {version('perdure')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_serve(commands, is_meant="serve" in meant)
    _add_config(commands, is_meant="config" in meant)
    add_dev(commands, _mint)
    add_demo(commands, _mint)
    add_rekey(commands)
    add_backup(commands)
    add_commands(commands)
    add_doctor(commands)
    add_completion(commands, lambda: _parser(SLOW))
    _add_token(commands, is_meant="token" in meant)
    return parser


def _add_serve(commands: Any, *, is_meant: bool) -> None:
    serving = commands.add_parser("serve", help="run one region", description=_SERVE)
    if is_meant:
        from perdure.regions.settings_flags import add_flags

        add_flags(serving)
    serving.set_defaults(run=_serve)


def _add_config(commands: Any, *, is_meant: bool) -> None:
    if is_meant:
        from perdure.regions.config_command import add_config

        add_config(commands)
    else:
        commands.add_parser("config", help="check and show the settings of a region")


def _add_token(commands: Any, *, is_meant: bool) -> None:
    if is_meant:
        from perdure.api.token_commands import add_token

        add_token(commands)
    else:
        commands.add_parser("token", help="make grants, and look into them")


def _mint(secret: bytes, claims: Mapping[str, Any]) -> str:
    from perdure.api.grants import Grants

    return Grants(secret).mint(claims)


_SERVE = (
    f"Run one region until SIGTERM. Secrets come from the environment: {PEER_SECRET} (the same in"
    f" every region), {JWT_SECRET} (grants of clients) and {STORAGE_KEY} (encrypts the data; see"
    f" rekey), or from files that {PEER_SECRET}_FILE, {JWT_SECRET}_FILE and {STORAGE_KEY}_FILE"
    " name; several secrets, one a line, while one is replaced: the first signs, all are accepted."
    " Every setting is a flag, a variable of the environment (PERDURE_PORT for --port) or a key of"
    " the file of --config (port = 7101); the flag counts before the variable, and that before the"
    " file. `perdure config check` tells all that is wrong with them. SIGHUP reads --peers-file"
    " again. Exit codes: 0 stopped, 1 failed, 2 wrong settings, 4 another live node has this"
    " region's name, 5 the disk has failed (start it again), 6 this region was removed for good (do"
    " not start it again)."
)


def _config(options: argparse.Namespace) -> Config:
    """The region's settings, and its log begun as they say. ``ConfigError`` tells all that is wrong
    with them."""
    from perdure.regions.settings_flags import given
    from perdure.regions.settings_reading import load

    loaded = load(given(options), options.config)
    if loaded.config is None:
        raise ConfigError("\nperdure: ".join(map(str, loaded.faults)))
    settings = loaded.settings
    level = logging.DEBUG if settings.verbose else logging.WARNING
    start_logging(settings.log_format or default_format(), level, settings.region)
    return loaded.config


def _serve(options: argparse.Namespace) -> int:
    config = _config(options)
    # Here and not above: the commands that only talk to a region start three times as fast.
    import uvloop
    from perdure.api.app import create_app
    from perdure.api.callers import Callers
    from perdure.api.guarding import rules_of
    from perdure.api.metrics import Metrics
    from perdure.api.ops import Ops
    from perdure.api.rates import Meter, Rates
    from perdure.regions.listening import CannotListen
    from perdure.regions.serving import serve
    from perdure.regions.tracing import NoTracing, exporting_to

    lets_loopback = config.no_auth or LOOPBACK in config.cors_origins

    provider = None
    if config.otlp is not None:
        try:
            provider = exporting_to(config.otlp, config.region, version("perdure"))
        except NoTracing as error:
            raise ConfigError(f"--otlp: {error}") from error

    def make_apps(node: Any) -> tuple[Any, Any]:
        if provider is not None:
            node.trace(provider)
        clients = create_app(
            node,
            rules=rules_of(config, node),
            version=version("perdure"),
            cors_origins=[origin for origin in config.cors_origins if origin != LOOPBACK],
            cors_origin_regex=LOOPBACK_ORIGINS if lets_loopback else None,
            demo_page=config.demo_page,
            public_url=config.public_url,
            has_tls=config.tls is not None,
            is_local=config.no_auth or bool(config.demo_page),
            meter=Meter(Rates(node.clock, config.allowed), Callers(config.proxies)),
        )
        return clients, Ops(node, Metrics(node, version("perdure")))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(serve(config, make_apps))
        except CannotListen as error:
            last_words(str(error))
            return 1


if __name__ == "__main__":
    sys.exit(main())
