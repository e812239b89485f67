"""The pictures of README and docs. `make screenshots` makes them anew; a test run leaves them as they are."""

import base64
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import expect

from tests.browser.conftest import PHONE, Visit
from tests.browser.tab import Demo
from tests.browser.test_page import ready
from tests.support import ROOT

FOLDER = ROOT / "docs" / "images"
LARGEST = 150_000
COLOURS = (256, 96, 48)
"""As many as fit."""
DESK = {"viewport": {"width": 1280, "height": 800}}
MOONS = "&".join((
    "data=moons", "sample=-1", "steps=300", "holdout=0.25", "reduction=mean", "chosen=hidden.kernel[0][1]",
    'layers=[{"units":3,"activation":{"type":"tanh"}},{"units":1,"activation":{"type":"sigmoid"}}]',
    'loss={"type":"binary_crossentropy"}', 'optimizer={"type":"adam","learning_rate":0.05}',
))  # fmt: skip
PICTURES: dict[str, dict[str, Any]] = {
    "race": {"link": "race", "step": 36},
    "race-basins": {"link": "race/view=2d&starts=grid&side=12&basins=1", "step": 12, "language": "zh", "dark": True},
    "backprop": {"link": "backprop"},
    "backprop-training": {"link": f"backprop/{MOONS}&mode=training&step=300", "dark": True},
    "race-phone": {"link": "race", "step": 36, "device": PHONE},
    "backprop-phone": {"link": "backprop", "device": PHONE, "language": "zh", "dark": True},
}
PIXELS = """async (png) => {
  const image = await createImageBitmap(await (await fetch(`data:image/png;base64,${png}`)).blob())
  const context = new OffscreenCanvas(image.width, image.height).getContext('2d')
  context.drawImage(image, 0, 0)
  const { data } = context.getImageData(0, 0, image.width, image.height)
  let text = ''
  for (let at = 0; at < data.length; at += 30000) text += String.fromCharCode(...data.subarray(at, at + 30000))
  return [image.width, image.height, btoa(text)]
}"""


@pytest.mark.parametrize("name", PICTURES)
def test_picture(visit: Visit, name: str) -> None:
    """Make a picture; it fails if there is anything to complain of, or if the file is large."""
    wanted = PICTURES[name]
    scheme = "dark" if wanted.get("dark") else "light"
    device = wanted.get("device", DESK)
    demo = visit(wanted["link"], wanted.get("language", "en"), color_scheme=scheme, **device)
    ready(demo, wanted["link"])
    if "step" in wanted:
        demo.wait("() => document.querySelector('.host canvas')?.width > 0")
        demo.page.wait_for_load_state("networkidle")
        demo.seek(wanted["step"])
    expect(demo.page.locator(".progress .bar")).to_have_count(0)
    demo.page.wait_for_load_state("networkidle")
    demo.run("() => document.activeElement.blur()")
    picture = pixels(demo, demo.page.screenshot())
    content = next(
        (png for count in COLOURS if len(png := palette_png(picture, count)) <= LARGEST), b" " * (LARGEST + 1)
    )
    assert len(content) <= LARGEST
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.png").write_bytes(content)


def pixels(demo: Demo, png: bytes) -> NDArray[np.uint8]:
    """Return the pixels of a PNG: rows, columns, and red, green and blue. A blank page of the browser reads it."""
    page = demo.page.context.new_page()
    width, height, text = page.evaluate(PIXELS, base64.b64encode(png).decode())
    page.close()
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)[:, :, :3]


def palette_png(picture: NDArray[np.uint8], count: int) -> bytes:
    """Return a PNG of few colours, chosen by median cut (Heckbert 1982): a third of the size, and looks the same."""
    flat = picture.reshape(-1, 3)
    colours, places, counts = np.unique(flat, axis=0, return_inverse=True, return_counts=True)
    boxes = [np.arange(len(colours))]
    while len(boxes) < min(count, len(colours)):
        spans = [np.ptp(colours[box].astype(int), axis=0).max() * counts[box].sum() ** 0.25 for box in boxes]
        box = boxes.pop(int(np.argmax(spans)))
        axis = int(np.ptp(colours[box].astype(int), axis=0).argmax())
        box = box[np.argsort(colours[box, axis], kind="stable")]
        weight = np.cumsum(counts[box])
        middle = min(max(1, int(np.searchsorted(weight, weight[-1] / 2))), len(box) - 1)
        boxes += [box[:middle], box[middle:]]
    palette = (
        np.array([np.average(colours[box], axis=0, weights=counts[box]) for box in boxes]).round().astype(np.uint8)
    )
    of_colour = np.empty(len(colours), np.uint8)
    for index, box in enumerate(boxes):
        of_colour[box] = index
    height, width, _ = picture.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each row begins with the name of its filter, 0: none
    rows[:, 1:] = of_colour[places.reshape(-1)].reshape(height, width)
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = (b"IHDR", header), (b"PLTE", palette.tobytes()), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b"")
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
