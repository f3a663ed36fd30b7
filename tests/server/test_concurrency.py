"""Many clients doing everything at once: the server lives, every command has its reply, memory comes back."""

from __future__ import annotations

import os
import random
import threading

from testkit import models
from testkit.server import Server
from testkit.waiting import wait_for
from testkit.wire import Error, Wire, Word

SEED = int(os.environ.get("SEED", random.SystemRandom().randrange(1 << 32)))
CLIENTS = 8
COMMANDS = 300
# What other clients can bring about in the middle of things; anything else is a fault.
EXPECTED = (
    "ERR model key is empty",
    "ERR tensor key is empty or in a different shard",
    "ERR cannot find run info for key",
    "ERR no such key",
    "ERR Number of keys given as OUTPUTS here does not match model definition",
    "WRONGTYPE ",
    "EXECABORT ",
)


def command(chance: random.Random) -> list[Word]:
    tensor, output, model = chance.choice("abc"), chance.choice("abcy"), chance.choice("mn")
    run: list[Word] = ["AI.MODELEXECUTE", model, "INPUTS", 2, tensor, chance.choice("abc"), "OUTPUTS", 1, output]
    choices: list[list[Word]] = [
        ["AI.TENSORSET", tensor, "FLOAT", 1, 2, "VALUES", 1, 2],
        ["AI.TENSORGET", tensor, chance.choice(["META", "VALUES", "BLOB"])],
        ["AI.MODELSTORE", model, "ONNX", chance.choice(["CPU", "CPU:1"]), "BLOB", models.onnx_add()],
        ["AI.MODELSTORE", model, "TORCH", "CPU", "BLOB", models.torch_module(models.Add)],
        ["AI.MODELGET", model],
        ["AI._MODELSCAN"],
        ["AI.INFO", model],
        ["AI.INFO", model, "RESETSTAT"],
        ["INFO", "MODULES"],
        ["DEL", chance.choice("abymn")],
        ["RENAME", "m", "n"],
        ["SET", output, "x"],
    ]
    runs: list[list[Word]] = [
        run,
        [*run, "TIMEOUT", chance.choice([1, 2, 50])],
        ["AI.MODELRUN", model, "INPUTS", tensor, tensor, "OUTPUTS", "y"],
    ]
    return chance.choice(runs if chance.random() < 0.5 else choices)


def client(server: Server, number: int, faults: list[str]) -> None:
    chance = random.Random(f"{SEED} {number}")
    wire = server.wire()
    try:
        sent = 0
        while sent < COMMANDS:
            batch = [command(chance) for _ in range(chance.randrange(1, 6))]
            for words in batch:
                wire.send(*words)
            sent += len(batch)
            if chance.random() < 0.05:
                wire.abort()
                wire = server.wire()
                continue
            for words in batch:
                reply = wire.read()
                if isinstance(reply, Error) and not reply.startswith(EXPECTED):
                    faults.append(f"{words[:3]}: {reply}")
            if wire.ask("ECHO", b"%d" % sent) != b"%d" % sent:
                faults.append("lost step")
                return
    except Exception as error:
        faults.append(f"{number}: {error!r}")
    finally:
        wire.close()


def test_everything_at_once(server: Server, wire: Wire) -> None:
    print(f"SEED={SEED}")
    wire.ask("AI.MODELSTORE", "m", "TORCH", "CPU", "BLOB", models.torch_module(models.Add))
    wire.ask("AI.MODELSTORE", "m", "ONNX", "CPU:1", "BLOB", models.onnx_add())
    wire.ask("FLUSHALL")
    before = server.used_memory()
    faults: list[str] = []
    threads = [threading.Thread(target=client, args=(server, number, faults)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
        assert not thread.is_alive(), "a command had no reply"
    assert faults == []
    wire.ask("FLUSHALL")
    wait_for(lambda: server.used_memory() < before + (1 << 20), what="memory comes back")
