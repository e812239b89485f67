"""The error for a part of an ONNX file that cannot become a graph."""

from __future__ import annotations


class Refusal(Exception):
    """The error of a node, tensor or file that is not read.

    Its message is a sentence without the name of the subject.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
