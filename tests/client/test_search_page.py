"""docs/search.md and the model of examples/embed.py: what the page prints, and the embeddings of the reference.

The reference takes the tokenizer of the package tokenizers, and PyTorch's own layers with the weights of the encoder.
"""

# Texts of many scripts have letters that look like others.
# ruff: noqa: RUF001

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import redis
import safetensors.torch
import torch
from redisai_module.client import RedisAI
from tokenizers import Tokenizer

from examples import embed
from testkit.server import Server, fresh_server
from tests.bindings.kit import BINDINGS, settle
from tests.conftest import StartServer
from tests.replication.test_upgrades import program
from tests.tools.test_docs import ROOT, ask, blocks, cli, session

PAGE = "docs/search.md"
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "",
    " \t\r\n",
    "a",
    "?!?!",
    "don't can't O'Neill's",
    "someone@example.org, https://example.org/a?b=c&d=1#x",
    "3.14159 × 10^8 m/s ≈ 299,792,458",
    "$100 €200 £300 ¥400 ₹500",
    "C++, C#, .NET, snake_case camelCase kebab-case",
    "naïve café résumé Zürich Ångström façade",
    "NAÏVE CAFÉ RÉSUMÉ",
    "cafe\u0301 nai\u0308ve",
    "Größe, Straße, STRASSE, Äpfel",
    "¿Dónde está la biblioteca? ¡Mañana!",
    "L'été, l'œuvre d'un élève à Noël",
    "Zażółć gęślą jaźń",
    "Příliš žluťoučký kůň úpěl ďábelské ódy",
    "Árvíztűrő tükörfúrógép",
    "İstanbul'da ığdır şeker çay Ğ",
    "Þórður Æsir ð Ø ø",
    "Съешь же ещё этих мягких французских булок",
    "ЙОГУРТ Ёлка Їжак",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
    "ΟΔΟΣ ΣΊΣΥΦΟΣ ΆΛΦΑ",
    "שָׁלוֹם עולם, מה שלומך?",
    "مَرْحَبًا بالعالم، كيف حالك؟",
    "हिन्दी में एक वाक्य",
    "বাংলা ভাষা",
    "ภาษาไทยเขียนติดกัน",
    "Tiếng Việt có nhiều dấu",
    "我喜欢在早上喝咖啡。",
    "今日は天気がいいですね。ガギグ ｶﾞｷﾞ",
    "한국어 문장입니다.",
    "混合 mixed テキスト text 텍스트",
    "😀 👍🏽 👨‍👩‍👧‍👦 🇩🇪 ❤️",
    "emoji😀between😀words",
    "\u200bzero\u200bwidth\u200d \ufeffBOM \u00adsoft",
    "a\u00a0b\u2003c\u3000d\u2028e\u0085f",
    "control \x01\x02\x7f\x9f and NUL \0 characters",
    "\ufffd \ue000 \U000e0001",
    "“curly” ‘quotes’ — dashes – … •",
    "ﬁne ﬂuﬀ ℌ ① ² ½ ™ ＦＵＬＬ",
    "𝒜𝓁𝓅𝒽𝒶 𠮷 ext",
    "😀" * 300,  # from here on, the long ones
    "x" * 100,
    "x" * 101,
    "word " * 600,
    "The cat sat on the mat. " * 200,
    "咖" * 400,
]
SHORT = 44  # as many come before them


class Embedder:
    """A server with the model, which the command of the page has stored there."""

    def __init__(self, server: Server) -> None:
        self.server = server
        (command,) = (text for language, text in blocks(PAGE) if language == "sh" and "embed.py" in text)
        words = command.replace("python ", f"{sys.executable} ", 1).replace("6379", str(server.port))
        self.printed = subprocess.check_output(words, shell=True, cwd=ROOT, text=True, timeout=120)
        with redis.Redis(port=server.port) as client:
            self.model: bytes = RedisAI(client).model_blob("embed")


@pytest.fixture(scope="module")
def embedder() -> Iterator[Embedder]:
    with fresh_server(more=BINDINGS) as server:
        yield Embedder(server)


def reference(texts: list[str]) -> npt.NDArray[np.float32]:
    files = embed.files()
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
    weights = safetensors.torch.load(files["model.safetensors"])

    def of(name: str, *parts: str) -> torch.Tensor:
        return torch.cat([weights[f"{name}{part}"] for part in parts])

    layer = torch.nn.TransformerEncoderLayer(384, 12, 1536, 0, "gelu", 1e-12, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 6, enable_nested_tensor=False).eval()
    state: dict[str, torch.Tensor] = {}
    renamed = {"self_attn.out_proj": "attention.output.dense", "norm1": "attention.output.LayerNorm"}
    renamed |= {"linear1": "intermediate.dense", "linear2": "output.dense", "norm2": "output.LayerNorm"}
    for number in range(6):
        ours, theirs = f"layers.{number}.", f"encoder.layer.{number}."
        for kind in ("weight", "bias"):
            parts = [f"self.{part}.{kind}" for part in ("query", "key", "value")]
            state[f"{ours}self_attn.in_proj_{kind}"] = of(f"{theirs}attention.", *parts)
            state |= {f"{ours}{new}.{kind}": weights[f"{theirs}{old}.{kind}"] for new, old in renamed.items()}
    encoder.load_state_dict(state)
    vectors = []
    for tokens in (tokenizer.encode_batch(texts[:SHORT]), tokenizer.encode_batch(texts[SHORT:])):
        ids, mask = (torch.tensor([getattr(row, name) for row in tokens]) for name in ("ids", "attention_mask"))
        word, place, kind_ = (
            weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
        )
        x = word[ids] + place[: ids.size(1)] + kind_[0]
        norm = (weights["embeddings.LayerNorm.weight"], weights["embeddings.LayerNorm.bias"])
        with torch.no_grad():
            x = encoder(torch.nn.functional.layer_norm(x, (384,), *norm, 1e-12), src_key_padding_mask=mask == 0)
        x = torch.nn.functional.normalize((x * mask[:, :, None]).sum(1) / mask.sum(1)[:, None])
        vectors.append(x.numpy())
    return np.concatenate(vectors)


def test_the_example_prints_what_is_alike(embedder: Embedder) -> None:
    first, *others = embedder.printed.splitlines()
    assert first.startswith(f"{embed.TEXTS[0]} 384 numbers: ")
    likeness = {line[5:]: float(line[:5]) for line in others}
    assert list(likeness) == embed.TEXTS[1:]
    assert max(likeness, key=likeness.__getitem__) == embed.TEXTS[1] and likeness[embed.TEXTS[1]] > 0.3


def test_embeddings_equal_the_reference(embedder: Embedder) -> None:
    with redis.Redis(port=embedder.server.port) as client:
        ai = RedisAI(client)
        vectors = np.concatenate([ai.run("embed", texts)[0] for texts in (TEXTS[:SHORT], TEXTS[SHORT:])])
        assert vectors.shape == (50, 384) and vectors.dtype == np.float32
        cosines = (vectors * reference(TEXTS)).sum(1)
        wrong = [text[:50] for text, cosine in zip(TEXTS, cosines, strict=True) if not 0.9999 < cosine < 1.0001]
        assert not wrong
        for text in ("", TEXTS[0]):  # alone as well as among longer ones
            (alone,) = ai.run("embed", [text])
            np.testing.assert_allclose(alone[0], vectors[TEXTS.index(text)], atol=1e-5)
        with pytest.raises(redis.ResponseError):
            ai.run("embed", np.array([b"no UTF-8: \xff"], object))
        assert ai.run("embed", np.array([], object))[0].shape == (0, 384)


def run_page(server: Server, folder: Path, capsys: Any, without: str = "no section") -> int:
    """Runs what the page has, but for its command that stores the model. Returns how many commands were sent."""
    replies = 0
    sections = (ROOT / PAGE).read_text().split("\n## ")
    text = "\n## ".join(section for section in sections if not section.startswith(without))
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if language == "python" and block.startswith("# search.py\n"):
            (folder / "search.py").write_text(block)
        elif language == "python":
            capsys.readouterr()
            (folder / "program.py").write_text(block.replace("redis.Redis()", f"redis.Redis(port={server.port})"))
            runpy.run_path(str(folder / "program.py"), run_name="__main__")
            assert f"# {capsys.readouterr().out.strip()}\n" in block
        elif language == "sh" and "redis-cli" in block:
            words = block.replace("redis-cli", f"{cli()} -p {server.port}", 1)
            assert subprocess.check_output(words, shell=True, cwd=folder, text=True, timeout=60) == "OK\n"
        elif not language:
            for command, reply in session(block):
                with server.wire() as wire:
                    settle(wire)
                assert ask(server, command) == reply, command
                replies += 1
    return replies


def test_page(embedder: Embedder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_page(embedder.server, tmp_path, capsys, without="Search in a vector set\n") >= 8


def test_page_on_redis_8(
    embedder: Embedder, start_server: StartServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = start_server(program=program("redis-8.2"))
    with redis.Redis(port=server.port) as client:
        RedisAI(client).model_store("embed", embedder.model)
    assert run_page(server, tmp_path, capsys) >= 11
