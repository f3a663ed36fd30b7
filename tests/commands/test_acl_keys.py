"""ACL rules hold for every key of every command, those inside DAGs too; nothing tells of what a user may not read."""

from __future__ import annotations

import re
from functools import partial

import pytest

from testkit import dags, models, scripts
from testkit.dags import OK
from testkit.server import Server, program
from testkit.users import Login
from testkit.wire import Error, Wire, Word

SECRET = b"the-secret-of-others"

# Each is allowed as it stands; in each, any one key after another is replaced by one of others, and it is refused.
# r: is read, w: is written, b: both.
COMMANDS = [
    "AI.TENSORSET w:t FLOAT 1",
    "AI.TENSORSET w:t FLOAT * FROM HASH r:h FIELDS 1 f",
    "AI.TENSORSET w:t FLOAT * FROM HASHES 2 r:h r:i FIELDS 1 f DEFAULT 0",
    "AI.TENSORSET w:t STRING FROM STRING r:text",
    "AI.TENSORGET r:x",
    "AI.MODELSTORE w:m ONNX CPU BLOB b",
    "AI.MODELSET w:m ONNX CPU BLOB b",
    "AI.MODELGET r:add META",
    "AI.MODELDEL w:gone",
    "AI.MODELEXECUTE r:add INPUTS 2 r:x r:y OUTPUTS 1 w:z",
    "AI.MODELRUN r:add INPUTS r:x r:y OUTPUTS w:z",
    "AI.MODELRUN r:add TIMEOUT 9000 INPUTS r:x r:y OUTPUTS w:z",
    "AI.SCRIPTSTORE w:s CPU ENTRY_POINTS 1 f SOURCE s",
    "AI.SCRIPTSET w:s CPU SOURCE s",
    "AI.SCRIPTGET r:s META",
    "AI.SCRIPTDEL w:gone",
    "AI.SCRIPTEXECUTE r:s add INPUTS 2 r:x r:y OUTPUTS 1 w:z",
    "AI.SCRIPTEXECUTE r:s count KEYS 2 b:k b:l INPUTS 1 r:x ARGS 1 a OUTPUTS 1 w:z",
    "AI.SCRIPTRUN r:old add INPUTS r:x r:y OUTPUTS w:z",
    "AI.INFO r:add",
    "AI.DAGEXECUTE LOAD 2 r:x r:y PERSIST 1 w:z |> AI.MODELEXECUTE r:add INPUTS 2 r:x r:y OUTPUTS 1 w:z",
    "AI.DAGEXECUTE LOAD 1 r:x |> AI.MODELEXECUTE r:add INPUTS 2 r:x r:x OUTPUTS 1 a |> AI.TENSORGET a VALUES",
    "AI.DAGEXECUTE LOAD 1 r:x |> AI.MODELEXECUTE r:add INPUTS 2 r:x r:x OUTPUTS 1 a |> "
    "AI.MODELEXECUTE r:mul INPUTS 2 a r:x OUTPUTS 1 c |> AI.SCRIPTEXECUTE r:s add INPUTS 2 a c OUTPUTS 1 d",
    "AI.DAGEXECUTE LOAD 1 r:x |> AI.SCRIPTEXECUTE r:s count KEYS 2 b:k b:l INPUTS 1 r:x OUTPUTS 1 n",
    "AI.DAGEXECUTE ROUTING r:x |> AI.TENSORSET t FLOAT 1 2 VALUES 1 2 |> "
    "AI.MODELEXECUTE r:add INPUTS 2 t t OUTPUTS 1 c",
    "AI.HASHSET w:hash f r:x AS BLOB g r:y AS BLOB",
    "AI.DAGEXECUTE LOAD 1 r:x |> AI.HASHSET w:hash f r:x AS BLOB",
    "AI.DAGEXECUTE PERSIST 1 w:t |> AI.TENSORSET w:t FLOAT * FROM HASHES 2 r:h r:i FIELDS 1 f DEFAULT 0",
    "AI.DAGEXECUTE_RO ROUTING r:h |> AI.TENSORSET t STRING FROM STRING r:text |> AI.TENSORGET t",
    "AI.DAGEXECUTE PERSIST 2 w:t w:u |> AI.TENSORSET w:t FLOAT 1 |> AI.TENSORSET w:u FLOAT 1",
    "AI.DAGEXECUTE_RO LOAD 2 r:x r:y |> AI.MODELEXECUTE r:add INPUTS 2 r:x r:y OUTPUTS 1 a |> AI.TENSORGET a",
    "AI.DAGEXECUTE_RO ROUTING r:x |> AI.TENSORSET t FLOAT 1 |> AI.TENSORGET t",
    "AI.DAGRUN LOAD 2 r:x r:y PERSIST 1 w:z |> AI.MODELRUN r:add INPUTS r:x r:y OUTPUTS w:z",
    "AI.DAGRUN LOAD 2 r:x r:y |> AI.SCRIPTRUN r:old add INPUTS r:x r:y OUTPUTS a |> AI.TENSORGET a",
    "AI.DAGRUN_RO LOAD 2 r:x r:y |> AI.MODELRUN r:add INPUTS r:x r:y OUTPUTS a |> AI.TENSORGET a",
    "AI.DAGRUN_RO LOAD 1 r:x |> AI.SCRIPTRUN r:old add INPUTS r:x r:x OUTPUTS a |> AI.TENSORGET a",
]
KEY = re.compile(r"\b([rwb]):(\w+)")
PREFIXES = {"r": "app:r:", "w": "app:w:", "b": "app:b:"}


def of_app(line: str) -> str:
    return KEY.sub(lambda found: PREFIXES[found[1]] + found[2], line)


def with_foreign(line: str, place: int) -> str:
    """The line with its place-th different key replaced, wherever it stands, by one of others."""
    kind, name = keys(line)[place]
    return of_app(re.sub(rf"\b{kind}:{name}\b", f"other:{name}", line))


def keys(line: str) -> list[tuple[str, str]]:
    return list(dict.fromkeys((found[1], found[2]) for found in KEY.finditer(line)))


def fill(wire: Wire) -> None:
    """What the commands name, for the application and for others."""
    dags.store(wire)
    wire.ask("HSET", "h", "f", 1)
    wire.ask("SET", "text", SECRET)
    for name in ("add", "mul", "s", "old", "x", "y", "h", "text"):
        for prefix in ("app:r:", "other:"):
            assert wire.ask("COPY", name, prefix + name, "REPLACE") == 1
    for prefix in ("app:w:", "other:"):
        assert wire.ask("COPY", "add", f"{prefix}gone", "REPLACE") == 1


RULES = {
    "one pattern": ("+@all", "~app:*"),
    "read and write apart": ("+@all", "%R~app:r:*", "%W~app:w:*", "~app:b:*"),
    "selectors": ("-@all", "(+@all -@write ~app:*)", "(+@all ~app:*)"),
}


def refused(reply: object) -> bool:
    return isinstance(reply, Error) and reply.startswith("NOPERM ")


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_each_key_of_each_command(login: Login, wire: Wire, rules: tuple[str, ...]) -> None:
    fill(wire)
    user = login(*rules)
    wrong = []
    for line in COMMANDS:
        if "DEL" in line and "SCRIPT" in line:
            wire.ask("COPY", "s", "app:w:gone", "REPLACE")
        reply = user.ask(*of_app(line).split())
        if refused(reply):
            wrong.append(("refused", of_app(line), reply))
    fill(wire)
    before = wire.ask("DEBUG", "DIGEST")
    for line in COMMANDS:
        for place in range(len(keys(line))):
            reply = user.ask(*with_foreign(line, place).split())
            if not refused(reply):
                wrong.append(("allowed", with_foreign(line, place), reply))
    assert wrong == []
    assert wire.ask("DEBUG", "DIGEST") == before


def test_reading_is_not_writing(login: Login, wire: Wire) -> None:
    """%R~ alone lets nobody write, %W~ alone lets nobody read."""
    fill(wire)
    wrong = []
    for rules, kind in ((("+@all", "%R~*"), "w"), (("+@all", "%W~*"), "r")):
        user = login(*rules)
        for line in COMMANDS:
            if "ROUTING" in line:  # names a place; its key need not be readable
                continue
            reply = user.ask(*of_app(line).split())
            if refused(reply) != any(each in (kind, "b") for each, _ in keys(line)):
                wrong.append((rules, of_app(line), reply))
    assert wrong == []


def test_what_touches_no_key_of_others(login: Login, wire: Wire) -> None:
    """Names inside a DAG are no keys, unless they are loaded or persisted."""
    fill(wire)
    user = login("+@all", "~app:*")
    dag = "AI.DAGEXECUTE ROUTING app:r:x |> AI.TENSORSET other:x FLOAT 1 2 VALUES 7 8 |> "
    dag += "AI.MODELEXECUTE app:r:add INPUTS 2 other:x other:x OUTPUTS 1 other:y |> AI.TENSORGET other:y VALUES"
    assert user.ask(*dag.split()) == [OK, OK, [b"14", b"16"]]
    assert wire.ask("AI.TENSORGET", "other:x", "VALUES") == [b"1", b"2"]
    dag = "AI.DAGEXECUTE ROUTING app:r:x |> AI.TENSORGET other:x"
    assert user.ask(*dag.split()) == Error("ERR INPUT key cannot be found in DAG")


def test_a_script_that_is_given_one_key_cannot_reach_others(login: Login, wire: Wire) -> None:
    fill(wire)
    scripts.store_redis(wire, "reply", key="app:redis")
    wire.ask("SET", "other:k", SECRET)
    user = login("+@all", "~app:*")
    for line in (
        "AI.SCRIPTEXECUTE app:redis reply KEYS 1 app:k ARGS 2 GET other:k OUTPUTS 1 app:out",
        "AI.DAGEXECUTE PERSIST 1 app:out |> "
        "AI.SCRIPTEXECUTE app:redis reply KEYS 1 app:k ARGS 2 GET other:k OUTPUTS 1 app:out",
        "AI.DAGEXECUTE ROUTING {other:k} PERSIST 1 app:out |> "
        "AI.SCRIPTEXECUTE app:redis reply KEYS 1 app:k ARGS 2 GET {other:k} OUTPUTS 1 app:out",
    ):
        reply = user.ask(*line.split())
        assert isinstance(reply, Error) or isinstance(reply[0], Error), line
        assert SECRET.decode() not in str(reply)
    assert wire.ask("EXISTS", "app:out") == 0


def test_models_inside_scripts(login: Login, wire: Wire) -> None:
    """redisAI.model_execute looks models up by name: only those that the caller may read."""
    fill(wire)
    scripts.store_models(wire, "app:s")
    user = login("+@all", "~app:*")
    for key, allowed in ("app:r:add", True), ("other:add", False):
        words = scripts.execute("app:s", "named", [key], ["app:r:x", "app:r:y"], [key], ["app:out"])
        assert (user.ask(*words) == b"OK") == allowed
        undeclared = scripts.execute("app:s", "named", ["app:k"], ["app:r:x", "app:r:y"], ["other:add"], ["app:out"])
        reply = user.ask(*undeclared)
        text = "ERR redisAI.model_execute: ERR the script runs a model whose key was not declared with KEYS"
        assert isinstance(reply, Error) and reply.startswith(text)


# ---- categories ------------------------------------------------------------------------------------------------------

ALL = sorted({of_app(line).split()[0] for line in COMMANDS} | {"AI._MODELSCAN", "AI._SCRIPTSCAN", "AI.CONFIG"})
READ = {
    "AI.TENSORGET", "AI.MODELGET", "AI.SCRIPTGET", "AI.INFO", "AI._MODELSCAN", "AI._SCRIPTSCAN", "AI.DAGEXECUTE_RO",
    "AI.DAGRUN_RO",
}  # fmt: skip


def allowed(wire: Wire, command: str, *rules: str) -> bool:
    assert wire.ask("ACL", "SETUSER", "dry", "reset", "on", "nopass", "~*", *rules) == b"OK"
    try:
        line = next((of_app(line) for line in COMMANDS if line.startswith(command + " ")), command)
        words: list[Word] = list((line if line != "AI.CONFIG" else "AI.CONFIG GET BACKENDSPATH").split())
        return bool(wire.ask("ACL", "DRYRUN", "dry", *words) == b"OK")
    finally:
        wire.ask("ACL", "DELUSER", "dry")


@pytest.mark.parametrize("command", ALL)
def test_categories(wire: Wire, command: str) -> None:
    may = partial(allowed, wire, command)
    assert may("+@all")
    assert not may("-@all")
    assert may("-@all", f"+{command.lower()}")
    assert not may("+@all", f"-{command.lower()}")
    if not wire.ask("ACL", "CAT", "read").count(b"ai.tensorget"):
        return  # Redis 7.0 has no categories for commands of modules
    assert may("-@all", "+@read") == (command in READ)
    assert may("-@all", "+@write") == (command not in READ | {"AI.CONFIG"})
    assert may("-@all", "+@admin") == may("-@all", "+@dangerous") == (command == "AI.CONFIG")
    assert may("+@all", "-@admin") == (command != "AI.CONFIG")
    assert may("-@all", "+@slow")
    assert not may("-@all", "+@fast")


def test_config_needs_an_administrator(login: Login, wire: Wire) -> None:
    before = wire.ask("AI.CONFIG", "GET", "MODEL_CHUNK_SIZE")
    user = login("+@all", "-@admin", "~*")
    for line in (
        "AI.CONFIG GET BACKENDSPATH",
        "AI.CONFIG BACKENDSPATH /tmp",
        "AI.CONFIG MODEL_CHUNK_SIZE 1",
        "AI.CONFIG LOADBACKEND TORCH /tmp/x.so",
        "ai.config get model_chunk_size",
    ):
        assert refused(user.ask(*line.split())), line
    assert user.ask("AI.CONFIG") == Error("ERR wrong number of arguments for 'AI.CONFIG' command")
    scripts.store_redis(wire, "run")
    for words in (["AI.CONFIG", "MODEL_CHUNK_SIZE", "1"], ["EVAL", "return redis.call('AI.CONFIG', 'GET', 'X')", "0"]):
        reply = user.ask(*scripts.execute("s", "run", ["k"], (), words))
        assert isinstance(reply, Error) and reply.startswith(scripts.FAILED), words
    reply = user.ask("EVAL", "return redis.call('AI.CONFIG', 'MODEL_CHUNK_SIZE', '1')", 0)
    in_category = program().since(redis=(7, 2), valkey=(7, 2))  # Redis 7.0 has none for commands of modules
    wanted = "ERR ACL failure in script: User caller" if in_category else "NOPERM AI.CONFIG needs a user who may run"
    assert isinstance(reply, Error) and reply.startswith(wanted)
    assert wire.ask("AI.CONFIG", "GET", "MODEL_CHUNK_SIZE") == before


# ---- what is told ----------------------------------------------------------------------------------------------------


def test_refusals_do_not_tell_whether_keys_exist(login: Login, wire: Wire) -> None:
    """The same words for keys that are there, that are not, and that hold another type."""
    fill(wire)
    wire.ask("SET", "other:plain", SECRET)
    user = login("+@all", "~app:*")
    for line in (
        "AI.TENSORGET K",
        "AI.MODELGET K",
        "AI.SCRIPTGET K",
        "AI.INFO K",
        "AI.TENSORSET K FLOAT 1",
        "AI.MODELEXECUTE K INPUTS 2 app:r:x app:r:y OUTPUTS 1 app:z",
        "AI.MODELEXECUTE app:r:add INPUTS 2 K K OUTPUTS 1 app:z",
        "AI.DAGEXECUTE_RO LOAD 1 K |> AI.TENSORGET K",
        "AI.DAGEXECUTE_RO ROUTING app:r:x |> AI.TENSORSET t FLOAT 1 |> AI.MODELEXECUTE K INPUTS 1 t OUTPUTS 1 u",
    ):
        names = ("other:x", "other:add", "other:s", "other:plain", "other:nothing")
        replies = {str(user.ask(*line.replace("K", name).split())).replace(name, "K") for name in names}
        assert len(replies) == 1, replies


def test_no_content_of_values_is_told(server: Server, login: Login, wire: Wire) -> None:
    """Neither in errors about a value nor in the log: only names, types, and what the client itself has sent."""
    length = len(server.log())
    scripts.store_redis(wire, "items", "run", key="app:s")
    scripts.store_plain(wire, "app:p")
    assert wire.ask("AI.MODELSTORE", "app:m", "ONNX", "CPU", "BLOB", models.onnx_add()) == b"OK"
    assert wire.ask("AI.MODELSTORE", "app:i", "ONNX", "CPU", "BLOB", models.onnx_identity("STRING", ("n",))) == b"OK"
    told = []
    for blob in (SECRET, SECRET * 100, b"\x08" + SECRET):
        for backend in ("ONNX", "TORCH", "TFLITE"):
            told.append(wire.ask("AI.MODELSTORE", "app:bad", backend, "CPU", "BLOB", blob))
        told.append(
            wire.ask("AI.MODELSTORE", "app:bad", "TF", "CPU", "INPUTS", 1, "a", "OUTPUTS", 1, "b", "BLOB", blob)
        )
    wire.ask("SET", "app:plain", SECRET)
    wire.ask("AI.TENSORSET", "app:t", "STRING", 2, "VALUES", SECRET, SECRET)
    for line in (
        "AI.TENSORGET app:plain",
        "AI.MODELEXECUTE app:plain INPUTS 1 app:t OUTPUTS 1 app:o",
        "AI.MODELEXECUTE app:m INPUTS 2 app:t app:t OUTPUTS 1 app:o",
        "AI.MODELEXECUTE app:m INPUTS 2 app:t app:plain OUTPUTS 1 app:o",
        "AI.MODELEXECUTE app:i INPUTS 1 app:t OUTPUTS 1 app:plain",
        "AI.SCRIPTEXECUTE app:p add INPUTS 2 app:t app:t OUTPUTS 1 app:o",
        "AI.SCRIPTEXECUTE app:s run KEYS 1 app:plain ARGS 2 INCR app:plain",
        "AI.SCRIPTEXECUTE app:s items KEYS 1 app:plain ARGS 2 LPUSH app:plain OUTPUTS 1 app:o",
        "AI.DAGEXECUTE LOAD 1 app:t |> AI.MODELEXECUTE app:m INPUTS 2 app:t app:t OUTPUTS 1 o",
    ):
        told.append(wire.ask(*line.split()))
    text = " ".join(map(str, told)) + server.log()[length:]
    assert all(isinstance(each, Error) or isinstance(each[0], Error) for each in told), told
    assert SECRET.decode() not in text
