"""Reasons for refusing the ONNX operators that are not declared."""

from __future__ import annotations

from service.engine.onnx.file import Step

DOMAINS = ("", "ai.onnx.ml", "ai.onnx.preview")
_QUANTISED = "quantised numbers have steps instead of slopes; export the model before it is quantised"
_RANDOM = "random numbers would differ from run to run"
_SEQUENCE = "sequences and optional values are not read"
_TEXT = "strings are not read"
_BITS = "bits of integers have no gradient"
REASONS: dict[str, str] = {
    **dict.fromkeys(
        ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger",
         "MatMulInteger"),
        _QUANTISED,
    ),
    **dict.fromkeys(
        ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"), _RANDOM
    ),
    **dict.fromkeys(
        (
         "SequenceMap", "Optional", "OptionalGetElement",
         "OptionalHasElement", "ZipMap"),
        _SEQUENCE,
    ),
    **dict.fromkeys(
        ("StringNormalizer", "StringConcat", "StringSplit", "RegexFullMatch", "TfIdfVectorizer", "ImageDecoder",
         "LabelEncoder", "CategoryMapper", "DictVectorizer"),
        _TEXT,
    ),
    **dict.fromkeys(("BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "BitCast"), _BITS),
    "NonZero": "how many elements are not 0 only becomes known when the graph runs",
    "Unique": "how many elements differ only becomes known when the graph runs",
    "NonMaxSuppression": "how many boxes are kept only becomes known when the graph runs",
    "TreeEnsembleClassifier": "trees are constant between jumps, so they have no gradient",
    "TreeEnsembleRegressor": "trees are constant between jumps, so they have no gradient",
    "TreeEnsemble": "trees are constant between jumps, so they have no gradient",
}  # fmt: skip


def unsupported(step: Step) -> str:
    """Return the reason why a node whose operator is not declared cannot be read."""
    if step.domain not in DOMAINS:
        return (
            f"the domain {step.domain[:60]!r} is not part of ONNX; only its operators and those of ai.onnx.ml are read"
        )
    return REASONS.get(step.operation, "this operator is not read")
