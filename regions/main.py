"""The composition root: the ``perdure`` command. Nobody imports this module."""

import argparse
import asyncio
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from perdure.regions.cluster import ClusterError
from perdure.regions.commands import add_commands
from perdure.regions.config import (
    JWT_LEEWAY_S,
    JWT_LEEWAY_S_MAX,
    JWT_SECRET,
    LOOPBACK,
    LOOPBACK_ORIGINS,
    PEER_SECRET,
    PORT_MAX,
    STORAGE_KEY,
    Config,
    ConfigError,
    check,
    parse_allowances,
    parse_demo_page,
    parse_peer_files,
    parse_peers,
    parse_tls,
    parse_trusted_proxies,
    read_secrets,
    read_storage_keys,
)
from perdure.regions.demo import TOKENS_PER_S, TOKENS_PER_S_MAX, failover
from perdure.regions.demo_chat import chat
from perdure.regions.dev import FIRST_PORT, dev
from perdure.regions.log_lines import FORMATS, default_format, last_words, start_logging
from perdure.regions.ports import StorageError, StorageKeyWrong
from perdure.regions.rekey_command import add_rekey
from perdure.replication.limits import EVICT_IDLE_S, LOG_AGE_S_MAX, LOG_BYTES_MAX

# Only known where nothing listens outside this machine (``--dev-no-auth``).
DEV_SECRET = b"perdure development secret, loopback only"
EXIT_USAGE = 2


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
    level = logging.DEBUG if getattr(options, "verbose", False) else logging.WARNING
    # Of the commands only `serve` has logs for programs.
    format_ = getattr(options, "log_format", "text") or default_format()
    start_logging(format_, level, getattr(options, "region", None))
    run: Callable[[argparse.Namespace], int] = options.run
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


def _parser(first: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="perdure", description="Durable sessions for AI applications, in several regions."
    )
    parser.add_argument("--version", action="version", version=f"perdure {version('perdure')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_serve(commands)
    _add_dev(commands)
    _add_demo(commands)
    add_rekey(commands)
    add_commands(commands)
    _add_token(commands, is_meant=list(first) == ["token"])
    return parser


def _add_serve(commands: Any) -> None:
    serving = commands.add_parser("serve", help="run one region", description=_SERVE)
    serving.add_argument("--region", required=True, metavar="NAME", help="the name of this region")
    serving.add_argument("--port", type=int, default=7101, help="clients' port (default 7101)")
    serving.add_argument("--peer-port", type=int, default=7201, help="peers' port (default 7201)")
    serving.add_argument("--host", default="127.0.0.1", help="address for clients")
    serving.add_argument("--peer-host", default="127.0.0.1", help="address for peers")
    _add_watching(serving)
    serving.add_argument("--data", type=Path, required=True, metavar="DIR", help="data directory")
    serving.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=URL",
        help="another region and the URL of its peer port; once for each",
    )
    _add_peer_security(serving)
    serving.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a browser page's origin that may call; loopback: any page of this machine",
    )
    _add_tls(serving)
    _add_grants(serving)
    serving.add_argument(
        "--bootstrap",
        action="store_true",
        help="with an empty disk, be ready without having caught up with a peer",
    )
    for name, unit, most, text in (
        ("--log-bytes-max", "BYTES", LOG_BYTES_MAX, "of a log is kept for peers that lack it"),
        ("--log-age-s-max", "SECONDS", LOG_AGE_S_MAX, "that long it is kept for them"),
        ("--evict-idle-s", "SECONDS", EVICT_IDLE_S, "until an unused session leaves memory"),
    ):
        help_ = f"{text} ({most:,})"
        serving.add_argument(name, type=int, default=most, metavar=unit, help=help_)
    serving.add_argument(
        "--dev-no-auth", action="store_true", help="serve anybody, on loopback only"
    )
    serving.add_argument(
        "--demo-page",
        action="append",
        default=[],
        metavar="NAME=URL",
        help="serve the page of the demo at /demo/chat; once for each region, itself too",
    )
    for name, form, text in (
        ("--limit", "WHAT=N/s,burst=N", "what callers may ask for (PROTOCOL A.10), or WHAT=off"),
        ("--trusted-proxy", "CIDR", "a proxy whose X-Forwarded-For is believed"),
    ):
        serving.add_argument(name, action="append", default=[], metavar=form, help=text)
    serving.add_argument("--verbose", action="store_true", help="log more")
    serving.add_argument(
        "--log-format",
        choices=FORMATS,
        help="of standard error: json, an object a line, or text (json where no terminal is)",
    )
    serving.set_defaults(run=_serve)


def _add_watching(serving: argparse.ArgumentParser) -> None:
    text = "port for /metrics, /livez and /readyz without grants, on a private address (none)"
    serving.add_argument("--ops-port", type=int, metavar="PORT", help=text)
    serving.add_argument("--ops-host", default="127.0.0.1", help="address for these")
    text = "where to send spans of traces, by OTLP over HTTP (perdure[otel]; none)"
    serving.add_argument("--otlp", metavar="URL", help=text)


def _add_token(commands: Any, *, is_meant: bool) -> None:
    # Here and not above: what it needs takes as long to load as all of the rest.
    if is_meant:
        from perdure.api.token_commands import add_token

        add_token(commands)
    else:
        commands.add_parser("token", help="make grants, and look into them")


def _add_tls(serving: argparse.ArgumentParser) -> None:
    text = "the certificate (PEM, with what it is signed by) of the clients' port"
    serving.add_argument("--tls-cert", type=Path, metavar="FILE", help=text)
    serving.add_argument("--tls-key", type=Path, metavar="FILE", help="its key")
    text = "serve clients in clear text beyond loopback: TLS ends at a proxy in front"
    serving.add_argument("--behind-proxy", action="store_true", help=text)


def _add_grants(serving: argparse.ArgumentParser) -> None:
    for name, unit, text in (
        ("--jwks", "FILE|URL", "a JWK set whose keys check grants (EdDSA, ES256, RS256)"),
        ("--jwt-audience", "NAME", "what aud of grants must be"),
        ("--jwt-issuer", "NAME", "what iss of grants must be"),
    ):
        serving.add_argument(name, metavar=unit, help=text)
    serving.add_argument(
        "--jwt-leeway-s",
        type=int,
        default=JWT_LEEWAY_S,
        metavar="SECONDS",
        help=f"how far clocks of issuers may be off ({JWT_LEEWAY_S}; at most {JWT_LEEWAY_S_MAX})",
    )
    serving.add_argument(
        "--cut-off-grant-age-s",
        type=int,
        metavar="SECONDS",
        help="refuse older grants while another region, which may have revoked them, is not heard",
    )


def _add_peer_security(serving: Any) -> None:
    text = "more regions, one NAME=URL a line; read again on SIGHUP"
    serving.add_argument("--peers-file", type=Path, metavar="FILE", help=text)
    for name, text in (
        ("--peer-cert", "this region's certificate (PEM), which names it NAME.perdure"),
        ("--peer-key", "the key of the certificate (PEM, not encrypted)"),
        ("--peer-ca", "the certificates (PEM) of who signs the regions' certificates"),
    ):
        serving.add_argument(name, type=Path, metavar="FILE", help=text)
    serving.add_argument(
        "--peer-insecure",
        action="store_true",
        help="link regions without certificates, also beyond this machine",
    )


def _add_dev(commands: Any) -> None:
    text = "run three regions (eu, us, ap) on ports 7101 to 7103, until Ctrl-C"
    codes = "Exit codes: 0 stopped, 1 a region did not start, 2 wrong arguments."
    dev_parser = commands.add_parser("dev", help=text, description=text, epilog=codes)
    dev_parser.add_argument(
        "--data", type=Path, default=Path(".data/dev"), metavar="DIR", help="(.data/dev)"
    )
    dev_parser.set_defaults(run=lambda options: asyncio.run(dev(options.data, _mint)))


def _add_demo(commands: Any) -> None:
    text = "show what it does, on this machine"
    codes = "Exit codes: 0 it did, 1 it did not, 2 wrong arguments, 130 interrupted."
    demo_parser = commands.add_parser("demo", help=text, description=text, epilog=codes)
    demos = demo_parser.add_subparsers(title="demos", metavar="DEMO", required=True)
    text = "an answer streams while a region is killed in the middle of a word; and the proof"
    codes = (
        "Exit codes: 0 nothing was lost, doubled or reordered, 1 something was or the demo failed,"
        " 2 wrong arguments, 130 interrupted."
    )
    failing = demos.add_parser("failover", help=text, description=text, epilog=codes)
    failing.add_argument("--json", action="store_true", help="print the result as JSON")
    failing.add_argument(
        "--tokens-per-s", type=float, default=TOKENS_PER_S, help=f"pace ({TOKENS_PER_S:.0f})"
    )
    failing.set_defaults(run=_demo_failover)
    text = "a page on which windows at several regions share a session with an agent, until Ctrl-C"
    codes = (
        "Exit codes: 0 stopped, 1 a region did not start or the agent failed, 2 wrong arguments."
    )
    chatting = demos.add_parser("chat", help=text, description=text, epilog=codes)
    chatting.add_argument(
        "--port",
        type=int,
        default=FIRST_PORT,
        help=f"of the first region; the others have the next two ({FIRST_PORT})",
    )
    chatting.add_argument("--open", action="store_true", help="open two windows in the browser")
    chatting.set_defaults(run=_demo_chat)


def _mint(secret: bytes, claims: Mapping[str, Any]) -> str:
    from perdure.api.grants import Grants

    return Grants(secret).mint(claims)


def _demo_chat(options: argparse.Namespace) -> int:
    if not 0 < options.port <= PORT_MAX - 2:
        raise ConfigError(f"--port {options.port} must be 1 to {PORT_MAX - 2}")
    return asyncio.run(chat(_mint, options.port, opens=options.open))


def _demo_failover(options: argparse.Namespace) -> int:
    # Faster, the answer is over before a process can be killed in the middle of it.
    if not 0 < options.tokens_per_s <= TOKENS_PER_S_MAX:
        raise ConfigError(f"--tokens-per-s must be positive, and at most {TOKENS_PER_S_MAX:.0f}")
    return asyncio.run(failover(_mint, as_json=options.json, tokens_per_s=options.tokens_per_s))


_SERVE = (
    f"Run one region until SIGTERM. Secrets come from the environment: {PEER_SECRET} (the same in"
    f" every region), {JWT_SECRET} (grants of clients) and {STORAGE_KEY} (encrypts the data; see"
    f" rekey), or from files that {PEER_SECRET}_FILE, {JWT_SECRET}_FILE and {STORAGE_KEY}_FILE"
    " name; several secrets, one a line, while one is replaced: the first signs, all are accepted."
    " SIGHUP reads --peers-file again. Exit codes: 0 stopped, 1 failed, 2 wrong settings, 4 another"
    " live node has this region's name, 5 the disk has failed (start it again), 6 this region was"
    " removed for good (do not start it again)."
)


def _config(options: argparse.Namespace) -> Config:
    jwt_secrets, jwks = read_secrets(JWT_SECRET), options.jwks
    peer_secrets = read_secrets(PEER_SECRET)
    if options.dev_no_auth:
        jwt_secrets, jwks = (), None
        peer_secrets = peer_secrets or (DEV_SECRET,)
    elif not jwt_secrets and jwks is None:
        raise ConfigError(
            f"set {JWT_SECRET} (32 bytes or more) or give --jwks, or use --dev-no-auth on loopback"
        )
    return Config(
        region=options.region,
        data=options.data,
        port=options.port,
        peer_port=options.peer_port,
        host=options.host,
        peer_host=options.peer_host,
        ops_port=options.ops_port,
        ops_host=options.ops_host,
        otlp=options.otlp,
        peers=parse_peers(options.peer),
        peers_file=options.peers_file,
        peer_secret=peer_secrets[0] if peer_secrets else b"",
        peer_secrets_accepted=peer_secrets[1:],
        peer_files=parse_peer_files(options.peer_cert, options.peer_key, options.peer_ca),
        peer_insecure=options.peer_insecure,
        tls=parse_tls(options.tls_cert, options.tls_key),
        behind_proxy=options.behind_proxy,
        jwt_secrets=jwt_secrets,
        jwks=jwks,
        jwt_audience=options.jwt_audience,
        jwt_issuer=options.jwt_issuer,
        jwt_leeway_s=options.jwt_leeway_s,
        cut_off_grant_age_s=options.cut_off_grant_age_s,
        storage_keys=read_storage_keys(),
        cors_origins=tuple(options.cors_origin),
        bootstrap=options.bootstrap,
        log_bytes_max=options.log_bytes_max,
        log_age_s_max=options.log_age_s_max,
        evict_idle_s=options.evict_idle_s,
        demo_page=parse_demo_page(options.demo_page),
        allowed=parse_allowances(options.limit, no_auth=options.dev_no_auth),
        proxies=parse_trusted_proxies(options.trusted_proxy),
    )


def _serve(options: argparse.Namespace) -> int:
    config = _config(options)
    check(config)
    # Here and not above: the commands that only talk to a region start three times as fast.
    import uvloop
    from perdure.api.app import create_app
    from perdure.api.callers import Callers
    from perdure.api.guarding import rules_of
    from perdure.api.metrics import Metrics
    from perdure.api.ops import Ops
    from perdure.api.rates import Meter, Rates
    from perdure.regions.serving import CannotListen, serve
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
