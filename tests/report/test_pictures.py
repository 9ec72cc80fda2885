"""Images come back from the page as they went in."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from raybd.report import Examples
from raybd.report.pictures import amplification, data_uri, gallery


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def examples(difference: int, channels: int = 3) -> Examples:
    clean = np.full((2, channels, 8, 8), 100, dtype=np.uint8)
    triggered = clean.copy()
    triggered[:, :, 6:, 6:] += np.uint8(difference)
    return Examples(clean=clean, triggered=triggered, labels=np.array([3, 1], dtype=np.int64))


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_comes_back_from_its_address_pixel_by_pixel(channels: int) -> None:
    image = np.arange(channels * 64, dtype=np.uint8).reshape(channels, 8, 8)
    expected = image[0] if channels == 1 else np.moveaxis(image, 0, -1)

    assert (pixels(data_uri(image)) == expected).all()


@pytest.mark.parametrize(("difference", "factor"), [(0, 1), (1, 255), (10, 25), (150, 1)])
def test_faint_differences_are_amplified_as_far_as_a_pixel_goes(difference: int, factor: int) -> None:
    shown = examples(difference)

    assert amplification(shown) == factor
    assert pixels(gallery(shown)["entries"][0]["difference"]).max() == difference * factor
