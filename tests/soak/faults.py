"""The faults of scripts/chaos, and how often each comes."""

from __future__ import annotations

import signal
from collections.abc import Callable

from testkit.waiting import wait_for
from tests.soak.keys import Wrong
from tests.soak.servers import Node, Servers

SETTINGS: dict[str, tuple[str | int, ...]] = {
    "repl-diskless-sync": ("yes", "no"),
    "repl-diskless-load": ("disabled", "on-empty-db", "swapdb"),
    "aof-use-rdb-preamble": ("yes", "no"),
    "aof-timestamp-enabled": ("yes", "no"),
    "repl-backlog-size": ("16kb", "4mb"),
    "hz": (1, 10, 100),
    "rdbcompression": ("yes", "no"),
    "lazyfree-lazy-server-del": ("yes", "no"),
    "lazyfree-lazy-user-del": ("yes", "no"),
    "replica-lazy-flush": ("yes", "no"),
    "MODEL_CHUNK_SIZE": (100, 1000, 535822336),
}


def kill_master(servers: Servers) -> None:
    servers.mortal_master()
    servers.kill(servers.master)
    servers.pause(0, 1)
    servers.master.start()


def kill_master_at_work(servers: Servers) -> None:
    """While it saves or rewrites its AOF."""
    servers.mortal_master()
    servers.master.ask(servers.random.choice(("BGSAVE", "BGREWRITEAOF")))
    servers.pause(0, 0.3)
    kill_master(servers)


def kill_master_and_promote(servers: Servers) -> None:
    servers.mortal_master()
    servers.in_step()
    old = servers.master
    servers.kill(old)
    for node in servers.replicas:
        wait_for(lambda: node.info("replication").get("master_link_status") == "down", 20, "link down")  # noqa: B023
    infos = {node.name: node.info("replication", "persistence") for node in servers.replicas}
    if any(info.get("master_sync_in_progress") != "0" for info in infos.values()):
        old.start()
        return
    new = max(servers.replicas, key=lambda node: (int(infos[node.name]["slave_repl_offset"]), not node.steady))
    with new.wire() as wire:
        wire.ask_ok("REPLICAOF", "NO", "ONE")
    servers.master = new
    for node in servers.replicas:
        if node is not old:
            servers.follow(node, new)
    servers.pause(0, 2)
    old.start(new)


def terminate_master(servers: Servers) -> None:
    """In order; it waits for its replicas then, with writes paused."""
    servers.mortal_master()
    servers.terminate(servers.master)
    servers.master.start()


def kill_replica(servers: Servers) -> None:
    node = servers.replica(mortal=True)
    servers.kill(node)
    servers.pause(0, 2)
    node.start(servers.master)


def terminate_replica(servers: Servers) -> None:
    node = servers.replica(mortal=True)
    servers.terminate(node)
    servers.pause(0, 1)
    node.start(servers.master)


def cut_replicas(servers: Servers) -> None:
    servers.master.ask("CLIENT", "KILL", "TYPE", "replica")


def cut_master(servers: Servers) -> None:
    servers.replica().ask("CLIENT", "KILL", "TYPE", "master")


def cut_clients(servers: Servers) -> None:
    servers.random.choice(servers.nodes).ask("CLIENT", "KILL", "TYPE", "normal")


def cut_links(servers: Servers) -> None:
    for _ in range(servers.random.randint(1, 5)):
        servers.master.proxy.cut()
        servers.pause(0, 0.5)


def hold_links(servers: Servers) -> None:
    servers.master.proxy.hold()
    servers.pause(0.1, 3)
    if servers.random.random() < 0.5:
        servers.master.proxy.cut()
    servers.master.proxy.release()


def detach(servers: Servers) -> None:
    node = servers.replica()
    with node.wire() as wire:
        wire.ask_ok("REPLICAOF", "NO", "ONE")
        servers.pause(0, 0.5)
    servers.follow(node, servers.master)


def save(servers: Servers) -> None:
    servers.random.choice(servers.nodes).ask("BGSAVE", "SCHEDULE")


def rewrite(servers: Servers) -> None:
    servers.random.choice(servers.nodes).ask("BGREWRITEAOF")


def pause_clients(servers: Servers) -> None:
    servers.master.ask("CLIENT", "PAUSE", servers.random.randint(10, 1000), servers.random.choice(("WRITE", "ALL")))
    if servers.random.random() < 0.3:
        servers.pause(0, 0.2)
        servers.master.ask("CLIENT", "UNPAUSE")


def hang(servers: Servers) -> None:
    process = servers.random.choice(servers.nodes).server.process
    assert process
    process.send_signal(signal.SIGSTOP)
    servers.pause(0.1, 1)
    process.send_signal(signal.SIGCONT)


def configure(servers: Servers) -> None:
    name, values = servers.random.choice(list(SETTINGS.items()))
    words = ["AI.CONFIG", name] if name.isupper() else ["CONFIG", "SET", name]
    with servers.random.choice(servers.nodes).wire() as wire:
        reply = wire.ask(*words, servers.random.choice(values))
        if reply != b"OK" and not str(reply).startswith("LOADING"):
            raise Wrong(f"{name}: {reply}")


def flush(servers: Servers) -> None:
    with servers.master.wire() as wire:
        wire.ask("SELECT", 9)
        words = servers.random.choice((["FLUSHDB", "ASYNC"], ["FLUSHDB", "SYNC"], ["SWAPDB", "8", "9"]))
        wire.ask(*words)


def guest(servers: Servers) -> None:
    """A third replica comes, of the master or of another replica, and goes."""
    servers.in_step()
    name = f"guest{len(servers.guests)}"
    node = Node(name, servers.folder / name, [])
    servers.guests.append(node)
    load = servers.random.choice(("disabled", "on-empty-db", "swapdb"))
    node.start(servers.random.choice(servers.nodes), "--repl-diskless-load", load)
    wait_for(lambda: node.info("replication").get("master_link_status") == "up", 60, "the guest's first sync")
    if servers.random.random() < 0.5:
        servers.kill(node)
    else:
        wait_for(lambda: node.info("persistence")["aof_rewrite_in_progress"] == "0", 30, "the guest's AOF")
        servers.terminate(node)


def hand_over(servers: Servers) -> None:
    servers.hand_over()


FAULTS: dict[Callable[[Servers], None], float] = {
    kill_master: 3,
    kill_master_at_work: 3,
    kill_master_and_promote: 4,
    terminate_master: 2,
    hand_over: 3,
    kill_replica: 4,
    terminate_replica: 2,
    cut_replicas: 4,
    cut_master: 4,
    cut_clients: 3,
    cut_links: 4,
    hold_links: 4,
    detach: 3,
    save: 4,
    rewrite: 4,
    pause_clients: 4,
    hang: 3,
    configure: 8,
    flush: 4,
    guest: 2,
}
