"""Requests with equal hashes but different batch keys, as an attacker can make them, never share a batch.

The hash is of the model, by a number that counts from 1 in a new server, and of the inputs. The dimensions here were
computed from it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import nn

from testkit import models
from testkit.server import Server
from testkit.wire import Word
from tests.conftest import StartServer

COLLIDING = (13592, 121125, 50735, 43277, 113401)  # inputs 1 x n of model 1 have the hash of an input 1 x 3 of model 2


class Five(nn.Module):
    def forward(
        self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor, e: torch.Tensor
    ) -> torch.Tensor:
        return a * 0 + 1


class Thrice(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 3


def store(server: Server, key: str, module: type[nn.Module], *options: Word) -> None:
    with server.wire() as wire:
        blob = models.torch_blob(module())
        assert wire.ask("AI.MODELSTORE", key, "TORCH", "CPU", "BATCHSIZE", 8, *options, "BLOB", blob) == b"OK"


def test_of_two_models(start_server: StartServer) -> None:
    """The first model waits for more rows; the second must not, nor be taken for it."""
    server = start_server()
    store(server, "first", Five, "MINBATCHSIZE", 2)
    store(server, "second", Thrice)
    inputs = [f"in{i}" for i in range(len(COLLIDING))]
    with server.wire() as attacker, server.wire() as wire:
        for key, size in zip(inputs, COLLIDING, strict=True):
            assert attacker.ask("AI.TENSORSET", key, "FLOAT", 1, size) == b"OK"
        attacker.send("AI.MODELEXECUTE", "first", "INPUTS", 5, *inputs, "OUTPUTS", 1, "ones")
        assert wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 3, "VALUES", 1, 2, 3) == b"OK"
        for _ in range(3):
            assert wire.ask("AI.MODELEXECUTE", "second", "INPUTS", 1, "x", "OUTPUTS", 1, "y") == b"OK"
            assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"3", b"6", b"9"]
        assert wire.ask("AI.MODELEXECUTE", "first", "INPUTS", 5, *inputs, "OUTPUTS", 1, "more") == b"OK"
        assert attacker.read() == b"OK"


def test_many_at_once(start_server: StartServer) -> None:
    server = start_server()
    store(server, "first", Five)
    store(server, "second", Thrice)
    failures: list[object] = []

    def run(words: Sequence[Word], output: str, wanted: int, size: int) -> None:
        with server.wire() as wire:
            for _ in range(30):
                reply = wire.ask(*words, "OUTPUTS", 1, output)
                values = wire.ask("AI.TENSORGET", output, "VALUES")
                if reply != b"OK" or values != [b"%d" % wanted] * size:
                    failures.append((words, reply, values[:5]))

    with server.wire() as wire:
        for i, size in enumerate(COLLIDING):
            assert wire.ask("AI.TENSORSET", f"in{i}", "FLOAT", 1, size) == b"OK"
        assert wire.ask("AI.TENSORSET", "x", "FLOAT", 1, 3, "VALUES", 1, 1, 1) == b"OK"
    first = ("AI.MODELEXECUTE", "first", "INPUTS", 5, *(f"in{i}" for i in range(5)))
    second = ("AI.MODELEXECUTE", "second", "INPUTS", 1, "x")
    threads = [threading.Thread(target=run, args=(second, f"y{i}", 3, 3)) for i in range(8)]
    threads += [threading.Thread(target=run, args=(first, f"z{i}", 1, COLLIDING[0])) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
