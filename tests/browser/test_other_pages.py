"""A page of another port of this machine: it reads a gradient and a stream, and nobody configured anything."""

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from service.api.examples import TRAIN
from tests.browser.profiles import Profiles
from tests.browser.tab import Tab
from tests.support import LOOPBACK, Server, xor

PAGE = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:"><title>Another page</title><script>
const ask = (path, body, accept) => fetch("SERVICE" + path, {
  method: "POST", headers: { "Content-Type": "application/json", Accept: accept }, body: JSON.stringify(body),
});
const read = async () => {
  const answer = await ask("/v1/gradients", GRADIENTS, "application/json");
  const gradients = await answer.json();
  const stream = await ask("/v1/train", TRAIN, "application/x-ndjson");
  const reader = stream.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) text += part.value;
  const lines = text.trim().split("\\n").map(line => JSON.parse(line));
  const problem = await (await ask("/v1/gradients", {}, "application/json")).json();
  return { gradients, lines, problem, id: answer.headers.get("X-Request-Id") };
};
read().then(found => { window.found = found; }, error => { window.found = String(error); });
</script>"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.mark.parametrize("host", ["localhost", LOOPBACK])
def test_a_page_of_this_machine_reads_a_gradient_and_a_stream(
    host: str, profiles: Profiles, server: Server, tmp_path: Path
) -> None:
    page = PAGE.replace("SERVICE", f"http://{LOOPBACK}:{server.port}")
    page = page.replace("GRADIENTS", json.dumps(xor())).replace("TRAIN", json.dumps(TRAIN["xor"]))
    (tmp_path / "index.html").write_text(page)
    with ThreadingHTTPServer((LOOPBACK, 0), partial(Quiet, directory=tmp_path)) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        origin = f"http://{host}:{pages.server_port}"
        tab = Tab(profiles.take(), origin, f"http://{LOOPBACK}:{server.port}")
        tab.expect_status(422)
        try:
            tab.go("/")
            found = tab.wait("() => window.found")
        finally:
            pages.shutdown()
        tab.done()
    assert isinstance(found, dict), found
    assert found["gradients"]["loss"] == 0.15500779048137614
    assert found["gradients"] == server.post(json.dumps(xor()).encode()).json
    *steps, end = found["lines"]
    assert [step["step"] for step in steps] == [1, 2, 3]
    assert end["status"] == "completed"
    assert found["problem"]["status"] == 422
    assert found["id"]
