"""Names for content: the same cells, the same digest, however they are stored or cut."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa

from mmtab.data.spelling import is_bytes, is_text


class Digest:
    """A digest of a column that comes in pieces, the same however it was cut.

    string and large_string are one type, as are binary and large_binary, list and large_list, a dictionary and its
    values; a piece of type null is missing cells of whatever type the column has.
    """

    def __init__(self) -> None:
        self._n_rows = 0
        self._type: str | None = None  # unknown until a piece has one
        self._nulls, self._lengths, self._data = (hashlib.blake2b(digest_size=16) for _ in range(3))
        self._children: list[Digest] = []  # fields of a struct, items of a list

    def add(self, values: pa.Array) -> None:
        """The next rows. Raises TypeError where they are of another type than those before, or of one that has no
        digest (unions, maps, views of lists)."""
        values = _plain(values)
        valid = None
        if values.null_count:
            valid = values.is_valid().to_numpy(zero_copy_only=False)
            self._nulls.update((np.flatnonzero(~valid) + self._n_rows).data)
        if not pa.types.is_null(values.type):
            self._take_type(values.type)
            self._add_content(values, valid)
        self._n_rows += len(values)

    def hexdigest(self) -> str:
        """Of the rows so far, 32 hexadecimal digits."""
        self._catch_up()
        parts = [self._nulls.hexdigest(), self._lengths.hexdigest(), self._data.hexdigest()]
        content = [self._type, self._n_rows, *parts, *(child.hexdigest() for child in self._children)]
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()

    def _take_type(self, found: pa.DataType) -> None:
        kind = _type_of(found)
        if self._type is None:
            self._type, self._children = kind, [Digest() for _ in range(found.num_fields)]
        elif self._type != kind:
            raise TypeError(f"a column of one type has one digest: expected {self._type}, found {kind}")

    def _add_content(self, values: pa.Array, valid: np.ndarray | None) -> None:
        """``valid``: [n] bool, or None where all are. What lies beneath missing cells is undefined: it is left out."""
        if pa.types.is_struct(values.type):
            self._catch_up()
            for child, part in zip(self._children, values.flatten(), strict=True):  # null where the struct is
                child.add(part)
        elif self._type == "list":
            if pa.types.is_fixed_size_list(values.type):
                lengths = np.full(len(values), values.type.list_size)
            else:
                lengths = np.diff(values.offsets.to_numpy())
            self._add_lengths(lengths, valid)
            self._children[0].add(values.flatten())  # without the items of missing lists
        elif not len(values):  # and perhaps no buffers
            return
        elif self._type in ("string", "binary"):
            wide = pa.types.is_large_string(values.type) or pa.types.is_large_binary(values.type)
            _, ends, content = values.buffers()
            offsets = np.frombuffer(ends, np.int64 if wide else np.int32)[values.offset :][: len(values) + 1]
            lengths = np.diff(offsets)
            if valid is not None and lengths[~valid].any():
                return self._add_content(values.drop_null(), None)
            self._add_lengths(lengths, valid)
            if content is not None:
                self._data.update(memoryview(content)[int(offsets[0]) : int(offsets[-1])])
        elif valid is not None:
            self._add_content(values.drop_null(), None)
        else:
            values = values.cast(pa.uint8()) if self._type == "bool" else values
            width = values.type.bit_width // 8
            start = values.offset * width
            self._data.update(memoryview(values.buffers()[1])[start : start + len(values) * width])

    def _add_lengths(self, lengths: np.ndarray, valid: np.ndarray | None) -> None:
        self._lengths.update((lengths if valid is None else lengths[valid]).astype(np.int64, copy=False).data)

    def _catch_up(self) -> None:
        """The fields of a struct have as many rows as it has: they lack those of pieces of type null."""
        if self._type is not None and self._type.startswith("struct"):
            for child in self._children:
                child.add(pa.nulls(self._n_rows - child._n_rows))


def digest_of(values: pa.Array | np.ndarray | str) -> str:
    """A digest of content: of an Arrow array as ``Digest``, of a numpy array or a text its bytes."""
    if isinstance(values, str):
        return hashlib.blake2b(values.encode(), digest_size=16).hexdigest()
    if isinstance(values, np.ndarray):
        content = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        return hashlib.blake2b(content, digest_size=16).hexdigest()
    digest = Digest()
    digest.add(values)
    return digest.hexdigest()


def _plain(values: pa.Array) -> pa.Array:
    """Without what is only another way to store the same values."""
    if isinstance(values, pa.ExtensionArray):
        return _plain(values.storage)
    if pa.types.is_dictionary(values.type):
        return _plain(values.dictionary_decode())
    if pa.types.is_string_view(values.type):
        return values.cast(pa.large_string())
    if pa.types.is_binary_view(values.type):
        return values.cast(pa.large_binary())
    return values


def _type_of(found: pa.DataType) -> str:
    """A name that is the same for types of the same content."""
    if is_text(found):
        return "string"
    if is_bytes(found):
        return "binary"
    if pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found):
        return "list"
    if pa.types.is_struct(found):
        return f"struct {[found.field(i).name for i in range(found.num_fields)]}"
    if pa.types.is_primitive(found) or pa.types.is_decimal(found) or pa.types.is_fixed_size_binary(found):
        return str(found)
    raise TypeError(f"no digest of type {found}")
