"""What COMMAND INFO tips clients off to: where to send commands that name no key, and which replies differ."""

from __future__ import annotations

import pytest

from testkit.metadata import COMMANDS, command_info
from testkit.wire import Wire

EVERY_SHARD = ["nondeterministic_output_order", "request_policy:all_shards"]
VARIES = ["nondeterministic_output"]
ON_ALL = ["request_policy:all_shards", "response_policy:all_succeeded"]
TIPS = {
    "AI._MODELSCAN": EVERY_SHARD,
    "AI._SCRIPTSCAN": EVERY_SHARD,
    "AI.CONFIG": ["request_policy:all_nodes", "response_policy:all_succeeded"],
    "AI.INFO": VARIES,
    "AI.RUNS": VARIES,
    "AI.BIND": ON_ALL,
    "AI.UNBIND": ON_ALL,
    "AI.BINDRUN": ON_ALL,
    "AI.BINDLIST": ["nondeterministic_output_order"],
    "AI.BINDINFO": [*VARIES, "request_policy:all_shards", "response_policy:special"],
    "AI._BOUND": ON_ALL,
    "AI.DAGEXECUTE": VARIES,
    "AI.DAGEXECUTE_RO": VARIES,
    "AI.DAGRUN": VARIES,
    "AI.DAGRUN_RO": VARIES,
}


@pytest.mark.parametrize("name", COMMANDS)
def test_tips(wire: Wire, name: str) -> None:
    wanted = TIPS.get(name, VARIES if name.startswith("RG.") else [])
    assert [tip.decode() for tip in command_info(wire, name)[7]] == wanted
