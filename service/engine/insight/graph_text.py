"""A computation as text: straight-line code, and drawings in the languages of Graphviz and Mermaid.

The code has a line for each operation, `%7 = matmul(%3, %5)   # hidden, pre-activation`: a name, the operation with the
names of its inputs and its attributes by their names, and a comment. `docs/graph.md` explains the notation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from service.engine.arrays import Array
from service.engine.insight.graph_view import BACKWARD, View, ViewVertex
from service.engine.texts import Tell, short

COMMENT_COLUMN = 44
LONGEST_LABEL = 60
"""Characters of a label in a drawing."""


def label_of(vertex: ViewVertex, tell: Tell) -> str:
    """Return the roles of a vertex in words, such as "output of layer hidden"; empty where it has none."""
    return "; ".join(label if isinstance(label, str) else tell(label) for label in vertex.labels)


def code(view: View, tell: Tell) -> str:
    """Return straight-line code of a view: a line for each vertex, which uses only names of earlier lines."""
    return "".join(f"{line}\n" for line in _lines(view.vertices, tell))


def _lines(vertices: Sequence[ViewVertex], tell: Tell) -> list[str]:
    lines = []
    for vertex in vertices:
        arguments = [*vertex.inputs, *(f"{name}={value!r}" for name, value in vertex.attributes.items())]
        line = f"{vertex.name} = {vertex.operation}({', '.join(arguments)})"
        label = label_of(vertex, tell)
        if not label and vertex.layer is not None:
            label = vertex.layer
        lines.append(f"{line:<{COMMENT_COLUMN}} # {_one_line(label)}" if label else line)
    return lines


def _one_line(text: str) -> str:
    return " ".join(text.split())


def dot(view: View, values: Mapping[str, Array], tell: Tell) -> str:
    """Return a drawing in Graphviz's language: a box for each layer and pass, with dashed arrows for adjoints."""
    lines = ["digraph computation {", "  rankdir=LR;", "  node [shape=box, style=rounded];"]
    identities = _identities(view)
    for place, (group, vertices) in enumerate(_groups(view)):
        indent = "  "
        if group is not None:
            lines += [f"  subgraph cluster_{place} {{", f"    label={_quoted(group)};"]
            indent = "    "
        for vertex in vertices:
            style = ', style="rounded,dashed"' if vertex.phase == BACKWARD else ""
            label = _quoted("\n".join(_label_lines(vertex, values, tell)))
            lines.append(f"{indent}{identities[vertex.name]} [label={label}{style}];")
        if group is not None:
            lines.append("  }")
    for vertex in view.vertices:
        style = " [style=dashed]" if vertex.phase == BACKWARD else ""
        lines += [f"  {identities[source]} -> {identities[vertex.name]}{style};" for source in vertex.inputs]
        if vertex.serves is not None:
            serves = f"{identities[vertex.serves]} -> {identities[vertex.name]}"
            lines.append(f"  {serves} [style=dotted, arrowhead=none, constraint=false];")
    return "\n".join([*lines, "}", ""])


def mermaid(view: View, values: Mapping[str, Array], tell: Tell) -> str:
    """Return a flowchart in Mermaid's language, with the same boxes and arrows as `dot`."""
    lines = ["flowchart LR"]
    identities = _identities(view)
    for place, (group, vertices) in enumerate(_groups(view)):
        indent = "  "
        if group is not None:
            lines.append(f'  subgraph g{place}["{_escaped(group)}"]')
            indent = "    "
        for vertex in vertices:
            label = "<br>".join(map(_escaped, _label_lines(vertex, values, tell)))
            lines.append(f'{indent}{identities[vertex.name]}["{label}"]')
        if group is not None:
            lines.append("  end")
    for vertex in view.vertices:
        arrow = "-.->" if vertex.phase == BACKWARD else "-->"
        lines += [f"  {identities[source]} {arrow} {identities[vertex.name]}" for source in vertex.inputs]
    backward = [identities[vertex.name] for vertex in view.vertices if vertex.phase == BACKWARD]
    if backward:
        lines += ["  classDef backward stroke-dasharray: 4 3", f"  class {','.join(backward)} backward"]
    return "\n".join([*lines, ""])


def _identities(view: View) -> dict[str, str]:
    """Return for each vertex a name that both drawing languages take without quotation marks."""
    return {vertex.name: f"n{place}" for place, vertex in enumerate(view.vertices)}


def _groups(view: View) -> list[tuple[str | None, list[ViewVertex]]]:
    """Return the vertices grouped by layer and pass, each group with its title, to draw boxes around them. In a view by
    layers each vertex is a box already, so there are no groups."""
    if view.detail == "layers":
        return [(None, view.vertices)]

    def group(vertex: ViewVertex) -> str | None:
        return None if vertex.layer is None else f"{vertex.layer}{' ∂' if vertex.phase == BACKWARD else ''}"

    together: dict[str | None, list[ViewVertex]] = {}
    for key, vertices in groupby(view.vertices, group):
        together.setdefault(key, []).extend(vertices)
    return list(together.items())


def _label_lines(vertex: ViewVertex, values: Mapping[str, Array], tell: Tell) -> list[str]:
    """Return the lines inside the box of a vertex: name and operation, label, shape or value."""
    given = vertex.attributes.get("name")
    lines = [f"{vertex.name} {vertex.operation}" + (f" {given}" if isinstance(given, str) else "")]
    label = _one_line(label_of(vertex, tell))
    if label:
        lines.append(label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…")
    value = values.get(vertex.name)
    if value is not None and value.size == 1:
        lines.append(short(float(value.item())))
    elif vertex.shape:
        lines.append("×".join(map(str, vertex.shape)))
    return lines


def _quoted(text: str) -> str:
    """Return a text as a string in Graphviz's language."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{plain}"'


def _escaped(text: str) -> str:
    """Return a text as Mermaid takes it within quotation marks, where `#` begins an entity and `<` a tag."""
    special = {"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "&": "#amp;", "`": "#96;"}
    return "".join(special.get(character, character) for character in text)
