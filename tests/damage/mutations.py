"""Ways to damage a model file: its bytes, or the fields of the messages in it.

Everything is drawn from one `random.Random`, so that a seed gives the same file again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import ModelProto

#: Where sizes, counts, offsets and types go wrong.
_NUMBERS = (0, 1, -1, 2, 3, 7, 8, 127, 255, 2**16, 2**31 - 1, 2**31, 2**32, 10**12, 2**62)
_EXTREME = (2**63 - 1, -(2**63))
_TEXTS = ("", "x", "../../etc/passwd", "\x1b[31m", "\u202e", "a" * 300, "n\n", "%s", "/dev/zero")
_OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain})


def mutate(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """A damaged copy of the file `data`; parts of `others` may be in it."""
    if rng.random() < 0.35:
        return _bytes(data, others, rng)
    model = ModelProto()
    try:
        model.ParseFromString(data)
        for _ in range(rng.choice((1, 1, 1, 2, 3, 5, 10))):
            _field(model, rng)
        return model.SerializeToString()
    except (DecodeError, ValueError):  # what protobuf itself refuses to hold
        return _bytes(data, others, rng)


# -- bytes ---------------------------------------------------------------------------------------


def _bytes(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        if not damaged:
            break
        rng.choice(_ON_BYTES)(damaged, others, rng)
    return bytes(damaged)


def _place(data: bytearray, rng: random.Random) -> int:
    """Mostly in what is no weight: at the ends, where the structure is."""
    near = min(len(data), 4096)
    if rng.random() < 0.7:
        at = rng.randrange(near)
        return at if rng.random() < 0.5 else len(data) - 1 - at
    return rng.randrange(len(data))


def _flip(data: bytearray, _: Sequence[bytes], rng: random.Random) -> None:
    data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _set(data: bytearray, _: Sequence[bytes], rng: random.Random) -> None:
    data[_place(data, rng)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))


def _truncate(data: bytearray, _: Sequence[bytes], rng: random.Random) -> None:
    del data[_place(data, rng) :]


def _cut(data: bytearray, _: Sequence[bytes], rng: random.Random) -> None:
    at = _place(data, rng)
    del data[at : at + rng.randrange(1, 64)]


def _repeat(data: bytearray, _: Sequence[bytes], rng: random.Random) -> None:
    at = _place(data, rng)
    data[at:at] = data[at : at + rng.randrange(1, 256)] * rng.randrange(1, 8)


def _splice(data: bytearray, others: Sequence[bytes], rng: random.Random) -> None:
    other = rng.choice(others) if others else bytes(data)
    at, start = _place(data, rng), rng.randrange(len(other))
    data[at : at + 64] = other[start : start + rng.randrange(1, 512)]


_ON_BYTES: tuple[Callable[[bytearray, Sequence[bytes], random.Random], None], ...] = (
    *(_flip, _flip, _set, _truncate, _cut, _repeat, _splice),
)

# -- fields --------------------------------------------------------------------------------------


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for each in value if field.is_repeated else (value,):
                yield from _messages(each)


def _field(model: ModelProto, rng: random.Random) -> None:
    """Change one field of one message in `model`."""
    found = list(_messages(model))
    message = rng.choice(found)
    fields = message.DESCRIPTOR.fields if rng.random() < 0.15 else None
    field = rng.choice(fields or [f for f, _ in message.ListFields()] or message.DESCRIPTOR.fields)
    if field.is_repeated:
        _repeated(message, field, found, rng)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        if rng.random() < 0.5:
            message.ClearField(field.name)
        else:
            _copy(getattr(message, field.name), found, rng)
    elif rng.random() < 0.15:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _value(field, getattr(message, field.name), found, rng))


def _repeated(
    message: Message, field: FieldDescriptor, found: Sequence[Message], rng: random.Random
) -> None:
    values = getattr(message, field.name)
    what = rng.choice(("remove", "double", "swap", "change", "change", "reverse", "add"))
    at = rng.randrange(len(values)) if len(values) else 0
    composite = field.type == FieldDescriptor.TYPE_MESSAGE
    if what == "add" or not len(values):
        if composite:
            _copy(values.add(), found, rng)
        else:
            values.append(_value(field, field.default_value or _zero(field), found, rng))
    elif what == "remove":
        del values[at]
    elif what == "double":
        values.extend([values[at]] * rng.choice((1, 1, 2, 50)))
    elif what == "change" and not composite:
        values[at] = _value(field, values[at], found, rng)
    elif what == "change":
        _copy(values[at], found, rng)
    else:
        order = list(values)
        if what == "reverse":
            order.reverse()
        else:
            other = rng.randrange(len(order))
            order[at], order[other] = order[other], order[at]
        copies = [_copied(each) for each in order] if composite else order
        del values[:]
        values.extend(copies)


def _copied(message: Message) -> Message:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _copy(into: Message, found: Sequence[Message], rng: random.Random) -> None:
    """Make a message equal to another of its kind, if that is not around it."""
    same = [each for each in found if each.DESCRIPTOR is into.DESCRIPTOR]
    if same:
        into.CopyFrom(_copied(rng.choice(same)))


def _zero(field: FieldDescriptor) -> Any:
    zeros = {FieldDescriptor.TYPE_STRING: "", FieldDescriptor.TYPE_BYTES: b""}
    return zeros.get(field.type, 0)


def _value(field: FieldDescriptor, old: Any, found: Sequence[Message], rng: random.Random) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        if field.name == "op_type":
            return rng.choice(_OPERATORS)
        return rng.choice((*_TEXTS, *_strings(found, rng)))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rng.choice((b"", old[:-1], old + b"\0", old[:8], b"\xff" * len(old[:4096])))
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return rng.choice((0.0, -1.0, 1e30, float("nan"), float("inf"), rng.gauss(0, 1)))
    if field.type == FieldDescriptor.TYPE_ENUM:
        return rng.choice([each.number for each in field.enum_type.values])
    if field.name in ("data_type", "elem_type"):
        return rng.randrange(0, 30)
    wide = field.type in (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64)
    number = int(rng.choice((*_NUMBERS, *(_EXTREME if wide else ()), old + 1, old - 1, 2 * old)))
    if field.type == FieldDescriptor.TYPE_UINT64:
        return number % 2**64
    return number if wide else (number + 2**31) % 2**32 - 2**31


def _strings(found: Sequence[Message], rng: random.Random) -> list[str]:
    """Names that stand elsewhere in the model."""
    texts: list[str] = []
    for message in rng.sample(list(found), min(8, len(found))):
        for field, value in message.ListFields():
            if field.type == FieldDescriptor.TYPE_STRING:
                texts += list(value) if field.is_repeated else [value]
    return texts
