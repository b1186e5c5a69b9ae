"""Files that are no Keras model: what each is, by its content, and what to do."""

from __future__ import annotations

from pathlib import Path

SAVE = "save the model itself with model.save('model.keras')"
FROM_ONNX = "export it to ONNX where it was trained and give that with --from-onnx"
_PICKLES = range(2, 6)  # the versions of Python's pickle protocol that start with a mark of their own
_LONGEST_HEADER = 1 << 28  # of safetensors, whose file starts with its header's length
# Content by its first bytes; the offset, the bytes, what it is, and what to do.
_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (4, b"TFL3", "a TensorFlow Lite model, already converted for inference", "give the Keras model that it was made from"),
    (0, b"version https://git-lfs", "a Git LFS pointer and not the file itself", "fetch it with git lfs pull"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (0, b"BZh", "a bzip2 archive", "unpack it first"),
    (0, b"\xfd7zXZ", "an xz archive", "unpack it first"),
    (0, b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (257, b"ustar", "a tar archive", "unpack it first"),
    (0, b"\x93NUMPY", "a NumPy array", SAVE),
    (0, b"\x80\x8a\x0a", "a PyTorch file", FROM_ONNX),  # the pickled long that torch's old format starts with
    (0, b"<!DOCTYPE", "a web page, as a failed download leaves it", "download the file again"),
    (0, b"<html", "a web page, as a failed download leaves it", "download the file again"),
)  # fmt: skip


def stranger(path: Path, head: bytes) -> str:
    """One sentence on a file that holds no model and starts with `head`. Nothing of it is run."""
    if not head:
        return f"{path} is empty; save the model again"
    for offset, magic, what, remedy in _MAGIC:
        if head[offset:].startswith(magic):
            return f"{path} is {what}; {remedy}"
    return (
        _of_tensorflow(path)
        or _of_others(path, head)
        or f"{path} is no model that Marey knows (it starts with {head[:8]!r}); give a .keras or .h5 file or a SavedModel folder"
    )


def checkpoint(path: Path) -> str:
    return f"{path} is a TensorFlow checkpoint, which holds weights and no layers; load it in the code that made it and {SAVE}"


def _of_tensorflow(path: Path) -> str | None:
    if path.name == "saved_model.pb":
        return f"{path} is part of a SavedModel; give its folder {path.parent}"
    if path.suffix == ".pb":
        return f"{path} is a frozen TensorFlow graph; convert it with tf2onnx and give that with --from-onnx"
    if path.suffix == ".index" or ".data-" in path.name:
        return checkpoint(path)
    return None


def _of_others(path: Path, head: bytes) -> str | None:
    if head[:1] == b"\x80" and head[1] in _PICKLES:
        return f"{path} is a Python pickle, which runs code when it is read and is never opened; load it where it was made and {SAVE}"
    if _is_onnx(path):
        return f"{path} is an ONNX graph; give it with --from-onnx {path}"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _LONGEST_HEADER:
        return f"{path} is a safetensors file, which holds weights and no layers; {FROM_ONNX}"
    if head.lstrip()[:1] == b"{" and b"class_name" in head:
        return f"{path} describes layers without their weights (model.to_json); {SAVE}"
    if path.suffix == ".onnx":
        return f"{path} holds no ONNX graph, whatever its name says; copy it again, or export it again where it was trained"
    return None


def _is_onnx(path: Path) -> bool:
    """Whether `path` is an ONNX model under another name: a protobuf that parses to one with an opset and nodes."""
    import onnx  # noqa: PLC0415 -- only for files that are nothing else

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # noqa: BLE001 -- protobuf raises kinds of its own for what is none
        return False
    return bool(model.opset_import and model.graph.node)
