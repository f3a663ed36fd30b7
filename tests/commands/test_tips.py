"""What COMMAND INFO tips clients off to: where to send commands that name no key, and which replies differ."""

from __future__ import annotations

import pytest

from testkit.metadata import COMMANDS, command_info
from testkit.wire import Wire

EVERY_SHARD = ["nondeterministic_output_order", "request_policy:all_shards"]
VARIES = ["nondeterministic_output"]
TIPS = {
    "AI._MODELSCAN": EVERY_SHARD,
    "AI._SCRIPTSCAN": EVERY_SHARD,
    "AI.CONFIG": ["request_policy:all_nodes", "response_policy:all_succeeded"],
    "AI.INFO": VARIES,
    "AI.RUNS": VARIES,
    "AI.DAGEXECUTE": VARIES,
    "AI.DAGEXECUTE_RO": VARIES,
    "AI.DAGRUN": VARIES,
    "AI.DAGRUN_RO": VARIES,
}


@pytest.mark.parametrize("name", COMMANDS)
def test_tips(wire: Wire, name: str) -> None:
    assert [tip.decode() for tip in command_info(wire, name)[7]] == TIPS.get(name, [])
