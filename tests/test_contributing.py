"""The example of CONTRIBUTING.md does what it says: one declaration, and everything knows it."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SNIPPET = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)

# In a process of its own, because a declaration cannot be taken back.
PROGRAM = """
import json, sys
from service.engine.network import activations as module
from service.engine.graph.operations import sqrt
exec(sys.stdin.read(), vars(module) | {"sqrt": sqrt})
from service.app import create_app
from service.config import Settings
from service.openapi import describe
client = create_app(Settings(log_requests=False)).test_client()
entry = client.get("/v1/activations/bent_identity?from=0.75&to=1&points=2").json
answer = client.post("/v1/gradients", json={
    "network": {"layers": [{"type": "activation", "activation": "bent_identity"}]},
    "inputs": [[0.75]], "targets": [[0.0]], "loss": "half_squared_error", "include": ["input_gradients"],
}).json
choices = describe()["components"]["schemas"]["Activation"]["anyOf"][0]["enum"]
print(json.dumps({"entry": entry, "answer": answer, "listed": "bent_identity" in choices}))
"""


def test_an_activation_is_one_declaration():
    assert SNIPPET is not None
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=SNIPPET[1], capture_output=True, text=True, cwd=ROOT, check=True
    )
    found = json.loads(run.stdout)
    value, slope = 0.5 * 0.25 + 0.75, 0.75 / 2.5 + 1.0
    assert found["entry"]["curve"]["value"][0] == value
    assert found["entry"]["curve"]["derivative"][0] == slope
    assert found["answer"]["outputs"] == [[value]]
    assert found["answer"]["input_gradients"] == [[value * slope]]
    assert found["listed"]
