"""A reader of Keras models: translates the JSON of `model.to_json()` into networks in the form of requests.

reader      the structure: Sequential and functional models, nested and shared, and calls with their arguments
calls       the calls of layers in the document: their tensors and arguments
operations  operations of `keras.ops` in functional models
table       one row for each Keras class: the layer type of this service, the names of its options, and restrictions
values      activations, initializers, regularizers and dtype policies
refusals    errors for anything that cannot be read, which the reader completes with the layer

Only JSON is read, and only what the tables name: no class is looked up, imported or called.
"""

from schemas.keras.reader import Place, Read, Unreadable, is_document, network_of, read
from schemas.keras.table import Stored, stored

__all__ = ["Place", "Read", "Stored", "Unreadable", "is_document", "network_of", "read", "stored"]
