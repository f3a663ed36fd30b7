"""Scripts get TorchScript and nothing else. Each attack is an error, reads nothing and leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit import samples
from testkit.scripts import SIGNATURE, execute, function, store, store_command
from testkit.server import Server
from testkit.values import Script
from testkit.wire import Error, Wire

SECRET = "kqzv: the contents of a file of the server's"

# {mark}: a file that must not appear; {secret}: a file that must not be read.
CALLS = [
    "torch.os.system('touch {mark}')",
    "torch.sys.exit()",
    "torch.load('{secret}')",
    "torch.save(x, '{mark}')",
    "torch.hub.load('{secret}', 'x')",
    "torch.hub.load_state_dict_from_url('file://{secret}')",
    "torch.hub.download_url_to_file('file://{secret}', '{mark}')",
    "torch.ops.load_library('{secret}')",
    "torch.classes.load_library('{secret}')",
    "torch.classes.dist_c10d.FileStore('{mark}', 1)",
    "torch.ops.aten.save(x, '{mark}')",
    "torch.ops.aten.save.default(x, '{mark}')",
    "torch.ops.aten.from_file('{secret}', False, 4, dtype=torch.uint8)",
    "torch.ops.aten.from_file('{mark}', True, 4, dtype=torch.uint8)",
    "torch.ops.debugprims.load_tensor('{secret}', [1], [1], dtype=torch.float32, device=torch.device('cpu'))",
    "torch.ops.prim.rpc_async('x', g)",
    "torch.ops.c10d.barrier(x)",
    "torch.ops.inductor.accumulate_grad_(x, x)",
    "torch.from_file('{secret}', size=4, dtype=torch.uint8)",
    "torch.from_file('{secret}', False, 4, dtype=torch.uint8)",
    "torch.from_file('{mark}', True, 4, dtype=torch.uint8)",
    "torch.UntypedStorage.from_file('{secret}', False, 4)",
    "torch.storage.UntypedStorage.from_file('{secret}', False, 4)",
    "torch.FloatStorage.from_file('{secret}')",
    "x.save('{mark}')",
    "x.storage()",
    "x.untyped_storage().from_file('{secret}')",
    "'{secret}'.from_file(False, 4)",
    "getattr(x, 'save')('{mark}')",
    "getattr(torch, 'os').system('touch {mark}')",
    "torch.jit.load('{secret}')",
    "torch.jit.save(x, '{mark}')",
    "torch.jit.script(g)",
    "torch.jit.trace(g, x)",
    "torch.jit.CompilationUnit('def f(): pass')",
    "torch.jit._script.os.system('touch {mark}')",
    "torch.jit.ScriptModule()",
    "torch.serialization.load('{secret}')",
    "torch.serialization.os.system('touch {mark}')",
    "torch.package.PackageImporter('{secret}')",
    "torch.package.os.getcwd()",
    "torch.utils.cpp_extension.load('x', ['{secret}'])",
    "torch.utils.data.DataLoader([1])",
    "torch.utils.model_zoo.load_url('file://{secret}')",
    "torch.utils.dlpack.from_dlpack(x)",
    "torch.utils.checkpoint.checkpoint(g, x)",
    "torch.multiprocessing.spawn(g)",
    "torch.distributed.init_process_group('gloo', 'file://{mark}')",
    "torch.distributed.rpc.init_rpc('x')",
    "torch.futures.wait_all([])",
    "torch.autograd.profiler.profile().export_chrome_trace('{mark}')",
    "torch.profiler.profile().export_chrome_trace('{mark}')",
    "torch._C._jit_pass_inline(1)",
    "torch._C.PyTorchFileWriter('{mark}')",
    "torch._C.PyTorchFileReader('{secret}')",
    "torch._C._from_dlpack(1)",
    "torch._tensor.warnings.warn('x')",
    "torch.nn.functional.warnings.warn('x')",
    "torch.nn.functional.torch.save(x, '{mark}')",
    "torch.nn.functional.torch.os.system('touch {mark}')",
    "torch.functional.torch.os.system('touch {mark}')",
    "torch.torch.os.system('touch {mark}')",
    "torch.random.warnings.warn('x')",
    "torch.backends.cuda.matmul.os.system('touch {mark}')",
    "torch.cuda.os.system('touch {mark}')",
    "torch.onnx.export(x, x, '{mark}')",
    "torch.compile(g)",
    "torch.export.save(x, '{mark}')",
    "torch._dynamo.config.__class__",
    "torch._inductor.codecache.os.system('touch {mark}')",
    "torch.fx.symbolic_trace(g)",
    "torch.library.Library('aten', 'IMPL')",
    "torch.overrides.types.FunctionType()",
    "torch.set_num_threads(64)",
    "torch.set_default_dtype(torch.float64)",
    "torch.set_grad_enabled(True)",
    "torch.__dict__['os'].system('touch {mark}')",
    "torch.__builtins__['open']('{mark}', 'w')",
    "torch.__getattr__('os')",
    "torch.__class__.__mro__",
    "torch.__loader__.get_data('{secret}')",
    "torch.__spec__.loader.get_data('{secret}')",
    "torch.Tensor.__reduce_ex__(x, 2)",
    "torch.Tensor.__class__.__base__.__subclasses__()",
    "x.__class__.__base__.__subclasses__()",
    "x.__reduce_ex__(2)",
    "f.__globals__",
    "g.__code__",
    "redis.os.system('touch {mark}')",
    "redis.__class__",
    "redis.execute.__globals__",
    "redis.execute.__module__",
    "redisAI.os.system('touch {mark}')",
    "redisAI.__dict__",
    "redisAI.model_execute.__globals__",
    "open('{mark}', 'w').write('x')",
    "open('{secret}').read()",
    "eval('1')",
    "exec('1')",
    "compile('1', 'x', 'eval')",
    "__import__('os').system('touch {mark}')",
    "__builtins__",
    "globals()",
    "locals()",
    "vars()",
    "input()",
    "exit()",
    "breakpoint()",
    "help()",
    "type('X', (), {{}})",
    "object()",
    "super()",
    "os.system('touch {mark}')",
    "sys.exit()",
    "subprocess.run('touch {mark}')",
    "np.fromfile('{secret}')",
    "numpy.fromfile('{secret}')",
    "List.__origin__",
    "Any.__class__",
    "ffi.dlopen(None)",
    "lib.bridge_log('notice', 'x')",
    "Path('{mark}').touch()",
    "warnings.warn('x')",
]  # fmt: skip

# Names that lead out of TorchScript: already to hold one is an error.
NAMES = [
    "torch.os", "torch.sys", "torch.hub", "torch.jit", "torch.ops", "torch.classes", "torch.serialization",
    "torch.utils", "torch.package", "torch.multiprocessing", "torch.distributed", "torch._C", "torch.torch",
    "torch.load", "torch.save", "torch.warnings", "torch.library", "torch.importlib", "torch.ctypes",
    "torch.builtins", "torch.platform", "torch.functools", "torch.inspect", "torch.threading", "torch.fx",
    "torch.onnx", "torch.compile", "torch._dynamo", "torch.nn.functional.torch", "torch.nn.Module",
    "torch.nn.modules", "torch.functional.torch", "torch.__file__", "torch.__dict__",
    "torch.__version__.__class__", "torch.version.git_version.__class__", "redis.__dict__", "redisAI.__class__",
    "__name__", "__file__", "self", "cls", "lib", "ffi",
]  # fmt: skip


@pytest.fixture
def folder(server: Server, tmp_path: Path) -> Iterator[Path]:
    """A folder of the attack's own; whatever it writes there or beside the server's files is found afterwards."""
    before = set(server.folder.rglob("*"))
    (tmp_path / "secret").write_text(SECRET)
    yield tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert (tmp_path / "secret").read_text() == SECRET
    assert set(server.folder.rglob("*")) == before


def attack(wire: Wire, source: str) -> None:
    """The script is refused, or what it does fails; the server goes on, and other scripts with it."""
    reply = wire.ask(*store_command("s", source, ["f"]))
    if reply == b"OK":
        wire.ask("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 1)
        reply = wire.ask(*execute("s", "f", ["k"], ["x"], ["a"], ["y"]))
    assert isinstance(reply, Error), f"got through: {reply!r}"
    assert reply.startswith("ERR ")
    assert SECRET[:4] not in reply
    assert wire.ask("EXISTS", "y") == 0
    store(wire, "sound", function("f", "return tensors[0] + 1"), ["f"])


G = "def g(x: Tensor):\n    return x\n\n"


@pytest.mark.parametrize("call", CALLS)
def test_calls(wire: Wire, folder: Path, call: str) -> None:
    call = call.format(mark=folder / "mark", secret=folder / "secret")
    attack(wire, G + function("f", f"x = tensors[0]\n    y = {call}\n    return x"))


@pytest.mark.parametrize("name", NAMES)
def test_names(wire: Wire, folder: Path, name: str) -> None:
    attack(wire, function("f", f"x = tensors[0]\n    y = {name}\n    return x"))


@pytest.mark.parametrize("call", ["torch.save(x, '{mark}')", "torch.from_file('{mark}', True, 4, dtype=torch.uint8)"])
@pytest.mark.parametrize(
    "source",
    [
        "def h(x: Tensor):\n    y = {call}\n    return x\n\n" + function("f", "return h(tensors[0])"),
        function("f", "x = tensors[0]\n    if len(args) > 0:\n        y = {call}\n    return x"),
        function("f", "x = tensors[0]\n    for i in range(2):\n        while i < 1:\n            i += 1\n"
                 "            y = {call}\n    return x"),
        function("f", "x = tensors[0]\n    y = [{call} for i in range(1)]\n    return x"),
        function("f", "x = tensors[0]\n    y = x if len(args) > 100 else tensors[0]\n    z = {call}\n    return y"),
        # a function that nobody calls, yet
        "def h(x: Tensor):\n    y = {call}\n    return x\n\n" + function("f", "return tensors[0]"),
    ],
)  # fmt: skip
def test_hidden_calls(wire: Wire, folder: Path, source: str, call: str) -> None:
    attack(wire, source.format(call=call.format(mark=folder / "mark", secret=folder / "secret")))


@pytest.mark.parametrize("call", ["torch.save(a, '{mark}')", "torch.from_file('{mark}', True, 4, dtype=torch.uint8)"])
def test_calls_of_the_old_convention(wire: Wire, folder: Path, call: str) -> None:
    source = f"def f(a):\n    y = {call.format(mark=folder / 'mark')}\n    return a\n"
    reply = wire.ask("AI.SCRIPTSET", "s", "CPU", "SOURCE", source)
    if reply == b"OK":
        wire.ask("AI.TENSORSET", "x", "FLOAT", 1)
        reply = wire.ask("AI.SCRIPTRUN", "s", "f", "INPUTS", "x", "OUTPUTS", "y")
    assert isinstance(reply, Error)


@pytest.mark.parametrize("version", [1, 4])
def test_calls_of_a_script_out_of_a_saved_database(wire: Wire, folder: Path, version: int) -> None:
    source = function("f", f"y = torch.save(tensors[0], '{folder / 'mark'}')\n    return tensors[0]")
    samples.restore(wire, "s", Script(source, entry_points=("f",)), version)
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1)
    reply = wire.ask(*execute("s", "f", inputs=["x"], outputs=["y"]))
    assert isinstance(reply, Error) and reply.startswith("ERR  object has no attribute save: ")


# ---- what stands outside functions -----------------------------------------------------------------------------------

SOUND = function("f", "return tensors[0]")


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.system('touch {mark}')\n",
        "import os\n",
        "from os import system\nsystem('touch {mark}')\n",
        "open('{mark}', 'w')\n",
        "x = open('{mark}', 'w')\n",
        "torch.save(1, '{mark}')\n",
        "class X:\n    y = open('{mark}', 'w')\n",
        "class X(object):\n    def __init__(self):\n        pass\n",
        "@open('{mark}', 'w')\n",
        "@torch.jit.script\n",
        "@torch.jit.unused\n",
        "@torch.jit.ignore\n",
        "@staticmethod\n",
        "lambda: open('{mark}', 'w')\n",
        "if True:\n    open('{mark}', 'w')\n",
        "with open('{mark}', 'w'):\n    pass\n",
        "try:\n    pass\nexcept:\n    pass\n",
        "async def h(x):\n    return x\n",
        "def h(x: open('{mark}', 'w')):\n    return x\n",
        "def h(x) -> open('{mark}', 'w'):\n    return x\n",
        "def h(x: 'os.system(1)'):\n    return x\n",
        "def h(x):\n    import os\n    return x\n",
        "def h(x):\n    from os import system\n    return x\n",
        "def h(x):\n    with open('{mark}', 'w') as y:\n        pass\n    return x\n",
        "def h(x):\n    global torch\n    torch = x\n    return x\n",
        "def h(x):\n    y = lambda: open('{mark}', 'w')\n    return x\n",
        "def h(x):\n    class X:\n        pass\n    return x\n",
        "def h(x):\n    del torch\n    return x\n",
        "def h(x):\n    torch.relu = x\n    return x\n",
        "def h(x, *y):\n    return x\n",
        "def h(x, **y):\n    return x\n",
        "\f\v\x0bimport os\n",
        "def torch(x):\n    return x\n\ndef h(x):\n    return torch.os.system('touch {mark}')\n",
    ],
)  # fmt: skip
def test_what_is_no_torchscript(wire: Wire, folder: Path, source: str) -> None:
    attack(wire, source.format(mark=folder / "mark") + SOUND)


@pytest.mark.parametrize(
    "default",
    [
        "Any = redis.execute('FLUSHALL')",
        "Any = redis.execute('SET', ['k', 'x'])",
        "int = open('{mark}', 'w')",
        "int = torch.os.system('touch {mark}')",
        "Tensor = torch.from_file('{mark}', True, 4, dtype=torch.uint8)",
        "Tensor = torch.ops.aten.from_file('{mark}', True, 4, dtype=torch.uint8)",
        "None = torch.save(1, '{mark}')",
        "Tuple[()] = torch.save(1, '{mark}')",
        "List[Tensor] = redisAI.model_execute('m', [torch.ones(1)], 1)",
        "List[int] = [i for i in range(10 ** 15)]",
        "Tensor = torch.ones(10 ** 6, 10 ** 6)",
    ],
)
def test_default_arguments_do_nothing(wire: Wire, folder: Path, default: str) -> None:
    """TorchScript evaluates them while it compiles, when nobody runs the script yet."""
    wire.ask("SET", "kept", "x")
    default = default.format(mark=folder / "mark")
    source = f"def g(x: {default}):\n    return torch.ones(1)\n\n" + function("f", "return g()")
    attack(wire, source)
    assert wire.ask("GET", "kept") == b"x"
    assert wire.ask("EXISTS", "k") == 0


def test_plain_default_arguments_work(wire: Wire) -> None:
    source = "def g(x: Tensor, n: int = 3, m: float = -0.5, t: str = 'x', o: Optional[int] = None, b: bool = True):\n"
    source += "    return x * n + m\n\n" + function("f", "return g(tensors[0])")
    store(wire, "s", source, ["f"])
    wire.ask("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 2)
    assert wire.ask(*execute("s", "f", inputs=["x"], outputs=["y"])) == b"OK"
    assert wire.ask("AI.TENSORGET", "y", "VALUES") == [b"5.5"]


# ---- the compiler itself ---------------------------------------------------------------------------------------------

DEPTH = 100_000
NESTED = {
    "brackets": "    return " + "(" * DEPTH + "tensors[0]" + ")" * DEPTH + "\n",
    "open brackets": "    return " + "(" * DEPTH + "\n",
    "lists": "    x = " + "[" * DEPTH + "1" + "]" * DEPTH + "\n    return tensors[0]\n",
    "braces": "    x = " + "{1: " * DEPTH + "1" + "}" * DEPTH + "\n    return tensors[0]\n",
    "calls": "    return " + "torch.relu(" * DEPTH + "tensors[0]" + ")" * DEPTH + "\n",
    "sums": "    return tensors[0]" + " + 1" * DEPTH + "\n",
    "signs": "    return " + "-" * DEPTH + "tensors[0]\n",
    "powers": "    return tensors[0]" + " ** 1" * DEPTH + "\n",
    "nots": "    x = " + "not " * DEPTH + "True\n    return tensors[0]\n",
    "conditions": "    x = " + "1 if True else " * DEPTH + "1\n    return tensors[0]\n",
    "attributes": "    return tensors[0]" + ".T" * DEPTH + "\n",
    "items": "    return tensors" + "[0]" * DEPTH + "\n",
    "strings": "    x = " + "'a' " * DEPTH + "\n    return tensors[0]\n",
    "comparisons": "    x = 1" + " < 1" * DEPTH + "\n    return tensors[0]\n",
    "elifs": "    if True:\n        pass\n" + "    elif False:\n        pass\n" * DEPTH + "    return tensors[0]\n",
    "blocks": "".join("    " + " " * depth + "if True:\n" for depth in range(3000)) + " " * 3004 + "pass\n",
    "continued": "    x = (1" + " +\n 1" * DEPTH + ")\n    return tensors[0]\n",
}


@pytest.mark.parametrize("name", NESTED)
def test_nesting_without_end_is_an_error_and_no_crash(wire: Wire, name: str) -> None:
    reply = wire.ask(*store_command("s", f"def f{SIGNATURE}:\n{NESTED[name]}", ["f"]))
    assert reply == b"OK" or isinstance(reply, Error)
    assert wire.ask("PING") == b"PONG"
    store(wire, "sound", SOUND, ["f"])


def test_nested_types_without_end(wire: Wire) -> None:
    source = "def g(x: " + "List[" * DEPTH + "int" + "]" * DEPTH + "):\n    return 1\n\n" + SOUND
    too_large = "ERR a function of the script is too large: it has more than 60000 operators"
    assert wire.ask(*store_command("s", source, ["f"])) == Error(too_large)
    store(wire, "sound", SOUND, ["f"])


def test_memory_that_is_not_there(wire: Wire) -> None:
    """An error of the script's, and no end of the server."""
    store(wire, "s", function("f", "return torch.ones(10000000, 10000000)"), ["f"])
    reply = wire.ask(*execute("s", "f", outputs=["y"]))
    assert isinstance(reply, Error)
    assert wire.ask("PING") == b"PONG"


@pytest.mark.parametrize(
    "body",
    [
        "return torch.as_strided(tensors[0], [1000000], [1])",
        "return torch.as_strided(tensors[0], [1], [1], 1000000)",
        "return tensors[0].view(1000000)",
        "return torch.sparse_coo_tensor(torch.tensor([[1000000]]), torch.ones(1), [1]).to_dense()",
        "i = torch.tensor([0, 1000000])\n    return torch.sparse_csr_tensor(i, i, torch.ones(2), [1, 1]).to_dense()",
        "i = torch.tensor([0, 1])\n    return torch.sparse_csr_tensor(i, i[1:] + 9999, x[1:], [1, 1]).to_dense()",
        "return torch.segment_reduce(tensors[0], 'sum', lengths=torch.tensor([1000000]), unsafe=True)",
        "return torch.take(tensors[0], torch.tensor([1000000]))",
        "return torch.ctc_loss(torch.zeros(5, 1, 3), torch.tensor([[100000000, 1]]), [5], [2], 0, 0, False)",
        "i = torch.ones(1)\n    return torch.native_batch_norm(i.expand(1, 9999999, 1), i, i, i, i, False, 0, 0)[0]",
        "return tensors[0].index_put_([torch.tensor([1000000])], torch.ones(1))",
        "return torch.max_unpool2d(tensors[0].view(1, 1, 2), torch.tensor([[[1000000, 0]]]), [1, 2])",
        "i = torch.tensor([[1000]])\n    return torch._nested_view_from_buffer(tensors[0], i, i, i)",
        "return torch.embedding(tensors[0].view(1, -1), torch.tensor([1000000]))",
        "return tensors[0][torch.tensor([1000000])]",
        "return torch.gather(tensors[0], 0, torch.tensor([1000000]))",
    ],
)
def test_memory_of_others(wire: Wire, body: str) -> None:
    """Views beyond the end of a tensor are errors."""
    reply = wire.ask(*store_command("s", function("f", f"x = tensors[0]\n    {body}"), ["f"]))
    if reply == b"OK":
        wire.ask("AI.TENSORSET", "x", "FLOAT", 2)
        reply = wire.ask(*execute("s", "f", inputs=["x"], outputs=["y"]))
    assert isinstance(reply, Error)
    assert wire.ask("EXISTS", "y") == 0


@pytest.mark.parametrize("operator", ["//", "%"])
@pytest.mark.parametrize("divisor", [-1, 0])
def test_divisions_without_a_result(wire: Wire, operator: str, divisor: int) -> None:
    """The processor traps on the smallest integer divided by -1."""
    store(wire, "s", function("f", f"return torch.tensor(int(args[0]) {operator} int(args[1]))"), ["f"])
    reply = wire.ask(*execute("s", "f", (), (), [-(2**63), divisor], ["y"]))
    assert reply == b"OK" or isinstance(reply, Error)
    assert wire.ask("PING") == b"PONG"
