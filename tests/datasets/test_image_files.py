"""Decoding image files: every kind becomes the right gray or color values, or is refused."""

import errno
import io
import os
import tracemalloc
import warnings

import numpy as np
import pytest
from PIL import Image

from tests.support.common import error_of
from vae_jax.datasets import image_files
from vae_jax.datasets.image_files import decode
from vae_jax.datasets.image_folder import list_images

GRAY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20  # 3 high, 4 wide, 0 to 220
COLOR = np.stack([GRAY, 255 - GRAY, GRAY // 2], axis=-1)


@pytest.fixture
def read(tmp_path):
    """Saves an image and reads it as the package does."""

    def save_and_read(image, suffix=".png", image_size=(), channels=0, **options):
        path = tmp_path / f"image{suffix}"
        image.save(path, **options)
        return image_files.read(str(path), image_size, channels).pixels

    return save_and_read


@pytest.fixture
def decode_folder(tmp_path):
    def decode_all(image_size=(), channels=0, skip_damaged=False, levels=0):
        return decode(list_images(str(tmp_path)), image_size, channels, skip_damaged, levels)

    return decode_all


def save(path, array=GRAY):
    Image.fromarray(array).save(path)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".gif", ".tif", ".pgm", ".jp2"])
def test_gray(read, suffix):
    np.testing.assert_array_equal(read(Image.fromarray(GRAY), suffix), GRAY)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".jp2"])
def test_color(read, suffix):
    np.testing.assert_array_equal(read(Image.fromarray(COLOR), suffix), COLOR)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif"])
def test_lossy_color(read, suffix):
    flat = np.broadcast_to(np.array([200, 100, 50], np.uint8), (16, 16, 3))
    result = read(Image.fromarray(flat), suffix, quality=95)
    assert np.abs(result.astype(int) - flat).max() <= 4


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".pbm"])
def test_one_bit(read, suffix):
    black_and_white = Image.fromarray(GRAY > 100)
    assert black_and_white.mode == "1"
    np.testing.assert_array_equal(read(black_and_white, suffix), np.where(GRAY > 100, 255, 0))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm", ".jp2"])
def test_16_bits_are_scaled_and_not_clipped(read, suffix):
    values = np.array([[0, 128, 129, 257, 1_000, 32_768, 65_407, 65_535]], np.uint16)
    expected = np.rint(values / 257)
    np.testing.assert_array_equal(read(Image.fromarray(values), suffix), expected)


def test_a_color_of_a_palette_that_is_not_used(read):
    image = Image.fromarray(GRAY)
    image.putpalette([0, 255, 0] * 7 + [value for level in range(7, 256) for value in [level] * 3])
    assert image.mode == "P"
    used = np.where(GRAY == 0, 7, GRAY)
    image.putdata(used.reshape(-1).tolist())
    np.testing.assert_array_equal(read(image), used)
    image.putpixel((0, 0), 0)
    assert read(image)[0, 0].tolist() == [0, 255, 0]


# Levels.


@pytest.mark.parametrize(
    ("array", "levels", "as_they_are"),
    [
        (np.uint8(GRAY > 100), 2, 256),
        (np.uint8(GRAY > 100) * np.uint8(16), 17, 256),
        (COLOR // 18, 15, 256),
        (np.uint16(GRAY > 100) * np.uint16(4095), 4096, 65_536),
    ],
)
def test_files_that_are_all_nearly_black(tmp_path, decode_folder, array, levels, as_they_are):
    save(tmp_path / "a.png", array)
    save(tmp_path / "b.png", array)
    message = error_of(decode_folder, image_size=(9, 9))  # resampling overshoots
    assert message.startswith(f"{tmp_path}: no value exceeds {levels - 1} and {as_they_are - 1}")
    assert f"is white, set --config.data.levels={levels}" in message
    assert message.endswith(f"if they are this dark, set --config.data.levels={as_they_are}")
    expected = np.rint(array * (255 / (levels - 1))).reshape(3, 4, -1)
    np.testing.assert_array_equal(decode_folder(levels=levels).images[0], expected)
    expected = np.rint(array * (255 / (as_they_are - 1))).reshape(3, 4, -1)
    np.testing.assert_array_equal(decode_folder(levels=as_they_are).images[1], expected)
    save(tmp_path / "c.png", GRAY if array.ndim == 2 else COLOR)  # the brightest decides
    assert len(decode_folder().images) == 3


def test_black_files_are_refused(tmp_path, decode_folder):
    save(tmp_path / "a.png", GRAY * 0)
    assert "every value is 0 (black)" in error_of(decode_folder)


def test_12_bits_stored_as_16_are_named(tmp_path, decode_folder):
    save(tmp_path / "a.png", GRAY.astype(np.uint16) * 18)
    assert "set --config.data.levels=3961 (4096 for 12 bits);" in error_of(decode_folder)


def test_files_that_do_not_have_the_levels(tmp_path, decode_folder):
    save(tmp_path / "a.png", np.uint8(GRAY > 100))
    save(tmp_path / "b.png", GRAY > 100)  # one bit has no other reading
    images = decode_folder(levels=2).images
    np.testing.assert_array_equal(images[0], images[1])
    message = error_of(decode_folder, levels=4096)
    assert "a.png: cannot be read (its values to 1 of 255 are not data.levels=4096)" in message
    save(tmp_path / "c.png")
    assert "c.png: cannot be read (its values to 220 of 255" in error_of(decode_folder, levels=2)


def test_palette_becomes_color(read):
    image = Image.fromarray(COLOR).quantize(12)
    assert image.mode == "P"
    np.testing.assert_array_equal(read(image), np.asarray(image.convert("RGB")))


def test_cmyk_becomes_color(read):
    flat = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    result = read(flat, ".jpg", quality=95)
    assert result.shape == (16, 16, 3) and (result[0, 0] > [240, -1, -1]).all()
    assert result[0, 0, 1:].max() < 15


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparent_pixels_are_white(read, mode):
    base = Image.fromarray(GRAY if mode == "LA" else COLOR)
    alpha = np.full((3, 4), 255, np.uint8)
    alpha[0, 0], alpha[0, 1] = 0, 128
    if mode in ("P", "PA"):
        image = base.quantize(12)
        image.info["transparency"] = image.getpixel((0, 0))
        alpha[0, 1] = 255
        result = read(
            image, ".gif" if mode == "PA" else ".png", transparency=image.getpixel((0, 0))
        )
        opaque = np.asarray(image.convert("RGB"))
    else:
        image = base.convert(mode)
        image.putalpha(Image.fromarray(alpha))
        result, opaque = read(image), np.asarray(base)
    fraction = alpha.astype(float) / 255 if opaque.ndim == 2 else alpha[..., None] / 255
    expected = fraction * opaque + (1 - fraction) * 255
    assert result.shape == opaque.shape
    assert np.abs(result - expected).max() <= 1
    assert (result[0, 0] == 255).all()


@pytest.mark.parametrize("array", [GRAY, COLOR])
def test_a_transparent_level_is_white(read, array):
    image = Image.fromarray(array)
    result = read(image, transparency=image.getpixel((1, 0)))
    assert (result[0, 1] == 255).all()
    np.testing.assert_array_equal(result[1:], array[1:])


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_of_several_images_the_first(read, suffix):
    first, second = Image.new("RGB", (5, 4), (255, 0, 0)), Image.new("RGB", (5, 4), (0, 0, 255))
    options = {"lossless": True} if suffix == ".webp" else {}
    result = read(first, suffix, save_all=True, append_images=[second], **options)
    np.testing.assert_array_equal(result, np.asarray(first))


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_files_of_several_images_are_named(tmp_path, decode_folder, suffix):
    first, second = Image.new("RGB", (5, 4), (255, 0, 0)), Image.new("RGB", (5, 4), (0, 0, 255))
    first.save(tmp_path / "a.png")
    assert decode_folder().note == ""
    first.save(tmp_path / f"b\n{suffix}", save_all=True, append_images=[second])
    expected = "1 files hold several images, of which the first is read: "
    assert decode_folder().note == f"{expected}'b\\n{suffix}'"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_the_orientation_is_applied(read, suffix):
    image = Image.fromarray(np.repeat(np.repeat(GRAY, 8, 0), 8, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    result = read(image, suffix, exif=exif, image_size=(32, 24), channels=1)
    assert result.shape == (32, 24)
    assert np.abs(result.astype(int) - np.rot90(np.asarray(image), -1)).mean() < 6


@pytest.mark.parametrize(
    ("image", "suffix"),
    [
        (Image.new("F", (4, 3)), ".tif"),
        (Image.new("I", (4, 3), 70_000), ".tif"),
        (Image.new("LAB", (4, 3)), ".tif"),
    ],
)
def test_what_has_no_256_levels_is_refused(read, image, suffix):
    with pytest.raises(ValueError, match="save it as 8-bit"):
        read(image, suffix)


def test_16_bits_of_another_meaning_are_refused(read, tmp_path):
    image = Image.fromarray(GRAY.astype(np.uint16) * 257)
    with pytest.raises(ValueError, match="from black to white"):
        read(image, transparency=0)
    with pytest.raises(ValueError, match="from black to white"):
        read(image, ".tif", tiffinfo={262: 0})


def test_the_name_may_be_of_another_format(tmp_path):
    save(tmp_path / "image.png")
    os.rename(tmp_path / "image.png", tmp_path / "image.JPG")
    pixels = image_files.read(str(tmp_path / "image.JPG"), (), 0).pixels
    np.testing.assert_array_equal(pixels, GRAY)


def test_other_formats_are_not_tried(tmp_path, decode_folder):
    Image.fromarray(GRAY).save(tmp_path / "image.png", format="EPS")
    assert "no image of a known format" in error_of(decode_folder)


# Size and channels.


def test_fit_crops_the_center_and_keeps_the_aspect(read):
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 200
    np.testing.assert_array_equal(read(Image.fromarray(wide), image_size=(10, 10)), wide[:, 10:20])
    small = read(Image.fromarray(wide), image_size=(5, 5)).astype(int)
    assert small.shape == (5, 5) and np.abs(small - 200).max() <= 15
    assert read(Image.fromarray(wide), image_size=(20, 7)).shape == (20, 7)


def test_fit_is_antialiased(read):
    checkerboard = np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255
    small = read(Image.fromarray(checkerboard), image_size=(8, 8))
    assert small.min() >= 120 and small.max() <= 135


def test_channels(read):
    np.testing.assert_array_equal(
        read(Image.fromarray(GRAY), channels=3), np.repeat(GRAY[..., None], 3, 2)
    )
    luma = COLOR @ [0.299, 0.587, 0.114]
    assert np.abs(read(Image.fromarray(COLOR), channels=1) - luma).max() <= 1


def test_a_folder_is_gray_where_all_images_are(tmp_path, decode_folder):
    save(tmp_path / "a.png")
    save(tmp_path / "c.png")
    images = decode_folder().images
    assert images.shape == (2, 3, 4, 1) and images.dtype == np.uint8
    save(tmp_path / "b.png", COLOR)
    images = decode_folder().images
    np.testing.assert_array_equal(images[0], np.repeat(GRAY[..., None], 3, 2))
    np.testing.assert_array_equal(images[1], COLOR)
    assert decode_folder(channels=1).images.shape == (3, 3, 4, 1)


def test_sizes_that_differ(tmp_path, decode_folder):
    save(tmp_path / "a b.png")
    save(tmp_path / "c.png", GRAY.T)
    message = error_of(decode_folder)
    assert f"{tmp_path}/a b.png has 3x4" in message and f"{tmp_path}/c.png 4x3" in message
    assert '--config.data.image_size="(3, 4)"' in message
    assert decode_folder(image_size=(2, 2)).images.shape == (2, 2, 2, 1)


def test_a_size_that_trains_is_advised(tmp_path, decode_folder):
    save(tmp_path / "a.png", np.full((3024, 4032), 99, np.uint8))
    save(tmp_path / "b.png", np.full((4032, 3024), 99, np.uint8))
    message = error_of(decode_folder)
    assert '--config.data.image_size="(64, 85)" (as they are, 50 color images take 7 GB' in message
    save(tmp_path / "a.png", np.full((2, 1000), 99, np.uint8))
    assert error_of(decode_folder).endswith('image_size="(1, 256)"')


# Files that cannot be read.


def encoded(suffix="png"):
    file = io.BytesIO()
    noise = np.random.RandomState(0).randint(0, 256, (30, 30, 3)).astype(np.uint8)
    Image.fromarray(noise).save(file, suffix)
    return file.getvalue()


def _bomb():
    data = bytearray(encoded("bmp"))
    data[18:26] = np.array([60_000, 60_000], "<i4").tobytes()
    return bytes(data)


DAMAGE = {
    "empty": (b"", "is empty"),
    "no image": (b"no image\n" * 9, "no image of a known format"),
    "truncated": (encoded()[:-500], "cannot be read"),
    "truncated JPEG": (encoded("jpeg")[:-500], "truncated"),
    "bomb": (_bomb(), "pixels, the most that is decoded"),
    "60,000 x 60,000": (b"P5 60000 60000 255\n", "pixels, the most that is decoded"),
    "beyond the lesser limit": (b"P5 10000 10000 255\n", "pixels, the most that is decoded"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named(tmp_path, decode_folder, damage):
    content, expected = DAMAGE[damage]
    for name in ("a.png", "b\n.png", "c.png"):
        save(tmp_path / name)
    (tmp_path / "b\n.png").write_bytes(content)
    message = error_of(decode_folder)
    assert f"{tmp_path}/b\\n.png: " in message and expected in message
    assert "--config.data.skip_damaged=True" in message
    decoded = decode_folder(skip_damaged=True)
    assert decoded.images.shape == (2, 3, 4, 1) and [*decoded.left_out] == [1]
    assert expected in decoded.left_out[1]


def test_files_that_vanish_or_may_not_be_read(tmp_path, decode_folder, monkeypatch):
    save(tmp_path / "a.png")
    save(tmp_path / "c.png")
    os.symlink("gone.png", tmp_path / "b.png")
    assert "b.png: cannot be read (No such file or directory)" in error_of(decode_folder)
    (tmp_path / "b.png").unlink()
    os.symlink("b.png", tmp_path / "b.png")
    assert "Too many levels of symbolic links" in error_of(decode_folder)
    assert len(decode_folder(skip_damaged=True).images) == 2

    def forbidden(file, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Image, "open", forbidden)
    assert "a.png: cannot be read (Permission denied)" in error_of(decode_folder)
    assert "no image can be read; the first: cannot be" in error_of(decode_folder, (), 0, True)

    def fail(*arguments):
        raise EOFError

    monkeypatch.setattr(image_files, "read", fail)
    assert "a.png: cannot be read (EOFError)" in error_of(decode_folder)


def test_memory_follows_the_file_not_its_header(tmp_path, decode_folder):
    content = encoded("jpeg2000")
    box = content.index(b"jp2h") - 4
    (tmp_path / "a.jp2").write_bytes(content[:box] + b"\x1f" + content[box + 1 :])
    tracemalloc.start()
    assert "a.jp2: cannot be read (" in error_of(decode_folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_warnings_of_pillow_are_not_shown(tmp_path, decode_folder, monkeypatch):
    save(tmp_path / "a.png")

    def load_and_warn(path, image_size, channels, levels):
        warnings.warn("odd\nand harmless", stacklevel=1)
        return image_files.ReadImage(GRAY, 220, 255, False)

    monkeypatch.setattr(image_files, "read", load_and_warn)
    assert decode_folder().images.shape == (1, 3, 4, 1)
