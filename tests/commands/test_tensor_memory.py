"""What a tensor weighs, what deleting it gives back, and that maxmemory is heeded."""

from __future__ import annotations

from testkit.server import Client, Server
from testkit.waiting import wait_for
from testkit.wire import Wire


def test_memory_usage_counts_the_data(r: Client) -> None:
    r.execute_command("AI.TENSORSET", "t", "DOUBLE", 1000, 100)
    usage = r.memory_usage("t")
    assert usage and 800_000 <= usage < 1_000_000, "the data, and what the allocator rounds up to"


def test_deleting_and_overwriting_give_memory_back(server: Server, r: Client) -> None:
    before = server.used_memory()
    for i in range(50):
        for kind in ("FLOAT", "STRING"):
            r.execute_command("AI.TENSORSET", f"{kind}{i % 5}", kind, 100, 1000)
    r.delete("FLOAT0", "STRING0")
    r.unlink("FLOAT1", "STRING1")
    r.flushall()
    wait_for(lambda: server.used_memory() < before + (1 << 20), what="memory comes back")


def test_maxmemory_refuses_what_adds_data(r: Client, wire: Wire) -> None:
    r.config_set("maxmemory", "1")
    try:
        refused = {
            "AI.TENSORSET t FLOAT 1",
            "AI.MODELSTORE m ONNX CPU BLOB x",
            "AI.MODELSET m ONNX CPU BLOB x",
            "AI.MODELEXECUTE m INPUTS 1 a OUTPUTS 1 b",
            "AI.MODELRUN m INPUTS a OUTPUTS b",
        }
        for line in refused:
            assert wire.ask(*line.split()).startswith("OOM "), line
        assert wire.ask("AI.TENSORGET", "t") == "ERR tensor key is empty or in a different shard"
        assert wire.ask("AI._MODELSCAN") == []
    finally:
        r.config_set("maxmemory", "0")
