"""redis.execute and redis.asList: every type of reply, any bytes, what may be touched and what may not."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from testkit import models, scripts
from testkit.scripts import FAILED, NOT_IN_SCRIPTS, UNDECLARED, execute, store_redis, text_of, values
from testkit.server import Server
from testkit.wire import Error, Wire, Word

ALL_BYTES = bytes(range(256))
ODD = b"\0\xff\r\n %s \xc3\x28"


@pytest.fixture
def stored(wire: Wire) -> Wire:
    store_redis(wire, "run")
    wire.ask("SET", "text", "hello")
    wire.ask("SET", "number", 42)
    wire.ask("SET", "empty", "")
    wire.ask("RPUSH", "list", "a", "", "ccc")
    wire.ask("HSET", "hash", "field", "value")
    wire.ask("ZADD", "sorted", 1.5, "one", 2, "two")
    wire.ask("SADD", "set", "member")
    wire.ask("XADD", "stream", "1-1", "field", "value")
    wire.ask("SET", "other", "untouched")
    return wire


def ask(wire: Wire, function: str, keys: Sequence[Word], *sections: Sequence[Word]) -> Any:
    """What the function answers: keys, inputs, arguments, outputs. The script has only it, and "run" unless told."""
    if function != "run":
        store_redis(wire, function)
    return wire.ask(*execute("s", function, keys, *sections))


def reply(wire: Wire, function: str, *command: Word, keys: tuple[Word, ...] = ()) -> bytes:
    """What the script was told, as text."""
    answer = ask(wire, function, keys, (), command, ["out"])
    assert answer == b"OK", answer
    return text_of(wire, "out")


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("GET text", b"s5:hello"),
        ("GET number", b"s2:42"),
        ("GET empty", b"s0:"),
        ("GET missing", b"none"),
        ("SET missing x", b"s2:OK"),
        ("SET missing x XX", b"none"),
        ("INCR number", b"i:43"),
        ("DECRBY number 100", b"i:-58"),
        ("STRLEN text", b"i:5"),
        ("EXISTS missing", b"i:0"),
        ("DEL text", b"i:1"),
        ("TYPE list", b"s4:list"),
        ("PING", b"s4:PONG"),
        ("ECHO hello", b"s5:hello"),
        ("DBSIZE", b"i:10"),
        ("LRANGE list 0 -1", b"l3"),
        ("LRANGE missing 0 -1", b"l0"),
        ("HGETALL hash", b"l2"),
        ("SMEMBERS set", b"l1"),
        ("get text", b"s5:hello"),
        ("INCRBYFLOAT number 0.5", b"s4:42.5"),
        ("TTL text", b"i:-1"),
        ("AI.TENSORSET missing FLOAT 1 VALUES 5", b"s2:OK"),
        ("LPOP missing", b"none"),
        ("LPOP missing 3", b"none"),
        ("EXPIRE text 100", b"i:1"),
        ("APPEND text !", b"i:6"),
        ("XREAD COUNT 1 STREAMS stream 0", b"l1"),
        ("XREAD STREAMS stream 9-9", b"none"),
    ],
)
def test_types_of_replies(stored: Wire, command: str, wanted: bytes) -> None:
    words = command.split()
    keys = tuple(word for word in words[1:] if word.islower() and word not in ("hello", "x"))
    assert reply(stored, "reply", *words, keys=keys) == wanted


def test_a_double_is_a_number_or_its_text(stored: Wire) -> None:
    assert reply(stored, "reply", "ZSCORE", "sorted", "one", keys=("sorted",)) in (b"f:1.5", b"s3:1.5")


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("LRANGE list 0 -1", b"s1:a s0: s3:ccc "),
        ("LRANGE missing 0 -1", b""),
        ("HGETALL hash", b"s5:field s5:value "),
        ("SMEMBERS set", b"s6:member "),
        ("MGET text missing number", b"s5:hello none s2:42 "),
        ("SMISMEMBER set member nobody", b"i:1 i:0 "),
        ("HMGET hash field nothing", b"s5:value none "),
        ("XRANGE stream - +", b"l2 "),
        ("XREAD STREAMS stream 0", b"l2 "),
        ("ZRANGE sorted 0 -1", b"s3:one s3:two "),
        ("AI.TENSORGET tensor META", b"s5:dtype s5:INT32 s5:shape l2 "),
        ("AI.TENSORGET tensor VALUES", b"i:1 i:2 "),
    ],
)
def test_arrays(stored: Wire, command: str, wanted: bytes) -> None:
    stored.ask("AI.TENSORSET", "tensor", "INT32", 1, 2, "VALUES", 1, 2)
    keys = ("list", "missing", "hash", "set", "text", "number", "stream", "sorted", "tensor")
    assert reply(stored, "items", *command.split(), keys=keys) == wanted


def test_nested_arrays(stored: Wire) -> None:
    stored.ask("XADD", "stream", "2-1", "a", "1", "b", "")
    assert reply(stored, "nested", "XRANGE", "stream", "-", "+", keys=("stream",)) == b"[s3:1-1 l2 ] [s3:2-1 l4 ] "
    stored.ask("GEOADD", "places", "13.5", "38.5", "x")
    positions = reply(stored, "items", "GEOPOS", "places", "x", "nowhere", keys=("places",))
    assert positions == b"l2 none "


def test_a_long_array(stored: Wire) -> None:
    for start in range(0, 10000, 1000):
        stored.ask("RPUSH", "long", *range(start, start + 1000))
    assert reply(stored, "reply", "LRANGE", "long", 0, -1, keys=("long",)) == b"l10000"


def test_a_list_of_what_is_no_list(stored: Wire) -> None:
    for command in (["GET", "text"], ["STRLEN", "text"], ["GET", "missing"]):
        reply = ask(stored, "items", ["text", "missing"], (), command, ["out"])
        assert isinstance(reply, Error) and "redis.asList: the reply is no array" in reply
    assert stored.ask("EXISTS", "out") == 0


def test_a_command_of_one_word(stored: Wire) -> None:
    assert ask(stored, "without_words", [], [], [], ["out"]) == b"OK"
    assert text_of(stored, "out") == b"s4:PONG"


def test_a_result_that_is_a_reply(stored: Wire) -> None:
    """What redis.execute gives is no tensor."""
    scripts.store(stored, "t", scripts.function("f", 'return redis.execute("GET", keys[0])'), ["f"])
    reply = stored.ask(*execute("t", "f", ["text"], outputs=["y"]))
    assert reply == "ERR Function returned non-tensor values"


# ---- bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [ALL_BYTES, ODD, b"", b"\0", b"\xff" * 10, "h\u00e9 \u2713".encode(), bytes(100_000)], ids=len
)
def test_values_are_binary(stored: Wire, value: bytes) -> None:
    stored.ask("SET", "from", value)
    assert ask(stored, "copied", ["from", "to"], (), (), ["out"]) == b"OK"
    assert stored.ask("GET", "to") == value
    assert text_of(stored, "out") == value


@pytest.mark.parametrize("key", [ALL_BYTES, ODD, b"k\0", b"\xff"], ids=len)
def test_keys_and_arguments_are_binary(stored: Wire, key: bytes) -> None:
    value = key[::-1]
    assert ask(stored, "given", [key], (), [value], ["out:key", "out:arg"]) == b"OK"
    assert stored.ask("GET", key) == value
    assert text_of(stored, "out:key") == key
    assert text_of(stored, "out:arg") == value
    assert stored.ask("EXISTS", "k") == 0, "nothing is cut at a NUL"


def test_bytes_made_by_the_script(stored: Wire) -> None:
    assert ask(stored, "all_bytes", ["key"], (), (), ["out"]) == b"OK"
    assert stored.ask("GET", "key") == ALL_BYTES == text_of(stored, "out")


def test_items_are_binary(stored: Wire) -> None:
    stored.ask("RPUSH", "binary", ALL_BYTES, ODD)
    wanted = b"s256:" + ALL_BYTES + b" s%d:" % len(ODD) + ODD + b" "
    assert reply(stored, "items", "LRANGE", "binary", 0, -1, keys=("binary",)) == wanted


def test_words_of_the_command_are_binary(stored: Wire) -> None:
    ask(stored, "run", ["hash"], (), ["HSET", "hash", ODD, ALL_BYTES])
    assert stored.ask("HGET", "hash", ODD) == ALL_BYTES


# ---- errors ----------------------------------------------------------------------------------------------------------

WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("INCR text", "value is not an integer or out of range"),
        ("LPUSH text x", WRONGTYPE),
        ("GET", "wrong number of arguments for 'get' command"),
        ("GET text text", "wrong number of arguments for 'get' command"),
        ("SET text x FOO", "syntax error"),
        ("EXPIRE text x", "value is not an integer or out of range"),
        ("AI.TENSORGET missing", "tensor key is empty or in a different shard"),
        ("AI.TENSORSET text FLOAT 1", WRONGTYPE),
        ("AI.TENSORSET missing FOO 1", "invalid data type"),
    ],
)
def test_error_replies(stored: Wire, command: str, text: str) -> None:
    """The text is Redis's own; the script ends there, and what it wrote before stays."""
    assert ask(stored, "then", ["first", "second", "text", "missing"], (), command.split()) == FAILED + text
    assert stored.ask("GET", "first") == b"before"
    assert stored.ask("EXISTS", "second", "missing") == 0
    assert stored.ask("GET", "text") == b"hello"


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("NOSUCHCOMMAND", "unknown command 'NOSUCHCOMMAND'"),
        ("NOSUCHCOMMAND text", "unknown command 'NOSUCHCOMMAND', with args beginning with: 'text'"),
        ("CLIENT NOSUCH", "unknown subcommand 'NOSUCH'. Try CLIENT HELP."),
        ("nul\0inside text", "unknown command 'nul"),
    ],
)
def test_commands_that_are_not_there(stored: Wire, command: str, text: str) -> None:
    reply = ask(stored, "run", ["text"], (), command.split(" "))
    assert isinstance(reply, Error) and reply.startswith(FAILED + text)


def test_an_empty_command(stored: Wire) -> None:
    reply = ask(stored, "run", ["text"], (), [""])
    assert isinstance(reply, Error)
    assert reply.startswith(FAILED)


# ---- undeclared keys -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "GET other",
        "SET other x",
        "DEL other",
        "DEL first other",
        "MSET first x other x",
        "MGET first other",
        "RENAME other first",
        "RENAME first other",
        "COPY first other REPLACE",
        "LMOVE list other LEFT LEFT",
        "SORT list STORE other",
        "SORT list BY other GET other",
        "SORT list BY nosort GET o*",
        "SORT_RO list BY nosort GET o*",
        "SUNIONSTORE other 1 set",
        "XREAD STREAMS other 0",
        "OBJECT ENCODING other",
        "GEOSEARCHSTORE other list FROMLONLAT 1 1 BYRADIUS 1 m",
        "AI.TENSORGET other",
        "AI.TENSORSET other FLOAT 1",
        "AI.MODELDEL other",
        "AI.SCRIPTDEL s",
        "BITOP NOT other list",
        "PFMERGE other list",
        "EVALSHA x 1 other",
        "EVAL return(redis.call('set','other','x')) 0",
        "EVAL return(redis.call('set','other','x')) 1 other",
        "FCALL f 1 other",
        "FLUSHALL",
        "FLUSHDB ASYNC",
        "SWAPDB 0 1",
        "DEBUG RELOAD NOSAVE",
        "RESTORE other 0 x REPLACE",
        "MIGRATE 127.0.0.1 1 other 0 1",
        "SET\0x other x",
        "FLUSHALL\0",
    ],
)
def test_undeclared_keys_are_refused_and_nothing_changed(stored: Wire, command: str) -> None:
    """Only KEYS are declared: the script's own key, INPUTS and OUTPUTS are not."""
    before = stored.ask("DEBUG", "DIGEST")
    reply = ask(stored, "run", ["list", "first", "set"], (), command.split())
    assert isinstance(reply, Error), reply
    assert reply.startswith(FAILED)
    assert stored.ask("DEBUG", "DIGEST") == before


def test_the_error_says_what_is_missing(stored: Wire) -> None:
    reply = ask(stored, "run", ["text"], (), ["GET", "other"])
    assert reply.startswith(FAILED)
    assert "KEYS" in reply


def test_inputs_and_outputs_are_not_declared_keys(stored: Wire) -> None:
    stored.ask("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 5)
    for words in (["DEL", "x"], ["AI.TENSORGET", "x", "VALUES"], ["SET", "out", "x"]):
        reply = ask(stored, "reply", (), ["x"], words, ["out"])
        assert isinstance(reply, Error) and reply.startswith(FAILED)
    assert values(stored, "x") == [b"5"]
    assert stored.ask("EXISTS", "out") == 0


def test_a_declared_key_is_one_to_the_byte(stored: Wire) -> None:
    for declared, used in ((b"k", b"k\0"), (b"k\0", b"k"), (b"k\0a", b"k\0b"), (b"K", b"k"), (b"", b"k")):
        assert ask(stored, "run", [declared], (), ["SET", used, "x"]) == Error(UNDECLARED)
        assert stored.ask("EXISTS", used) == 0


# ---- commands that wait ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "BLPOP missing 0",
        "BLPOP list 0",
        "BRPOP missing 1",
        "BLMOVE missing list LEFT LEFT 0",
        "BZPOPMIN missing 0",
        "BLMPOP 0 1 missing LEFT",
        "BZMPOP 0 1 missing MIN",
        "XREAD BLOCK 0 STREAMS stream $",
        "XREAD COUNT 1 block 100 STREAMS stream $",
        "XREADGROUP GROUP g c BLOCK 0 STREAMS stream >",
        "WAIT 1 0",
        "SUBSCRIBE channel",
        "PSUBSCRIBE *",
        "MONITOR",
        "SYNC",
        "MULTI",
        "WATCH text",
        "AI.MODELEXECUTE m INPUTS 2 x x OUTPUTS 1 y",
        "AI.MODELRUN m INPUTS x x OUTPUTS y",
        "AI.SCRIPTEXECUTE s run KEYS 1 text ARGS 1 PING",
        "AI.SCRIPTRUN s run INPUTS x",
        "CLIENT REPLY OFF",
        "SHUTDOWN NOSAVE",
        "AUTH default x",
        "QUIT",
        "RESET",
        "HELLO 3",
    ],
)
def test_blocking_commands_are_a_clear_error(stored: Wire, command: str) -> None:
    stored.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
    stored.ask("AI.TENSORSET", "x", "FLOAT", 1, 2)
    stored.ask("XGROUP", "CREATE", "stream", "g", "$")
    keys: list[Word] = ["missing", "list", "stream", "text", "m", "x", "y", "s"]
    reply = ask(stored, "run", keys, (), command.split())
    assert isinstance(reply, Error) and NOT_IN_SCRIPTS.fullmatch(reply), reply
    assert stored.ask("LLEN", "list") == 3
    assert stored.ask("EXISTS", "y") == 0
    assert stored.ask("PING") == b"PONG"


# ---- values of our own -----------------------------------------------------------------------------------------------


def test_tensors_models_and_scripts_by_redis_execute(stored: Wire) -> None:
    stored.ask("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", models.onnx_add())
    keys = ("m", "t", "u", "other script")
    assert reply(stored, "reply", "AI.TENSORSET", "t", "INT8", 2, "VALUES", 1, 2, keys=keys) == b"s2:OK"
    assert values(stored, "t") == [1, 2]
    assert reply(stored, "reply", "AI.TENSORGET", "t", "BLOB", keys=keys) == b"s2:\1\2"
    assert reply(stored, "reply", "COPY", "t", "u", keys=keys) == b"i:1"
    assert reply(stored, "reply", "AI.MODELGET", "m", "BLOB", keys=keys).endswith(models.onnx_add())
    assert reply(stored, "reply", "AI.INFO", "m", keys=keys) == b"l18"
    assert reply(stored, "reply", "AI.MODELDEL", "m", keys=keys) == b"s2:OK"
    assert stored.ask("EXISTS", "m", "u") == 1


def test_storing_a_script_from_a_script(stored: Wire) -> None:
    """It is compiled while the worker that asks for it waits; a clear error will do as well."""
    source = scripts.function("f", "return tensors[0]")
    words = scripts.store_command("new", source, ["f"])
    answer = ask(stored, "run", ["new"], (), words)
    if isinstance(answer, Error):
        assert answer.startswith(FAILED)
        assert stored.ask("EXISTS", "new") == 0
    else:
        assert stored.ask("AI.SCRIPTGET", "new", "SOURCE") == source.encode()
    assert stored.ask("PING") == b"PONG"


# ---- surroundings ----------------------------------------------------------------------------------------------------


def test_commands_act_in_the_clients_database(server: Server, stored: Wire) -> None:
    with server.wire() as other:
        for database in (3, 0, 5):
            stored.ask("COPY", "s", "s", "DB", database)
            other.ask("SELECT", database)
            assert other.ask(*execute("s", "run", ["where"], (), ["SET", "where", database])) == b"OK"
            assert other.ask("GET", "where") == b"%d" % database
    assert stored.ask("GET", "where") == b"0"


def test_select_in_a_script_changes_nobodys_database(stored: Wire) -> None:
    ask(stored, "run", ["text"], (), ["SELECT", 5])
    assert stored.ask("GET", "text") == b"hello"
    assert reply(stored, "reply", "GET", "text", keys=("text",)) == b"s5:hello"


def test_what_a_script_writes_wakes_those_who_watch_and_wait(server: Server, stored: Wire) -> None:
    with server.wire() as watcher, server.wire() as waiting:
        watcher.ask("WATCH", "watched")
        waiting.send("BLPOP", "queue", 10)
        assert ask(stored, "run", ["watched"], (), ["SET", "watched", "x"]) == b"OK"
        assert ask(stored, "run", ["queue"], (), ["RPUSH", "queue", "item"]) == b"OK"
        assert waiting.read() == [b"queue", b"item"]
        watcher.ask("MULTI")
        watcher.ask("PING")
        assert watcher.ask("EXEC") is None


def test_many_clients_at_once(server: Server, stored: Wire) -> None:
    """Each command of a script is one step: no increment is lost."""
    store_redis(stored, "increment")
    clients, rounds, each = 8, 5, 20
    failed: list[object] = []

    def work() -> None:
        with server.wire() as wire:
            for _ in range(rounds):
                answer = wire.ask(*execute("s", "increment", ["counter"], (), [each]))
                if answer != b"OK":
                    failed.append(answer)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert stored.ask("GET", "counter") == b"%d" % (clients * rounds * each)


def test_memory_comes_back(server: Server, stored: Wire) -> None:
    stored.ask("SET", "from", bytes(1 << 20))
    words = execute("s", "run", ["from"], (), ["GET", "from"])
    stored.ask(*words)
    before = server.used_memory()
    for _ in range(3):
        assert stored.ask(*words) == b"OK"
        reply = ask(stored, "run", ["from"], (), ["LPUSH", "from", bytes(1 << 18)])
        assert reply == Error(f"{FAILED}WRONGTYPE Operation against a key holding the wrong kind of value")
    assert server.used_memory() < before + (1 << 20)
