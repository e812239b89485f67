"""The command `nabla convert`: converts Keras models on the user's own machine to JSON and safetensors for the service.

A `.keras` file is a zip of JSON and HDF5. Only this command reads HDF5 (with h5py), and a server never does, because
corrupted files can make h5py hang. No code of a model is run, and nothing is unpickled.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from schemas.keras import Place, Read, Unreadable, read, stored
from schemas.tensor_files import dump_safetensors
from service.engine.arrays import Array

PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib")
LARGEST_DOCUMENT = 256 * 2**20


class NotConvertible(Exception):
    """The error of a file that cannot be converted. The text gives the reason and what the user can do."""


def convert(source: Path, document: Path | None, target: Path) -> list[str]:
    """Write the network to `<target>.json` and its parameters to `<target>.safetensors`. Return a text line for each.

    `document` is a file with the text of `model.to_json()`, for a source that holds only weights.

    Raises `NotConvertible`.
    """
    text, weights = _contents(source, document)
    try:
        found = read(text)
    except Unreadable as error:
        told = "".join(f"\n  {detail}" for _, detail in error.faults)
        raise NotConvertible(f"{source.name} cannot be computed here:{told}") from None
    arrays = {} if weights is None else _parameters(found, weights)
    network = target.with_name(f"{target.name}.json")
    network.write_text(json.dumps(found.network, indent=1, ensure_ascii=False) + "\n")
    lines = [f"{network}: the network, {len(found.network['layers'])} layers"]
    if weights is None:
        return lines
    file = target.with_name(f"{target.name}.safetensors")
    file.write_bytes(b"".join(dump_safetensors(arrays, {"format": "np", "layout": "nabla"})))
    count = sum(array.size for array in arrays.values())
    return [*lines, f"{file}: {count:,} parameters in {len(arrays)} arrays"]


def _contents(source: Path, document: Path | None) -> tuple[str, Any]:
    """Return the JSON of a model, and its weights as an open HDF5 file.

    The weights are None where the source has none.
    """
    if not source.is_file():
        raise NotConvertible(f"there is no file {source}")
    name = source.name.lower()
    if name.endswith(PICKLES):
        raise NotConvertible(
            f"{source.name} is a pickle, which can run code and is never read. Where the model is defined, save the "
            "weights instead:\n  from safetensors.torch import save_file\n"
            f"  save_file(model.state_dict(), {str(source.with_suffix('.safetensors'))!r})\n"
            'and send them as {"safetensors": "<base64>", "layout": "pytorch"}'
        )
    if name.endswith(".json"):
        return source.read_text(), None
    if name.endswith(".keras"):
        return _from_keras(source)
    h5py = _h5py()
    try:
        opened = h5py.File(source, "r")
    except OSError as error:
        raise NotConvertible(f"{source.name} is no HDF5 file: {error}") from None
    if document is not None:
        return document.read_text(), opened
    config = opened.attrs.get("model_config")
    if config is None:
        raise NotConvertible(
            f"{source.name} holds weights alone; give the model too: nabla convert {source.name} --network model.json, "
            "where model.json is what model.to_json() gives"
        )
    return config.decode() if isinstance(config, bytes) else str(config), opened


def _from_keras(source: Path) -> tuple[str, Any]:
    """Return the JSON of the model in a `.keras` file and its weights as an HDF5 file. Raises `NotConvertible`."""
    try:
        with zipfile.ZipFile(source) as archive:
            sizes = {member.filename: member.file_size for member in archive.infolist()}
            if "config.json" not in sizes or sizes["config.json"] > LARGEST_DOCUMENT:
                raise NotConvertible(f"{source.name} has no config.json of a model")
            text = archive.read("config.json").decode()
            weights = archive.read("model.weights.h5") if "model.weights.h5" in sizes else None
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise NotConvertible(f"{source.name} is no .keras file: {error}") from None
    return text, None if weights is None else _h5py().File(io.BytesIO(weights), "r")


def _h5py() -> Any:
    """Return the module h5py. Raises `NotConvertible` where the module is not installed."""
    try:
        import h5py
    except ImportError:
        raise NotConvertible("HDF5 files need h5py: pip install 'nabla-service[convert]'") from None
    return h5py


def _parameters(found: Read, weights: Any) -> dict[str, Array]:
    """Return the parameters of all layers as arrays named `layer.parameter`."""
    take = _from_legacy if "model_weights" in weights or "layer_names" in weights.attrs else _from_groups
    arrays: dict[str, Array] = {}
    owners: dict[str, str] = {}
    for layer, place in zip(found.network["layers"], found.places, strict=True):
        if not place.first:
            continue
        for stands, parameter, array in take(weights, place):
            owner = owners.setdefault(stands, layer["name"])
            if owner != layer["name"]:  # the file stores a layer of two models once, which the JSON does not show
                layer["shares"] = owner
                continue
            arrays[f"{owner}.{parameter}"] = np.asarray(array)
        if "shares" in layer:
            for key in [key for key in layer if key.endswith("_regularizer") or key == "trainable"]:
                del layer[key]
    return arrays


# --- HDF5 files of Keras 3 -------------------------------------------------------------------------


def _from_groups(weights: Any, place: Place) -> Iterator[tuple[str, str, Any]]:
    """Yield the arrays of a layer from a Keras 3 file, each as its place in the file, its parameter and its values.

    Groups are named after the class of the layer and a number. The layer name is an attribute of the group `vars`.
    """
    wanted = list(stored(place.entry))
    if not wanted:
        return
    group = weights
    for part in place.parts:
        group = _named(group, part) or _anywhere(weights, part)
        if group is None:
            raise NotConvertible(f"{place.words}: the file has no weights of a layer called {part!r}")
    for array in wanted:
        inner = "/".join((*array.parts, "vars", str(array.position)))
        if inner not in group:
            raise NotConvertible(f"{place.words}: the file has no array {inner} for {array.parameter}")
        yield group[inner].name, array.parameter, group[inner][()]


def _anywhere(group: Any, name: str) -> Any:
    """Return the group of the layer with this name in any model of the file.

    A layer of two models is stored in the first.
    """
    for one in group.get("layers", {}).values():
        found = _named(group, name) or _anywhere(one, name)
        if found is not None:
            return found
    return None


def _named(group: Any, name: str) -> Any:
    """Return the group of the layer with this name within the group of a model. None: there is no such layer."""
    groups = group.get("layers", {})
    for one in groups.values():
        own = one["vars"].attrs.get("name") if "vars" in one else None
        if own is not None and _clean(own if isinstance(own, str) else own.decode()) == name:
            return one
    return None


def _clean(name: str) -> str:
    """Return a name with characters that this service forbids replaced by underscores."""
    return re.sub(r'[\[\]/\\"\x00-\x1f]', "_", name)


# --- HDF5 files of Keras 2 -------------------------------------------------------------------------

PARTS_OF_NAMES = {"cell": "_cell", "layer": "", "query_dense": "query", "key_dense": "key", "value_dense": "value"}
PARTS_OF_NAMES |= {"output_dense": "attention_output", "forward_layer": "forward_", "backward_layer": "backward_"}


def _from_legacy(weights: Any, place: Place) -> Iterator[tuple[str, str, Any]]:
    """Yield the arrays of a layer from a Keras 2 file, in the form that `_from_groups` yields.

    Each layer of the outer model has one group, and the names of its arrays end in the name of the variable.
    """
    wanted = list(stored(place.entry))
    if not wanted:
        return
    groups = weights.get("model_weights", weights)
    group = next((one for name, one in groups.items() if _clean(name) == place.parts[0]), None)
    if group is None:
        raise NotConvertible(f"{place.words}: the file has no group for it")
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in group.attrs.get("weight_names", ())]
    own = [name for name in names if len(place.parts) == 1 or place.parts[-1] in name.split("/")] or names
    for array in wanted:
        variable = _variable(array.parameter, place.entry)
        fitting = [name for name in own if _fits(name, variable, array.parts)]
        if len(fitting) != 1:
            raise NotConvertible(
                f"{place.words}: {len(fitting)} arrays of the file fit {array.parameter}; save the model as .keras"
            )
        yield group[fitting[0]].name, array.parameter, group[fitting[0]][()]


def _variable(parameter: str, entry: Mapping[str, Any]) -> str:
    """Return the Keras name of a parameter, without the prefix of a part of the layer.

    The part is in the path instead.
    """
    for part in ("forward_", "backward_", "query_", "key_", "value_", "attention_output_"):
        if parameter.startswith(part):
            return parameter.removeprefix(part)
    return parameter.removeprefix("moving_") if entry.get("class_name") == "Normalization" else parameter


def _fits(name: str, variable: str, parts: Sequence[str]) -> bool:
    """Return whether the path of an array ends in a variable and contains the given parts of the layer."""
    path = name.split(":")[0].split("/")
    own = "depthwise_kernel" if variable == "kernel" and path[-1] == "depthwise_kernel" else variable
    needed: Iterable[str] = (PARTS_OF_NAMES[part] for part in parts if PARTS_OF_NAMES.get(part))
    return path[-1] == own and all(
        any(step.endswith(part) or step.startswith(part) for step in path) for part in needed
    )
