"""The commands of docs/networks.md, run in their order, and the answers below them."""

import io
import itertools
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from flask.testing import FlaskClient
from safetensors.numpy import save
from werkzeug.test import TestResponse

from service.openapi import agree
from tests.api.test_networks import onnx_file
from tests.support import ROOT, strict_json

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def files() -> dict[str, Callable[[], bytes]]:
    """The files that the page speaks of."""
    layers = {"layers": [{"type": "dense", "name": "line", "units": 1}], "input_shape": [2]}
    return {
        "model.onnx": onnx_file,
        "network.json": lambda: json.dumps(layers).encode(),
        "parameters.safetensors": lambda: save({"line.kernel": np.ones((2, 1)), "line.bias": np.zeros(1)}),
    }


def run(client: FlaskClient, command: str) -> TestResponse:
    """Do what a curl command does, with those options that the page uses."""
    words = shlex.split(command)
    assert words[0] == "curl"
    options: dict[str, list[str]] = {}
    for word, value in itertools.pairwise(words[1:]):
        if word.startswith("-"):
            options.setdefault(word, []).append(value)
    assert set(options) <= {"-X", "-H", "-d", "-F", "--data-binary"}
    (address,) = (word for word in words if word.startswith("localhost:8000/"))
    sent: dict[str, Any] = {"headers": dict(header.split(": ") for header in options.get("-H", ()))}
    if "-d" in options:
        sent["data"] = options["-d"][0]
    elif "--data-binary" in options:
        sent["data"] = files()[options["--data-binary"][0].removeprefix("@")]()
    elif "-F" in options:
        parts = dict(part.split("=@") for part in options["-F"])
        sent["data"] = {name: (io.BytesIO(files()[file]()), file) for name, file in parts.items()}
    method = options.get("-X", ["POST" if "data" in sent else "GET"])[0]
    return client.open(urlsplit(f"//{address}").path, method=method, **sent)


def test_the_commands_of_the_page_do_what_it_says(make_client: Callable[..., FlaskClient], tmp_path: Path) -> None:
    client = make_client(data=str(tmp_path))
    blocks = BLOCK.findall((ROOT / "docs" / "networks.md").read_text())
    commands = skipped = 0
    for (language, text), (following, answer) in itertools.pairwise([*blocks, ("", "")]):
        if language != "sh":
            continue
        try:
            response = run(client, text)
        except pytest.skip.Exception:  # the optional package onnx is missing
            skipped += 1
            continue
        commands += 1
        assert response.status_code in (200, 201, 204), response.text
        if following == "json":
            expected = strict_json(answer)
            assert agree({key: response.json[key] for key in expected}, expected)
    assert commands + skipped == 9
