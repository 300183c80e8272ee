"""Decoding image files: every kind becomes the right gray or color values, or is refused."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from tests.support.common import error_of
from vae_jax.datasets import DataOptions, image_files, read_images

GRAY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20  # 3 high, 4 wide, 0 to 220
COLOR = np.stack([GRAY, 255 - GRAY, GRAY // 2], axis=-1)


@pytest.fixture
def read(tmp_path):
    """Saves an image and reads its pixels as the package does; gray ones without the last axis."""

    def save_and_read(image, suffix=".png", image_size=(), channels=0, **options):
        path = tmp_path / f"image{suffix}"
        image.save(path, **options)
        fields = DataOptions(image_size=image_size, channels=channels)
        pixels = image_files.read(str(path), fields).pixels
        return pixels if pixels.shape[2] == 3 else pixels[..., 0]

    return save_and_read


@pytest.fixture
def decode(tmp_path):
    """Reads the images of the folder."""

    def read_folder(**fields):
        options = DataOptions(data_dir=str(tmp_path / ".cache"), **fields)
        return read_images(str(tmp_path), options)[0]["all"].images[:]

    return read_folder


def save(path, array=GRAY):
    Image.fromarray(array).save(path)


@pytest.mark.parametrize(
    ("array", "suffixes"),
    [
        (GRAY, [".png", ".bmp", ".gif", ".tif", ".pgm", ".jp2"]),
        (COLOR, [".png", ".bmp", ".tif", ".ppm", ".jp2"]),
        (GRAY > 100, [".png", ".tif", ".bmp", ".pbm"]),
    ],
)
def test_lossless_files(read, array, suffixes):
    expected = np.where(array, np.uint8(255), np.uint8(0)) if array.dtype == bool else array
    for suffix in suffixes:
        np.testing.assert_array_equal(read(Image.fromarray(array), suffix), expected)


def test_cmyk_becomes_color(read):
    result = read(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), ".jpg", quality=95)
    assert result.shape == (16, 16, 3) and result[0, 0, 0] > 240 and result[0, 0, 1:].max() < 15


def test_16_bits_are_scaled_and_not_clipped(read):
    values = np.array([[0, 128, 129, 257, 1_000, 32_768, 65_407, 65_535]], np.uint16)
    for suffix in (".png", ".tif", ".jp2"):
        result = read(Image.fromarray(values), suffix)
        np.testing.assert_array_equal(result, np.rint(values / 257))


def test_palettes_become_color(read):
    image = Image.fromarray(COLOR).quantize(12)
    assert image.mode == "P"
    np.testing.assert_array_equal(read(image), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(("mode", "array"), [("RGBA", COLOR), ("LA", GRAY)])
def test_transparent_pixels_are_white(read, mode, array):
    alpha = np.full((3, 4), 255, np.uint8)
    alpha[0, :2] = 0, 128
    image = Image.fromarray(array).convert(mode)
    image.putalpha(Image.fromarray(alpha))
    opacity = alpha.astype(float).reshape(3, 4, *[1] * (array.ndim - 2)) / 255
    assert np.abs(read(image) - (opacity * array + (1 - opacity) * 255)).max() <= 1


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".tif"])
def test_the_first_of_several_images_is_read(read, suffix):
    red, blue = (Image.new("RGB", (5, 4), color) for color in ((255, 0, 0), (0, 0, 255)))
    options = {"lossless": True} if suffix == ".webp" else {}
    result = read(red, suffix, save_all=True, append_images=[blue], **options)
    np.testing.assert_array_equal(result, np.asarray(red))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_the_orientation_is_applied(read, suffix):
    image = Image.fromarray(np.repeat(np.repeat(GRAY, 8, 0), 8, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    result = read(image, suffix, exif=exif, image_size=(32, 24), channels=1)
    assert result.shape == (32, 24)
    assert np.abs(result.astype(int) - np.rot90(np.asarray(image), -1)).mean() < 6


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_files_without_256_levels_are_refused(read, mode):
    with pytest.raises(ValueError, match="save it as 8-bit"):
        read(Image.new(mode, (4, 3)), ".tif")


def test_the_format_is_that_of_the_content(tmp_path, decode):
    save(tmp_path / "image.png")
    os.rename(tmp_path / "image.png", tmp_path / "image.JPG")
    np.testing.assert_array_equal(decode()[0, ..., 0], GRAY)
    Image.fromarray(GRAY).save(tmp_path / "image.png", format="EPS")  # decoded by a program
    assert "not an image of a known format" in error_of(decode)


@pytest.mark.parametrize(
    ("array", "levels", "type_levels"),
    [
        (np.uint8(GRAY > 100), 2, 256),
        (COLOR // 18, 15, 256),
        (np.uint16(GRAY > 100) * np.uint16(4095), 4096, 65_536),
    ],
)
def test_files_that_are_all_nearly_black(tmp_path, decode, array, levels, type_levels):
    save(tmp_path / "a.png", array)
    save(tmp_path / "b.png", array)
    message = error_of(decode, image_size=(9, 9))  # resampling overshoots
    assert f"no value exceeds {levels - 1} and {type_levels - 1} is white" in message
    for number in (levels, type_levels):
        assert f"--config.data.levels={number} if" in message
        expected = np.rint(array * (255 / (number - 1))).reshape(3, 4, -1)
        np.testing.assert_array_equal(decode(levels=number)[1], expected)
    save(tmp_path / "c.png", GRAY if array.ndim == 2 else COLOR)  # the brightest decides
    assert len(decode()) == 3


def test_files_that_do_not_have_the_levels(tmp_path, decode):
    save(tmp_path / "a.png", np.uint8(GRAY > 100))
    save(tmp_path / "b.png", GRAY > 100)  # one bit has no other reading
    np.testing.assert_array_equal(*decode(levels=2))
    assert "a.png: cannot be read (its values to 1 of 255" in error_of(decode, levels=4096)
    save(tmp_path / "c.png")
    assert "c.png: cannot be read (its values to 220 of 255" in error_of(decode, levels=2)


def test_fit_crops_the_center_and_keeps_the_aspect(read):
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 200
    np.testing.assert_array_equal(read(Image.fromarray(wide), image_size=(10, 10)), wide[:, 10:20])
    checkerboard = np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255
    small = read(Image.fromarray(checkerboard), image_size=(8, 8))
    assert small.min() >= 120 and small.max() <= 135  # antialiased


def test_a_folder_is_gray_if_all_images_are(tmp_path, decode):
    save(tmp_path / "a.png")
    save(tmp_path / "c.png")
    images = decode()
    assert images.shape == (2, 3, 4, 1) and images.dtype == np.uint8
    save(tmp_path / "b.png", COLOR)
    images = decode()
    np.testing.assert_array_equal(images[0], np.repeat(GRAY[..., None], 3, 2))
    np.testing.assert_array_equal(images[1], COLOR)
    luma = COLOR @ [0.299, 0.587, 0.114]
    assert np.abs(decode(channels=1)[1, ..., 0] - luma).max() <= 1


def test_sizes_that_differ(tmp_path, decode):
    save(tmp_path / "a b.png", np.full((300, 400), 99, np.uint8))
    save(tmp_path / "c.png", np.full((400, 300), 99, np.uint8))
    message = error_of(decode)
    assert f"{tmp_path}/a b.png (300, 400), {tmp_path}/c.png (400, 300)" in message
    assert '--config.data.image_size="(64, 64)"' in message
    assert decode(image_size=(64, 64)).shape == (2, 64, 64, 1)


def encoded(suffix="png"):
    file = io.BytesIO()
    noise = np.random.RandomState(0).randint(0, 256, (30, 30, 3)).astype(np.uint8)
    Image.fromarray(noise).save(file, suffix)
    return file.getvalue()


DAMAGE = {
    "empty": (b"", "is empty"),
    "truncated": (encoded()[:-500], "cannot be read"),
    "truncated JPEG": (encoded("jpeg")[:-500], "truncated"),
    "60,000 x 60,000": (b"P5 60000 60000 255\n", "exceeds limit"),
    "a broken link": (None, "No such file"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_or_left_out(tmp_path, decode, capfd, damage):
    content, expected = DAMAGE[damage]
    path = tmp_path / "b\n.png"
    path.symlink_to("gone") if content is None else path.write_bytes(content)
    assert "1 of 1 images cannot be read" in error_of(decode, skip_damaged=True)
    save(tmp_path / "a.png")
    save(tmp_path / "c.png")
    message = error_of(decode)
    assert f"{tmp_path}/b\\n.png: " in message and expected in message
    assert "--config.data.skip_damaged=True" in message
    assert decode(skip_damaged=True).shape == (2, 3, 4, 1)
    shown = capfd.readouterr().err
    assert "1 of 3 images cannot be read" in shown and expected in shown


def test_few_values_are_computed_ahead(monkeypatch):
    monkeypatch.setattr(image_files, "available_cores", lambda: 2)
    started = []
    results = image_files.map_on_cores(lambda item: started.append(item) or item, range(100))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(started) <= 3 + 4 * 2
    assert [*results] == [*range(3, 100)] and len(started) == 100
