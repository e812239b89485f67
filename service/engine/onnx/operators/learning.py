"""ONNX operators of the domain `ai.onnx.ml`, which scikit-learn models are exported to."""

from __future__ import annotations

import math

import numpy as np

from service.engine.graph import operations
from service.engine.graph.ir import Node
from service.engine.graph.operations import (
    absolute,
    broadcast,
    concatenate,
    exp,
    first_largest,
    largest,
    reshape,
    sigmoid,
    softmax,
    sqrt,
    square,
    sum_over,
    table,
    tanh,
    transpose,
    where,
)
from service.engine.onnx.assembly import Call
from service.engine.onnx.composing import keep, sum_product, take
from service.engine.onnx.file import ML_DOMAIN
from service.engine.onnx.registry import FLOAT, operator
from service.engine.onnx.values import Value


def _rows(call: Call, x: Value) -> Node:
    """Return x with at least two axes: a vector becomes one row."""
    node = call.x(x)
    return reshape(node, (1, node.size)) if len(node.shape) < 2 else node


def _numbers(call: Call, name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return an attribute as a vector of float64, empty if the node does not have the attribute."""
    return np.array(call.attr(name) or [], np.float64)


def _transformed(call: Call, scores: Node) -> Node:
    """Return scores after the function that the attribute `post_transform` names."""
    kind = call.word("post_transform", "NONE")
    if kind == "NONE":
        return scores
    if kind == "LOGISTIC":
        return sigmoid(scores)
    if kind == "SOFTMAX":
        return softmax(scores)
    if kind == "SOFTMAX_ZERO":
        is_zero = scores.graph.apply("greater_equal", 0.0, absolute(scores))
        return where(is_zero, 0.0, softmax(where(is_zero, -math.inf, scores)))
    return call.refuse(f"post_transform {kind[:20]!r} is not read")


def _linear(call: Call, x: Node, targets: int) -> Node:
    """Return the linear function of x `(n, features)` with the node's coefficients: `(n, targets)`."""
    coefficients = _numbers(call, "coefficients")
    if coefficients.size != targets * x.shape[1]:
        call.refuse(f"has {coefficients.size} coefficients for {x.shape[1]} features and {targets} outputs")
    y = sum_product(x, table(call.graph, coefficients.reshape(targets, -1).T))
    intercepts = _numbers(call, "intercepts")
    if not intercepts.size:
        return y
    return y + broadcast(table(call.graph, intercepts.reshape(1, -1)), y.shape)


@operator("LinearRegressor", domain=ML_DOMAIN, result=FLOAT)
def linear_regressor(call: Call, x: Value) -> Node:
    """Build LinearRegressor: return the linear function of each row."""
    return _transformed(call, _linear(call, _rows(call, x), call.integer("targets", 1)))


def _label(call: Call, scores: Node) -> Value | None:
    """Return the integer label with the largest score for each row, or None where no such label is asked for."""
    labels = call.attr("classlabels_ints") or call.attr("classlabels_int64s")
    if labels is None or not call.wants(0):
        return None
    marks = first_largest(scores, [1])
    return Value(
        None, sum_over(marks * broadcast(table(call.graph, np.array([labels], float)), scores.shape), [1]), "int64"
    )


@operator("LinearClassifier", domain=ML_DOMAIN, result=FLOAT)
def linear_classifier(call: Call, x: Value) -> tuple[Value | None, Node]:
    """Build LinearClassifier: return the label of each row, if it is an integer, and the scores."""
    node = _rows(call, x)
    classes = max(1, len(_numbers(call, "coefficients")) // node.shape[1])
    raw = _linear(call, node, classes)
    labels = call.attr("classlabels_ints") or call.attr("classlabels_strings") or []
    if classes == 1 and len(labels) == 2:
        kind = call.word("post_transform", "NONE")
        positive = sigmoid(raw) if kind == "LOGISTIC" else raw
        scores = concatenate([1.0 - positive if kind == "LOGISTIC" else -positive, positive], 1)
        if kind not in ("NONE", "LOGISTIC"):
            scores = _transformed(call, scores)
        return _label(call, scores), scores
    scores = _transformed(call, raw)
    return _label(call, scores), scores


@operator("Scaler", domain=ML_DOMAIN, result=FLOAT)
def scaler(call: Call, x: Value) -> Node:
    """Build Scaler: return (x - offset) · scale."""
    node = call.x(x)
    offset, scale = _numbers(call, "offset"), _numbers(call, "scale")
    y = node
    if offset.size:
        y = y - broadcast(table(call.graph, offset), y.shape)
    return y * broadcast(table(call.graph, scale), y.shape) if scale.size else y


@operator("Normalizer", domain=ML_DOMAIN, result=FLOAT)
def normalizer(call: Call, x: Value) -> Node:
    """Build Normalizer: return each row divided by its norm."""
    node = call.x(x)
    kind = call.word("norm", "MAX")
    last = len(node.shape) - 1
    if kind == "MAX":
        length = largest(absolute(node), [last])
    elif kind == "L1":
        length = sum_over(absolute(node), [last])
    else:
        total = sum_over(square(node), [last])
        length = sqrt(where(total, total, 1.0))
    spread = broadcast(keep(length, node.shape, [last]), node.shape)
    return node / where(spread, spread, 1.0)


@operator("Binarizer", domain=ML_DOMAIN, result=FLOAT)
def binarizer(call: Call, x: Value) -> Node:
    """Build Binarizer: return 1 where x is above the threshold, else 0."""
    return call.x(x).graph.apply("greater", call.x(x), call.number("threshold"))


@operator("Imputer", domain=ML_DOMAIN, result=FLOAT)
def imputer(call: Call, x: Value) -> Node:
    """Build Imputer: return x with other numbers in place of the missing ones."""
    node = call.x(x)
    values = _numbers(call, "imputed_value_floats")
    if not values.size:
        values = _numbers(call, "imputed_value_int64s")
    replaced = call.number("replaced_value_float", call.number("replaced_value_int64"))
    instead = broadcast(table(call.graph, values), node.shape)
    same = node.graph.apply("greater_equal", node, replaced) * node.graph.apply("greater_equal", replaced, node)
    if math.isnan(replaced):
        same = 1.0 - node.graph.apply("greater_equal", node, node)
    return where(same, instead, node)


@operator("FeatureVectorizer", domain=ML_DOMAIN, result=FLOAT)
def feature_vectorizer(call: Call, *values: Value) -> Node:
    """Build FeatureVectorizer: return the inputs joined as the features of each row."""
    return concatenate([_rows(call, each) for each in values], 1)


@operator("ArrayFeatureExtractor", domain=ML_DOMAIN, static=(1,), integers=True)
def array_feature_extractor(call: Call, x: Value, places: Value) -> Value:
    """Build ArrayFeatureExtractor: return the features of x at known places."""
    node = _rows(call, x)
    chosen = call.ints(places, "the places")
    return Value(None, take(node, len(node.shape) - 1, chosen), x.dtype)


def _kernel(call: Call, x: Node, vectors: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> Node:
    """Return the kernel function of each row of x with each support vector: `(n, vectors)`."""
    kind = call.word("kernel_type", "LINEAR")
    gamma, constant, degree = ([*_numbers(call, "kernel_params"), 0.0, 0.0, 0.0])[:3]
    support = table(call.graph, vectors)
    product = sum_product(x, transpose(support))
    if kind == "LINEAR":
        return product
    if kind == "RBF":
        # |x - v|² is not expanded, because the products would cancel for near vectors.
        shape = (x.shape[0], len(vectors), x.shape[1])
        difference = broadcast(reshape(x, (x.shape[0], 1, x.shape[1])), shape) - broadcast(support, shape)
        return exp(-float(gamma) * sum_over(square(difference), [2]))
    inner = float(gamma) * product + float(constant)
    if kind == "POLY":
        return operations.power(inner, call.graph.constant(float(degree)))
    if kind == "SIGMOID":
        return tanh(inner)
    return call.refuse(f"kernel_type {kind[:20]!r} is not read")


@operator("SVMRegressor", domain=ML_DOMAIN, result=FLOAT)
def svm_regressor(call: Call, x: Value) -> Node:
    """Build SVMRegressor: return the value of each row."""
    node = _rows(call, x)
    coefficients, rho = _numbers(call, "coefficients"), _numbers(call, "rho")
    count = call.integer("n_supports")
    if count:
        vectors = _numbers(call, "support_vectors").reshape(count, -1)
        values = _kernel(call, node, vectors)
    else:
        values = node
    y = sum_product(values, table(call.graph, coefficients.reshape(-1, 1))) + float(rho[0])
    if call.integer("one_class"):
        y = 2.0 * node.graph.apply("greater", y, 0.0) - 1.0
    return _transformed(call, y)


@operator("SVMClassifier", domain=ML_DOMAIN, result=FLOAT)
def svm_classifier(call: Call, x: Value) -> tuple[Value | None, Node]:
    """Build SVMClassifier: return the label of each row, if it is an integer, and the scores."""
    node = _rows(call, x)
    per_class = call.integers("vectors_per_class")
    labels = call.attr("classlabels_ints") or call.attr("classlabels_strings") or []
    classes = len(labels)
    if not per_class or classes < 2 or len(per_class) != classes:
        call.refuse("is read with support vectors for each of its classes")
    if _numbers(call, "prob_a").size:
        call.refuse("probabilities by Platt's method are not read; save the model with probability=False")
    rho = _numbers(call, "rho")
    total = sum(per_class)
    vectors = _numbers(call, "support_vectors").reshape(total, -1)
    coefficients = _numbers(call, "coefficients").reshape(classes - 1, total)
    kernel = _kernel(call, node, vectors)
    starts = np.cumsum([0, *per_class])
    columns = []
    for i in range(classes):
        for j in range(i + 1, classes):
            column = np.zeros(total)
            column[starts[i] : starts[i + 1]] = coefficients[j - 1, starts[i] : starts[i + 1]]
            column[starts[j] : starts[j + 1]] = coefficients[i, starts[j] : starts[j + 1]]
            columns.append(column)
    scores = sum_product(kernel, table(call.graph, np.array(columns).T))
    scores = scores + broadcast(table(call.graph, rho.reshape(1, -1)), scores.shape)
    if classes == 2:
        scores = concatenate([scores, -scores], 1)
    return None, _transformed(call, scores)
