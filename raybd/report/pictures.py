"""Example images as PNG data, so that the page needs no other file."""

import base64
import io
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from raybd.report.contents import Examples


def data_uri(image: UInt8[np.ndarray, "c h w"]) -> str:
    """Return an image as a PNG `data:` address: its first three channels, or its first where it has fewer."""
    pixels = image[0] if image.shape[0] < 3 else np.moveaxis(image[:3], 0, -1)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def amplification(examples: Examples) -> int:
    """Return by how much the differences are multiplied so that the largest just fits into 0 to 255."""
    largest = int(_differences(examples).max(initial=0))
    return max(1, 255 // largest) if largest else 1


def gallery(examples: Examples) -> dict[str, Any]:
    """Return one entry per image: label, clean, triggered and amplified difference, as `data:` addresses."""
    factor = amplification(examples)
    differences = (_differences(examples) * factor).astype(np.uint8)
    entries = [
        {
            "label": int(label),
            "clean": data_uri(clean),
            "triggered": data_uri(triggered),
            "difference": data_uri(difference),
        }
        for label, clean, triggered, difference in zip(
            examples.labels, examples.clean, examples.triggered, differences, strict=True
        )
    ]
    return {"factor": factor, "entries": entries}


def _differences(examples: Examples) -> Any:
    return np.abs(examples.triggered.astype(np.int16) - examples.clean.astype(np.int16))
