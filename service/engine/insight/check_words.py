"""Sentences that tell the results of a gradient check."""

from __future__ import annotations

from service.engine.insight.check_report import Report, TensorCheck
from service.engine.insight.differences import DifferenceCurve, Taylor
from service.engine.texts import Sentence, say

ROUNDING = 1e-11
"""Relative errors up to here are rounding, whose digits mean nothing."""
FAR = 0.1
"""Relative errors from here on are no approximation."""
SQUARE = 1.5
"""Orders of Taylor remainders from here on are nearer to 2 than to 1."""


def of_report(report: Report) -> Sentence:
    """Return the sentence about the verdict on the whole gradient."""
    match report.verdict:
        case "right":
            return say("check.right")
        case "kink":
            return say("check.kink")
        case "unsure":
            return say("check.unsure")
        case "undefined":
            return say("check.undefined")
    names = [".".join(tensor.path) for tensor in report.tensors if tensor.verdict == "wrong"]
    return say("check.wrong", count=len(names), names=[f"`{name}`" for name in names])


def of_tensor(tensor: TensorCheck) -> list[Sentence]:
    """Return the sentences about the gradient of one parameter or variable."""
    name, worst = ".".join(tensor.path), tensor.worst
    if tensor.verdict == "right" or worst is None:
        return [_right(name, tensor)]
    if tensor.verdict == "kink" and tensor.sides is not None:
        left, right = tensor.sides
        return [say("check.tensor.kink", label=worst.label, gradient=worst.gradient, left=left, right=right)]
    if tensor.verdict == "unsure":
        return [say("check.tensor.unsure", label=worst.label, gradient=worst.gradient, reference=worst.reference)]
    sentences = [
        say(
            "check.tensor.wrong",
            name=name,
            wrong=tensor.wrong,
            count=tensor.size,
            label=worst.label,
            gradient=worst.gradient,
            reference=worst.reference,
        )
    ]
    if tensor.ratio is not None:
        sentences.append(say("check.tensor.ratio", ratio=tensor.ratio))
    return sentences


def _right(name: str, tensor: TensorCheck) -> Sentence:
    near = say("check.rounding") if tensor.error <= ROUNDING else say("check.error", error=tensor.error)
    if tensor.compared == "probes":
        return say("check.tensor.probes", name=name, count=tensor.size, near=near)
    if tensor.compared == "exact":
        return say("check.tensor.exact", name=name, count=tensor.size, near=near)
    return say("check.tensor.each", name=name, count=tensor.size, near=near)


def of_curve(curve: DifferenceCurve) -> list[Sentence]:
    """Return the sentences about the errors of central differences."""
    sentences: list[Sentence] = []
    if curve.best is not None and curve.best.error > FAR:
        sentences.append(say("check.curve.far", error=curve.best.error))
    elif curve.best is not None:
        near = say("check.rounding") if curve.best.error <= ROUNDING else say("check.error", error=curve.best.error)
        sentences.append(say("check.curve.best", step=curve.best.step, near=near))
    if curve.truncation is not None:
        sentences.append(say("check.curve.truncation", exponent=round(curve.truncation, 2)))
    if curve.rounding is not None:
        sentences.append(say("check.curve.rounding", exponent=round(curve.rounding, 2)))
    if curve.kink is not None:
        sentences.append(say("check.curve.kink", step=curve.kink))
    return sentences


def of_taylor(taylor: Taylor) -> Sentence:
    """Return the sentence about the order of Taylor remainders."""
    if taylor.order is None:
        return say("check.taylor.nothing")
    order = round(taylor.order, 2)
    return say("check.taylor.right", order=order) if taylor.order >= SQUARE else say("check.taylor.wrong", order=order)
