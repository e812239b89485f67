"""The command `nabla`. Each command is one function below; `command` is its whole declaration.

    nabla --version
    nabla serve --port 8001
    nabla worker
    nabla convert model.keras

Each command imports what it needs itself, so that the others start at once.
"""

from __future__ import annotations

import gc
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from service import __version__

Run = Callable[[Namespace], int | None]


@dataclass(frozen=True)
class Command:
    """A command of `nabla`: its name, its function and its arguments."""

    name: str
    run: Run
    """Runs the command and returns its exit status; None means 0."""
    arguments: tuple[tuple[tuple[str, ...], dict[str, Any]], ...]
    """The arguments of `ArgumentParser.add_argument`, one entry for each argument of the command."""

    @property
    def description(self) -> str:
        return (self.run.__doc__ or "").strip()


COMMANDS: list[Command] = []


def argument(*names: str, **details: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the declaration of an argument, for `command`; the parameters are those of `add_argument`."""
    return names, details


def command(*arguments: tuple[tuple[str, ...], dict[str, Any]]) -> Callable[[Run], Run]:
    """Return a decorator that makes a function the command of its name; its docstring is the help text."""

    def register(run: Run) -> Run:
        COMMANDS.append(Command(run.__name__.replace("_", "-"), run, arguments))
        return run

    return register


@command(
    argument("--host", metavar="ADDRESS", help="where to listen; by default HOST, else 127.0.0.1"),
    argument("--port", metavar="NUMBER", help="by default PORT, else 8000"),
)
def serve(arguments: Namespace) -> None:
    """Serve the API and its pages until stopped. Variables of the environment set everything else."""
    for variable, value in (("HOST", arguments.host), ("PORT", arguments.port)):
        if value is not None:
            os.environ[variable] = value
    from service.config import read_or_exit

    read_or_exit()  # before gunicorn, which stumbles over a malformed WEB_CONCURRENCY when it is imported
    from service.server import Server

    Server().run()


@command(
    argument("--name", metavar="NAME", help="a name that no other worker has; by default of machine and process"),
)
def worker(arguments: Namespace) -> None:
    """Compute the runs in the database of NABLA_DATABASE until stopped. Any machine that reaches the database can."""
    gc.disable()  # until everything is imported, as in gunicorn.conf.py
    from service.config import read_or_exit

    _, settings = read_or_exit()
    from service.store.store import why_nothing_is_stored

    if why := why_nothing_is_stored(settings):
        sys.exit(f"nabla: {why}")
    from service.observing.logs import configure_logging, logs_text, write_from_threads
    from service.runner.process import name_of, work

    gc.freeze()
    gc.enable()
    configure_logging(as_text=logs_text(settings.log_format))
    write_from_threads()
    work(settings, arguments.name or name_of())


@command(
    argument("file", help="model.keras, model.h5, model.weights.h5, or model.json with what model.to_json() gives"),
    argument("--network", metavar="FILE", help="for weights alone: a file with what model.to_json() gives"),
    argument("--output", metavar="NAME", help="of the files that are written, without ending; by default that of FILE"),
)
def convert(arguments: Namespace) -> int:
    """Turn a model of Keras into JSON and safetensors that the service takes. Nothing is sent anywhere."""
    from pathlib import Path

    from service.convert import NotConvertible
    from service.convert import convert as write

    source = Path(arguments.file)
    stem = source.name.removesuffix(".h5").removesuffix(".weights").removesuffix(".keras").removesuffix(".json")
    target = Path(arguments.output) if arguments.output else source.with_name(f"{stem}.nabla")
    try:
        for line in write(source, Path(arguments.network) if arguments.network else None, target):
            print(line)
    except (NotConvertible, OSError) as error:
        print(f"nabla convert: {error}", file=sys.stderr)
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments`, by default those of the process; return the exit status."""
    parser = ArgumentParser(prog="nabla", description="Nabla, the gradient service.")
    parser.add_argument("--version", action="version", version=f"nabla {__version__}")
    parsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for one in COMMANDS:
        own = parsers.add_parser(one.name, help=one.description, description=one.description)
        for names, details in one.arguments:
            own.add_argument(*names, **details)
        own.set_defaults(run=one.run)
    parsed = parser.parse_args(arguments)
    run: Run = parsed.run
    return run(parsed) or 0
