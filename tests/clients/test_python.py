"""A client that openapi-python-client generates: complete, well typed, and right."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.openapi import agree
from tests.clients.support import ADDRESS, GUIDE, guide_command
from tests.support import Server
from tests.test_docs import blocks, exchanges

PACKAGE = "nabla_the_gradient_service_client"
# Prints the classes of the answers of all operations, a README's answer after its way through the client, and what the
# guide's program prints. In one process, because the classes of the package take a second to make.
PROGRAM = f"""
import contextlib, importlib, io, json, pkgutil, runpy, sys, typing
import {PACKAGE} as package
from {PACKAGE} import api, models
address, request = sys.argv[1], json.loads(sys.argv[2])
modules = [
    importlib.import_module(name)
    for _, name, is_folder in pkgutil.walk_packages(api.__path__, api.__name__ + ".")
    if not is_folder
]
given = {{}}
for module in modules:
    classes = typing.get_args(typing.get_type_hints(module._parse_response)["return"])
    given[module.__name__.rsplit(".", 1)[1]] = [getattr(each, "__name__", "") for each in classes]
gradients = next(module for module in modules if module.__name__.endswith(".gradients"))
body = models.GradientsRequest.from_dict(request)
assert body.to_dict() == request, body.to_dict()
answer = gradients.sync(client=package.Client(address), body=body)
with contextlib.redirect_stdout(io.StringIO()) as printed:
    runpy.run_path("program.py", run_name="__main__")
found = {{"given": given, "models": models.__all__, "answer": answer.to_dict(), "printed": printed.getvalue()}}
print(json.dumps(found))
"""

# The client calls httpx alone. What that imports for its command line and for other event loops takes mypy a second.
MYPY = """
[mypy]
[mypy-rich.*,click.*,pygments.*,trio.*,anyio.*,h2.*,socksio.*]
follow_imports = skip
"""

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openapi_python_client") is None, reason="openapi-python-client is not installed"
)


def generate(server: Server, folder: Path) -> Path:
    """Generate the client package, and return its folder."""
    command = guide_command("openapi-python-client", server)
    # It formats what it wrote with the ruff of this environment.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    finished = subprocess.run(
        [sys.executable, "-m", "openapi_python_client", *command[1:], "--fail-on-warning"],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "warning" not in finished.stdout.lower(), finished.stdout
    return folder / PACKAGE.replace("_", "-")


def success_of(operation: dict[str, Any]) -> dict[str, Any]:
    """Return the response of an operation if all goes well."""
    return next(response for status, response in operation["responses"].items() if status.startswith("2"))


def given_by(operation: dict[str, Any]) -> str:
    """Return the name of the class for an operation's answer."""
    ((media_type, content), *_) = success_of(operation)["content"].items()
    return "str" if media_type == "text/plain" else content["schema"]["$ref"].rsplit("/", 1)[1]


@pytest.mark.long
def test_a_python_client_is_complete_and_well_typed_and_gets_right_answers(
    server: Server, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """One test, because the generator takes eight seconds."""
    generated = generate(server, tmp_path)
    (program,) = (text for language, text in blocks(GUIDE) if language == "python" and PACKAGE in text)
    (generated / "program.py").write_text(program.replace(ADDRESS, f"http://127.0.0.1:{server.port}"))
    check_answers(generated, server, program)
    assert request.config.cache is not None
    check_types(generated, request.config.cache.mkdir("mypy"))


def check_answers(generated: Path, server: Server, program: str) -> None:
    """Check what the client and the guide's program with it get from the service."""
    words, expected = exchanges()[0]
    request = words[words.index("-d") + 1]
    command = [sys.executable, "-c", PROGRAM, f"http://127.0.0.1:{server.port}", request]
    finished = subprocess.run(command, cwd=generated, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    in_order, wanted = (json.loads(json.dumps(each, sort_keys=True)) for each in (found["answer"], expected))
    assert agree(in_order, wanted)
    (comment,) = (line.rpartition("# ")[2] for line in program.splitlines() if line.startswith("print("))
    assert found["printed"].strip() == comment
    paths = server.get("/openapi.json").json["paths"]
    operations = [operation for item in paths.values() for operation in item.values()]
    untyped = {operation["operationId"] for operation in operations if not success_of(operation).get("content")}
    # Generators do not know the type of the first one, and the others have no body.
    assert untyped == {"openapi_yaml", "remove_network", "remove_run"}
    unnamed = re.compile(r"(Type|Item|Inner|Body)_?\d+$|^(Body|Inner)|AdditionalProperty$")
    assert len(found["models"]) > 400
    assert [name for name in found["models"] if unnamed.search(name)] == []
    assert found["given"].keys() == {operation["operationId"] for operation in operations}
    for operation in operations:
        classes = {"Problem"} if operation["operationId"] in untyped else {given_by(operation), "Problem"}
        assert classes <= set(found["given"][operation["operationId"]])


def check_types(generated: Path, cache: Path) -> None:
    """Check the types of the whole package, and of the guide's program."""
    (generated / "mypy.ini").write_text(MYPY)
    command = [sys.executable, "-m", "mypy", f"--cache-dir={cache}", "program.py", PACKAGE]
    output = subprocess.run(command, cwd=generated, capture_output=True, text=True).stdout
    assert "checked" in output or "Success" in output, output
    # Its client.py passes `*args: object` on to httpx, whatever the document is.
    errors = [line for line in output.splitlines() if ": error:" in line]
    assert [line for line in errors if not line.startswith(f"{PACKAGE}/client.py")] == []
