"""Why a part of an ONNX file cannot be a graph here."""

from __future__ import annotations


class Refusal(Exception):
    """A node, tensor or file that is not read; the message is a sentence without its subject's name."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
