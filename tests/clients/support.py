"""Helpers of the tests of generated clients."""

import shlex

from tests.support import ROOT, Server
from tests.test_docs import blocks

GUIDE = ROOT / "docs" / "guide.md"
ADDRESS = "http://127.0.0.1:8000"


def guide_command(tool: str, server: Server) -> list[str]:
    """Return the words of the guide's command that calls `tool`, with the address of a running server."""
    lines = [line for language, text in blocks(GUIDE) if language == "sh" for line in text.splitlines()]
    (command,) = (line for line in lines if tool in line)
    return shlex.split(command.replace(ADDRESS, f"http://127.0.0.1:{server.port}"))
