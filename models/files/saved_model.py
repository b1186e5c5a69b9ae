"""The Keras 2 model that a SavedModel folder describes: `keras_metadata.pb`, a protobuf of JSON, read without TensorFlow's loader."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from models.errors import ExportRefused

_MODELS = ("_tf_keras_network", "_tf_keras_sequential")


def description_of(path: Path) -> dict[str, Any]:
    """`class_name` and `config` of the model in the folder `path`; raises ExportRefused where its layers are not told."""
    file = path / "keras_metadata.pb"
    if not file.is_file():
        raise ExportRefused(
            f"{path} is a SavedModel without the layers of a Keras model (from tf.saved_model.save or model.export); save the model "
            "with model.save('model.keras'), or convert it (python -m tf2onnx.convert --saved-model …) and give the graph with --from-onnx"
        )
    metadata = _message()()
    try:
        metadata.ParseFromString(file.read_bytes())
        root = next((node for node in metadata.nodes if node.node_path == "root"), None)
        said = {} if root is None else json.loads(root.metadata)
    except (DecodeError, ValueError):
        raise ExportRefused(f"{file} is damaged; copy the folder again, or save the model again") from None
    if root is None or root.identifier not in _MODELS:
        what = (
            "no Keras model"
            if root is None
            else f"a subclassed model ({said.get('class_name')}), whose layers only its code knows"
        )
        raise ExportRefused(
            f"{path} is {what}; rebuild it as a functional keras.Model and save that with model.save('model.keras')"
        )
    return {"class_name": said["class_name"], "config": said["config"]}


@cache
def _message() -> Any:
    """Keras 2's SavedMetadata, as far as it is read here."""
    text = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
    one, many = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL, descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    file = descriptor_pb2.FileDescriptorProto(name="marey/keras_metadata.proto", package="marey", syntax="proto3")
    node = file.message_type.add(name="SavedObject")
    for number, name in ((3, "node_path"), (4, "identifier"), (5, "metadata")):
        node.field.add(name=name, number=number, type=text, label=one)
    nodes = file.message_type.add(name="SavedMetadata")
    kind = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
    nodes.field.add(name="nodes", number=1, type=kind, type_name=".marey.SavedObject", label=many)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("marey.SavedMetadata"))
