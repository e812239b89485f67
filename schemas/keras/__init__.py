"""Models of Keras, as `model.to_json()` writes them, read into networks as requests describe them.

reader      the arrangement: Sequential and functional models, nested and shared, calls with their arguments
table       one row for each Keras class: the layer type here, what its options are called here, what is refused
values      activations, initializers, regularizers and dtype policies
refusals    what cannot be read, said with the layer and the reason

Only JSON is read, and only what the tables name: no class is looked up, imported or called.
"""

from schemas.keras.reader import Place, Read, Unreadable, is_document, network_of, read
from schemas.keras.table import Stored, stored

__all__ = ["Place", "Read", "Stored", "Unreadable", "is_document", "network_of", "read", "stored"]
