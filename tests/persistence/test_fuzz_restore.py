"""Damaged payloads of all types and layouts through RESTORE, their checksums made right: an error, or a value as good
as any other, which can be read, dumped, run and deleted. Files with such values: refused at start, with the key's name.

FUZZ_RESTORES=50000 tries so many payloads, SEED=7 others.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from testkit import rdb, samples
from testkit.server import Server, ServerExit, module_path
from testkit.values import Tensor, Value
from testkit.wire import Error, Wire

RESTORES = int(os.environ.get("FUZZ_RESTORES", 2000))
SEED = int(os.environ.get("SEED", 1))

VALUES: dict[str, Value] = {
    "FLOAT": samples.TENSORS["FLOAT"],
    "STRING": samples.TENSORS["STRING"],
    "any bytes": samples.TENSORS["any bytes"],
    "BOOL": samples.TENSORS["BOOL"],
    "large": samples.TENSORS["large"],
    "rank 0": Tensor("INT64", (), bytes(8)),
    "empty": Tensor("DOUBLE", (3, 0, 2), b""),
    "onnx": samples.ONNX,
    "torch": samples.TORCH,
    "batched": samples.BATCHED,
    "tf": samples.TF,
    "script": samples.SCRIPTS["script"],
    "old script": samples.SCRIPTS["old script"],
}
NUMBERS = (0, 1, 2, 3, 7, 255, 2**31, 2**32, 2**32 + 1, 2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
BYTES = (b"", b"\0", b"a", b"a\0", b"CPU\0", b"GPU:99\0", b"\xff" * 8, b"x" * 300, b"a\0b\0")

Change = Callable[[random.Random, Value, int], bytes]


def body_of(value: Value, version: int) -> bytes:
    return rdb.dump(value, version)[:-10]


def flipped(chance: random.Random, value: Value, version: int) -> bytes:
    """Some bits are others, most of them where the fields are and not in a blob."""
    body = bytearray(body_of(value, version))
    end = len(body) if chance.random() < 0.3 else min(len(body), 120)
    for _ in range(chance.choice((1, 1, 2, 3, 10))):
        body[chance.randrange(min(10, end - 1), end)] ^= 1 << chance.randrange(8)
    return rdb.seal(bytes(body))


def truncated(chance: random.Random, value: Value, version: int) -> bytes:
    body = body_of(value, version)
    return rdb.seal(body[: chance.randrange(1, len(body))])


def spliced(chance: random.Random, value: Value, version: int) -> bytes:
    """The beginning of one and the end of another."""
    body, other = body_of(value, version), body_of(chance.choice(list(VALUES.values())), chance.choice(rdb.VERSIONS))
    return rdb.seal(body[: chance.randrange(1, len(body))] + other[chance.randrange(1, len(other)) :])


def other_fields(chance: random.Random, value: Value, version: int) -> bytes:
    """The container is whole, so all that is wrong is ours to find."""
    type_name, fields = rdb.fields_of(value, version)
    fields = list(fields)
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(fields)) if fields else 0
        how = chance.choice(("number", "number", "bytes", "drop", "double", "swap", "cut", "near"))
        if not fields or how == "double":
            fields.insert(at, chance.choice(fields or [0]))
        elif how == "number":
            fields[at] = chance.choice(NUMBERS)
        elif how == "near" and isinstance(field := fields[at], int):
            fields[at] = field + chance.choice((-1, 1))
        elif how == "near" and isinstance(field := fields[at], bytes):
            fields[at] = chance.choice((field[:-1], field + b"\0", field[1:], field.replace(b"\0", b"\1")))
        elif how == "bytes":
            fields[at] = chance.choice(BYTES)
        elif how == "drop":
            del fields[at]
        elif how == "swap":
            other = chance.randrange(len(fields))
            fields[at], fields[other] = fields[other], fields[at]
        else:
            del fields[at:]
    return rdb.dump_fields(type_name, version, fields)


def other_version(chance: random.Random, value: Value, version: int) -> bytes:
    """The fields of one layout, said to be of another, or of another type."""
    type_name, fields = rdb.fields_of(value, version)
    if chance.random() < 0.3:
        type_name = chance.choice((rdb.TENSOR_TYPE, rdb.MODEL_TYPE, rdb.SCRIPT_TYPE))
    return rdb.dump_fields(type_name, chance.choice((*rdb.VERSIONS, 5, 1023)), fields)


CHANGES: tuple[Change, ...] = (flipped, truncated, spliced, other_fields, other_fields, other_version)


def damaged(chance: random.Random) -> bytes:
    return chance.choice(CHANGES)(chance, chance.choice(list(VALUES.values())), chance.choice(rdb.VERSIONS))


def use(wire: Wire, key: str) -> None:
    """Everything that can be done with a value gets one reply; none but runs may fail."""
    kind = wire.ask("TYPE", key)
    payload = wire.ask("DUMP", key)
    assert wire.ask("RESTORE", "again", 0, payload, "REPLACE") == b"OK"
    if kind != b"AI__MODEL":  # once compiled, it names its inputs and outputs itself
        assert wire.ask("DUMP", "again") == payload
    assert wire.ask("DEBUG", "DIGEST-VALUE", key, "again") == wire.ask("DEBUG", "DIGEST-VALUE", "again", key)
    assert wire.ask("COPY", key, "again", "REPLACE") == 1
    assert 0 < wire.ask("MEMORY", "USAGE", key) < 1 << 24
    if kind == b"AI_TENSOR":
        dtype, shape = wire.ask("AI.TENSORGET", key, "META")[1::2]
        values = wire.ask("AI.TENSORGET", key, "VALUES")
        blob = wire.ask("AI.TENSORGET", key, "BLOB")
        if isinstance(blob, Error):  # what damage has made of its strings has a NUL inside
            assert wire.ask("AI.TENSORSET", "again", dtype, len(values), "RAW", *values) == b"OK"
            assert wire.ask("AI.TENSORGET", "again", "RAW") == values
        elif blob and b"BOOL" not in dtype:  # a BOOL's bytes may be anything in what was saved long ago
            assert wire.ask("AI.TENSORSET", "again", dtype, len(values), "BLOB", blob) == b"OK"
        assert 0 <= len(shape) < 1 << 20
        run(wire, "AI.MODELEXECUTE", "sound", "INPUTS", 2, key, key, "OUTPUTS", 1, "out")
    elif kind == b"AI__MODEL":
        meta = wire.ask("AI.MODELGET", key, "META", "BLOB")
        assert len(meta) == 18
        timeout = ("TIMEOUT", 1) if meta[9] else ()  # it may say that it waits for a batch, for ever
        run(wire, "AI.MODELEXECUTE", key, "INPUTS", 2, "x", "x", "OUTPUTS", 1, "out", *timeout)
        assert isinstance(wire.ask("AI.INFO", key), list)
    else:
        assert kind == b"AI_SCRIPT"
        points = wire.ask("AI.SCRIPTGET", key)[5]
        assert isinstance(points, list)
        run(wire, "AI.SCRIPTEXECUTE", key, *(points[:1] or ["add"]), "INPUTS", 2, "x", "x", "OUTPUTS", 1, "out")
    assert wire.ask("DEL", key, "again") == 2


def run(wire: Wire, *words: str | int | bytes) -> None:
    reply = wire.ask(*words)
    assert reply in (b"OK", b"TIMEDOUT") or isinstance(reply, Error), (words, reply)
    assert not isinstance(reply, Error) or reply.startswith(("ERR ", "WRONGTYPE ")), (words, reply)


@pytest.mark.timeout(60 + RESTORES // 20)
def test_damaged_payloads(server: Server, wire: Wire) -> None:
    print(f"SEED={SEED} FUZZ_RESTORES={RESTORES}")
    chance, taken = random.Random(SEED), 0
    samples.restore(wire, "sound", samples.ONNX)
    samples.store_tensor(wire, "x", Tensor("FLOAT", (1, 2), bytes(8)))
    for number in range(RESTORES):
        payload = damaged(chance)
        try:
            reply = wire.ask("RESTORE", "k", 0, payload)
            if isinstance(reply, Error):
                assert reply == "ERR Bad data format", reply
                assert wire.ask("EXISTS", "k") == 0
                continue
            taken += 1
            use(wire, "k")
        except (AssertionError, ConnectionError) as error:
            raise AssertionError(f"payload {number}: {payload[:1000]!r}") from error
    print(f"{taken} of {RESTORES} were values")
    assert wire.ask("PING") == b"PONG", "one reply to each"
    samples.check_run(wire, "sound")


def test_a_wrong_checksum_is_refused_by_redis(wire: Wire) -> None:
    payload = bytearray(rdb.dump(samples.ONNX, 4))
    payload[len(payload) // 2] ^= 1
    assert wire.ask("RESTORE", "k", 0, bytes(payload)) == "ERR DUMP payload version or checksum are wrong"


# Places of numbers that cannot be as large as that.
BROKEN = {"FLOAT": (0, 1, 2), "STRING": (0, 1, 2), "onnx": (0, 6), "script": (3,)}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_with_a_damaged_value_is_refused_at_start(tmp_path: Path, name: str) -> None:
    """The log names the key, and the process ends by itself, not by a signal."""
    print(f"SEED={SEED}")
    chance = random.Random(f"{SEED}{name}")
    type_name, fields = rdb.fields_of(VALUES[name], 4)
    double_type, double_fields = rdb.fields_of(samples.TENSORS["DOUBLE"], 4)
    good = rdb.module_value(double_type, 4, double_fields)
    for attempt in range(3):
        broken = list(fields)
        at = chance.choice(BROKEN[name])
        broken[at] = 2**62 + chance.randrange(100)
        if attempt == 2:
            broken = broken[:at]
        folder = tmp_path / str(attempt)
        folder.mkdir()
        values = {"sound": good, "the broken one": rdb.module_value(type_name, 4, broken), "other": good}
        (folder / "dump.rdb").write_bytes(rdb.rdb_file(values))
        server = Server(folder, module=module_path())
        with pytest.raises(ServerExit):
            server.start()
        assert server.process and server.process.returncode >= 0  # of the check of the file that Redis does then
        assert "crashed by signal" not in server.log()
        assert "of key 'the broken one'" in server.log()
