"""The documents: what they show is run, what they list is complete, where they point exists."""

import contextlib
import dataclasses
import io
import itertools
import json
import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flask.testing import FlaskClient

from service.api.catalogue import REGISTRIES
from service.config import Listening, Settings
from tests.support import ROOT, every, strict_json

README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
ENGINE = ROOT / "docs" / "engine.md"
SKIPPED = {".venv", "node_modules"}
DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part in SKIPPED or part.startswith(".") for part in path.relative_to(ROOT).parts)
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path: Path) -> list[tuple[str, str]]:
    """Return the language and text of every code block of a document."""
    return BLOCK.findall(path.read_text())


def test_there_are_documents() -> None:
    assert README in DOCUMENTS
    assert CONFIGURATION in DOCUMENTS


def exchanges() -> list[tuple[list[str], Any]]:
    """Return the words of every curl command of the README, and the answer that stands below it."""
    pairs = []
    command = None
    for language, text in blocks(README):
        if language == "sh" and text.startswith("curl "):
            assert command is None, "a curl command has no answer below it"
            command = shlex.split(text)
        elif language == "json":
            assert command is not None, "an answer has no curl command above it"
            pairs.append((command, json.loads(text)))
            command = None
    assert command is None
    assert pairs
    return pairs


def test_the_request_of_the_readme_gives_the_answer_that_stands_below_it(client: FlaskClient) -> None:
    for words, expected in exchanges():
        options = dict(itertools.pairwise(words))
        (address,) = (word for word in words if word.startswith(("localhost:8000/", "http://localhost:8000/")))
        path = urlsplit(address if "//" in address else f"//{address}").path
        assert options["-H"] == "Content-Type: application/json"
        response = client.post(path, data=options["-d"], content_type="application/json")
        assert response.status_code == 200, response.text
        assert strict_json(response.get_data()) == expected


def test_other_commands_of_the_readme_are_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = [
        line
        for language, text in blocks(README)
        if language == "sh" and not text.startswith("curl ")
        for line in text.splitlines()
    ]
    assert commands
    for command in commands:
        assert re.fullmatch(r"make [a-z-]+", command), command
        assert command.removeprefix("make ") in targets


COUNT = re.compile(r"(more than )?(\d+)\s+(?:types\s+of\s+)?([a-z]+)", re.IGNORECASE)


@every("path", [README, CONTRIBUTING, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name)
def test_counts_of_blocks_are_those_of_the_registries(path: Path) -> None:
    for more, number, plural in COUNT.findall(BLOCK.sub("", path.read_text())):
        if plural in REGISTRIES:
            # The misprinted optimizers are there to be seen failing.
            count = sum(not getattr(block, "counter_example", False) for block in REGISTRIES[plural])
            assert int(number) < count if more else int(number) == count, f"{path.name}: {count} {plural}"


def test_the_readme_counts_what_there_is() -> None:
    counted = {plural for *_, plural in COUNT.findall(README.read_text())}
    assert {"layers", "optimizers", "schedules"} <= counted


def test_the_code_of_the_engine_page_prints_what_stands_below_it() -> None:
    shown = blocks(ENGINE)
    names: dict[str, Any] = {}
    for (language, code), (following, text) in itertools.pairwise([*shown, ("", "")]):
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(code, names)
            assert printed.getvalue() == (text if following == "text" else "")
    assert len(names) > 20


@every("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_json_in_documents_is_json(path: Path) -> None:
    for language, text in blocks(path):
        if language == "json":
            strict_json(text)


def variables() -> dict[str, str]:
    """Return the rows of the table of variables, by the name of the variable."""
    rows = re.findall(r"^\| (.+?) \| (.+?) \| .+ \|$", CONFIGURATION.read_text(), re.MULTILINE)
    return {name: default for names, default in rows for name in re.findall(r"`([A-Z_]+)`", names)}


@every("field", dataclasses.fields(Settings), ids=lambda field: field.name)
def test_every_setting_is_documented_with_its_default(field: dataclasses.Field[object]) -> None:
    documented = variables()
    name = f"NABLA_{field.name.upper()}"
    assert name in documented
    default = documented[name]
    if isinstance(field.default, bool):
        assert f"`{str(field.default).lower()}`" in default
    elif isinstance(field.default, int | float):
        assert f"`{field.default:g}`" in default or f"`{int(field.default)}`" in default, default
    elif isinstance(field.default, str):
        assert default == (f"`{field.default}`" if field.default else "none")
    else:
        assert default == "none"


def test_every_documented_variable_is_read() -> None:
    known = {f"NABLA_{field.name.upper()}" for field in dataclasses.fields(Settings)}
    known |= {field.metadata["variable"] for field in dataclasses.fields(Listening)}
    assert set(variables()) == known


def anchors(path: Path) -> set[str]:
    """Return the fragments by which the headings of a document can be linked."""
    headings = re.findall(r"^#+ +(.+)$", BLOCK.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", path.read_text())):
        link = urlsplit(target)
        if link.scheme or link.netloc:
            continue
        other = (path.parent / link.path).resolve() if link.path else path
        assert other.exists(), f"{path.name} links to {target}"
        assert other.is_relative_to(ROOT)
        if link.fragment and other.suffix == ".md":
            assert link.fragment in anchors(other), f"{path.name} links to {target}"
