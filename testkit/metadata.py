"""What COMMAND must tell of each command, and readers of COMMAND INFO, COMMAND DOCS and COMMAND GETKEYS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from testkit.server import Server
from testkit.wire import Error, Wire

WRITE = {"write", "denyoom"}
READ = {"readonly"}


@dataclass(slots=True, frozen=True)
class Command:
    flags: set[str]  # those that say what it does to data, and who may send it
    arity: int  # of Redis: the words of the shortest command, negative where more may follow
    since: str
    summary: str
    keywords: str = ""


COMMANDS = {
    "AI.TENSORSET": Command(WRITE, -4, "1.0.0", "Stores a tensor", "BLOB VALUES FROM HASHES FIELDS DEFAULT"),
    "AI.TENSORGET": Command(READ, -2, "1.0.0", "Returns a tensor's metadata and data", "META BLOB VALUES"),
    "AI.HASHSET": Command(
        WRITE, -4, "2.0.0", "Sets fields of a hash to what tensors hold", "AS NUMBER TEXT ARGMAX BLOB"
    ),
    "AI.MODELSTORE": Command(
        WRITE,
        -6,
        "1.2.0",
        "Stores a model; the server goes on while it is compiled",
        "TAG BATCHSIZE MINBATCHSIZE MINBATCHTIMEOUT MAXQUEUE TIMEOUT PRIORITY CACHE WARMUP INPUTS OUTPUTS BLOB",
    ),
    "AI.MODELSET": Command(
        WRITE,
        -4,
        "1.0.0",
        "Stores a model (deprecated: use AI.MODELSTORE)",
        "TAG BATCHSIZE MINBATCHSIZE MINBATCHTIMEOUT INPUTS OUTPUTS BLOB",
    ),
    "AI.MODELCONFIG": Command(
        {"write"},
        -4,
        "2.0.0",
        "Changes how a stored model is batched and what its runs may take",
        "MAXQUEUE TIMEOUT CACHE BATCHSIZE MINBATCHSIZE MINBATCHTIMEOUT PRIORITY",
    ),
    "AI.MODELGET": Command(READ, -2, "1.0.0", "Returns a model's metadata and blob", "META FULL BLOB"),
    "AI.MODELDEL": Command({"write"}, 2, "1.0.0", "Deletes a model"),
    "AI._MODELSCAN": Command(READ, 1, "1.0.0", "Returns the keys and tags of all models"),
    "AI.MODELEXECUTE": Command(
        WRITE, -7, "1.2.0", "Runs a model on tensors and stores its outputs", "INPUTS OUTPUTS TIMEOUT PRIORITY"
    ),
    "AI.MODELRUN": Command(
        WRITE,
        -6,
        "1.0.0",
        "Runs a model on tensors and stores its outputs (deprecated: use AI.MODELEXECUTE)",
        "TIMEOUT INPUTS OUTPUTS",
    ),
    "AI.SCRIPTSTORE": Command(
        WRITE,
        -8,
        "1.2.0",
        "Stores a TorchScript; the server goes on while it is compiled",
        "TAG ENTRY_POINTS SOURCE",
    ),
    "AI.SCRIPTSET": Command(WRITE, -5, "1.0.0", "Stores a TorchScript (deprecated: use AI.SCRIPTSTORE)", "TAG SOURCE"),
    "AI.SCRIPTGET": Command(READ, -2, "1.0.0", "Returns a script's metadata and source", "META SOURCE"),
    "AI.SCRIPTDEL": Command({"write"}, 2, "1.0.0", "Deletes a script"),
    "AI._SCRIPTSCAN": Command(READ, 1, "1.0.0", "Returns the keys and tags of all scripts"),
    "AI.SCRIPTEXECUTE": Command(
        WRITE,
        -3,
        "1.2.0",
        "Runs a script's function on tensors, keys and arguments and stores its outputs",
        "KEYS INPUTS ARGS OUTPUTS TIMEOUT PRIORITY",
    ),
    "AI.SCRIPTRUN": Command(
        WRITE,
        -3,
        "1.0.0",
        "Runs a script's function on tensors (deprecated: use AI.SCRIPTEXECUTE)",
        "TIMEOUT INPUTS OUTPUTS",
    ),
    "AI.DAGEXECUTE": Command(
        WRITE,
        -1,
        "1.2.0",
        "Runs a graph of models and scripts on local tensors",
        "LOAD PERSIST ROUTING TIMEOUT PRIORITY |>",
    ),
    "AI.DAGEXECUTE_RO": Command(
        READ, -1, "1.2.0", "Runs a graph of models, also on a read-only replica", "LOAD ROUTING TIMEOUT PRIORITY |>"
    ),
    "AI.DAGRUN": Command(
        WRITE,
        -4,
        "1.0.0",
        "Runs a graph of models and scripts (deprecated: use AI.DAGEXECUTE)",
        "LOAD PERSIST ROUTING TIMEOUT |>",
    ),
    "AI.DAGRUN_RO": Command(
        READ,
        -4,
        "1.0.0",
        "Runs a graph of models and scripts (deprecated: use AI.DAGEXECUTE_RO)",
        "LOAD ROUTING TIMEOUT |>",
    ),
    "AI.INFO": Command(
        READ,
        -1,
        "1.0.0",
        "Returns or resets the run statistics of a model or script, or says whether the server is ready",
        "RESETSTAT",
    ),
    "AI.CONFIG": Command(
        {"admin"},
        -2,
        "1.0.0",
        "Reads and sets options, loads backends",
        "BACKENDSPATH LOADBACKEND MODEL_CHUNK_SIZE MAX_QUEUED",
    ),
    "AI.BIND": Command(
        WRITE,
        -12,
        "2.0.0",
        "Runs a model or script whenever keys change, and sets what it gives",
        "ON HASH STREAM PREFIX KEYS FIELDS AS DEFAULT MODEL SCRIPT SET VECTORSET STREAM MAXLEN VERSION ERROR",
    ),
    "AI.UNBIND": Command({"write"}, 2, "2.0.0", "Ends a binding"),
    "AI.BINDLIST": Command(READ, 1, "2.0.0", "Lists the names of the bindings"),
    "AI.BINDINFO": Command(READ, 2, "2.0.0", "Tells what a binding does, and how far it is"),
    "AI.BINDRUN": Command({"write"}, 2, "2.0.0", "Has a binding run for all keys that exist, in the background"),
    "AI._BOUND": Command({"write"}, -2, "2.0.0", "Tells replicas and the AOF which keys a binding has done"),
    "AI.RUNS": Command({"admin", "readonly"}, -1, "2.0.0", "Lists the runs that wait or are under way", ""),
    "AI.KILL": Command(
        {"admin", "readonly"}, -2, "2.0.0", "Ends what runs or compiles a model or script now, or one run", "RUN"
    ),
    "RG.PYEXECUTE": Command(
        {"admin", "denyoom"},
        -2,
        "2.0.0",
        "Runs Python code, which may register flows",
        "UNBLOCKING ID DESCRIPTION UPGRADE REPLACE_WITH FORCE_REINSTALLATION REQUIREMENTS",
    ),
    "RG.TRIGGER": Command(set(), -2, "2.0.0", "Runs the flow that is registered for a trigger"),
    "RG.DUMPREGISTRATIONS": Command({"admin"}, 1, "2.0.0", "Lists the registered flows"),
    "RG.UNREGISTER": Command({"admin"}, 2, "2.0.0", "Ends a registered flow"),
    "RG.GETEXECUTION": Command({"admin"}, -2, "2.0.0", "Tells how far an execution is", "SHARD CLUSTER"),
    "RG.DUMPEXECUTIONS": Command({"admin"}, 1, "2.0.0", "Lists the latest executions"),
    "RG.ABORTEXECUTION": Command({"admin"}, 2, "2.0.0", "Ends an execution that runs"),
    "RG.DROPEXECUTION": Command({"admin"}, 2, "2.0.0", "Forgets an execution"),
    "RG.GETRESULTS": Command({"admin"}, 2, "2.0.0", "Returns what an execution gave"),
    "RG.GETRESULTSBLOCKING": Command({"admin"}, 2, "2.0.0", "Waits for an execution and returns what it gave"),
    "RG.PYDUMPREQS": Command({"admin"}, 1, "2.0.0", "Lists the Python packages that flows required"),
    "RG.PYDUMPSESSIONS": Command({"admin"}, 1, "2.0.0", "Lists the programs that RG.PYEXECUTE has run"),
    "RG.PYSTATS": Command({"admin"}, 1, "2.0.0", "Returns the memory of the flow process"),
    "RG.INFOCLUSTER": Command({"admin"}, 1, "2.0.0", "Tells of the nodes as far as flows know them"),
    "RG.REFRESHCLUSTER": Command({"admin"}, 1, "2.0.0", "Does nothing: flows run on each node by itself"),
    "RG._PROCESS": Command(set(), -2, "2.0.0", "For the flow process alone"),
    "RG._FLOW": Command({"write"}, -2, "2.0.0", "Tells replicas and the AOF what the flow process has saved"),
    "RG._CALL": Command(set(), -2, "2.0.0", "For the flow process alone"),
    "RG._HOOKED": Command(set(), -2, "2.0.0", "Runs a command that a flow has taken over"),
    "RG._ATOMIC": Command(set(), 2, "2.0.0", "For the flow process alone"),
}


def command_info(wire: Wire, name: str) -> list[Any]:
    reply = wire.ask("COMMAND", "INFO", name)[0]
    assert reply is not None, f"{name} is not there"
    return list(reply)


def flags(wire: Wire, name: str) -> set[str]:
    return {flag.decode() for flag in command_info(wire, name)[2]}


def docs(server: Server, name: str) -> dict[bytes, Any]:
    with server.wire(protocol=3) as wire:
        found = {key.upper(): value for key, value in wire.ask("COMMAND", "DOCS", name).items()}
    return dict(found[name.encode()])


def tokens(arguments: list[dict[bytes, Any]]) -> set[str]:
    """The keywords of a command's arguments, and of those within them."""
    found: set[str] = set()
    for argument in arguments:
        if b"token" in argument:
            found.add(argument[b"token"].decode().upper())
        found |= tokens(argument.get(b"arguments", []))
    return found


def tree(arguments: list[dict[bytes, Any]]) -> list[Any]:
    """Of each argument: name, type, token, flags, and the same of those inside."""
    return [
        (
            argument[b"name"].decode(),
            argument[b"type"].decode(),
            argument.get(b"token", b"").decode(),
            " ".join(sorted(flag.decode() for flag in argument.get(b"flags", []))),
            tree(argument.get(b"arguments", [])),
        )
        for argument in arguments
    ]


def keys_of(wire: Wire, line: str) -> set[str]:
    """What COMMAND GETKEYS takes for keys."""
    found = wire.ask("COMMAND", "GETKEYS", *line.split())
    assert not isinstance(found, Error), found
    return {key.decode() for key in found}


def check_flags(wire: Wire, name: str) -> None:
    assert flags(wire, name) & {"write", "denyoom", "readonly", "admin"} == COMMANDS[name].flags


def check_arity(wire: Wire, name: str) -> None:
    """It is declared, and a word less is the error of Redis. Where no word is too few, some are too many."""
    arity = command_info(wire, name)[1]
    assert arity == COMMANDS[name].arity
    words = ["x"] * (abs(arity) - 2) if abs(arity) > 1 else ["x"] * {"AI.RUNS": 2, "AI.INFO": 3}.get(name, 1)
    assert wire.ask(name.lower(), *words).lower() == f"err wrong number of arguments for '{name.lower()}' command"


def check_docs(server: Server, name: str) -> None:
    found, wanted = docs(server, name), COMMANDS[name]
    assert found[b"summary"].decode() == wanted.summary
    assert (found[b"group"], found[b"since"].decode()) == (b"module", wanted.since)
    assert (b"arguments" in found) == (wanted.arity != 1), "redis-cli's hints come from these"


def check_keywords(server: Server, name: str) -> None:
    """redis-cli's hints come from these. There may be more, of what stands within the ops of a DAG."""
    assert set(COMMANDS[name].keywords.split()) <= tokens(docs(server, name).get(b"arguments", []))


def check_first_key(wire: Wire, name: str) -> None:
    """The first argument is a key, and cluster clients are told so."""
    found = command_info(wire, name)
    assert found[3] == 1
    spec = dict(zip(found[8][0][::2], found[8][0][1::2], strict=True))
    begin = dict(zip(spec[b"begin_search"][::2], spec[b"begin_search"][1::2], strict=True))
    assert (begin[b"type"], begin[b"spec"]) == (b"index", [b"index", 1])
