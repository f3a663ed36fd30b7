"""The camera's flow. It runs in the server, which start.py gives this text by RG.PYEXECUTE.

    camera:0 ─▶ every frame ─▶ stream all
                every tenth ─▶ classifier ─▶ stream classes
                                cats only ─▶ stream cats

GearsBuilder and execute are globals of flows; redisAI runs models.
"""
# ruff: noqa: F821
# mypy: ignore-errors

import io
import itertools

import numpy
import redisAI
from PIL import Image

EVERY = 10  # of so many frames, one is classified
KEPT = 200  # entries of each stream, about
SIDE = 224  # pixels
CATS = range(281, 286)  # tabby, tiger cat, Persian cat, Siamese cat, Egyptian cat

numbers = itertools.count()  # of the frames


def append(stream, fields):
    words = [word for field in fields.items() for word in field]
    execute("XADD", stream, "MAXLEN", "~", KEPT, "*", *words)


def show(frame):
    append("all", {"image": frame["value"]["image"]})


def is_due(frame):
    return next(numbers) % EVERY == 0


async def classify(frame):
    image = Image.open(io.BytesIO(frame["value"]["image"])).convert("RGB").resize((SIDE, SIDE))
    pixels = numpy.asarray(image, numpy.float32) / 127.5 - 1
    tensor = redisAI.createTensorFromBlob("FLOAT", [1, SIDE, SIDE, 3], pixels.tobytes())
    runner = redisAI.createModelRunner("classifier")
    redisAI.modelRunnerAddInput(runner, "image", tensor)
    redisAI.modelRunnerAddOutput(runner, "probabilities")
    (output,) = await redisAI.modelRunnerRunAsync(runner)
    probabilities = redisAI.tensorToFlatList(output)
    found = max(range(len(probabilities)), key=probabilities.__getitem__)
    label = execute("LINDEX", "labels", found)
    return {"frame": frame, "class": found, "seen": {"label": label, "probability": probabilities[found]}}


def report(result):
    frame = result["frame"]
    append("classes", {"stream": frame["key"], "id": frame["id"], "class": result["class"], **result["seen"]})


def is_cat(result):
    return result["class"] in CATS


def show_cat(result):
    append("cats", {"image": result["frame"]["value"]["image"], **result["seen"]})


camera = GearsBuilder("StreamReader", desc="camera")
camera.foreach(show).filter(is_due).map(classify).foreach(report).filter(is_cat).foreach(show_cat)
camera.register("camera:*")
