"""The kinds of transformations: one class a kind, with its options and how it paints.

`mdhelpers.data.transforms` says what they are for, and is the door to them.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from PIL import ImageColor
from pydantic import BeforeValidator, Field, SerializeAsAny
from scipy.ndimage import gaussian_filter1d

from mdhelpers.base.places import resolve
from mdhelpers.base.specs import Spec
from mdhelpers.data import drawings
from mdhelpers.data.drawings import CORNERS, Layer
from mdhelpers.data.pictures import pictures_at, read_rgba, resized

Side = Literal["top left", "top right", "bottom left", "bottom right"]


@dataclass(frozen=True)
class Around:
    """What is known of the images beside their pixels.

    Attributes
    ----------
    foreground : ndarray, shape (n, H, W), bool, optional
        True on the object.
    labels : ndarray, shape (n,), int, optional
    """

    foreground: np.ndarray | None = None
    labels: np.ndarray | None = None


class Transformation(Spec):
    """A feature and how it is put into images; one subclass a kind.

    ``at`` fixes the intensity of a part of a list, whatever the study's.
    """

    kind: str
    at: float | None = None

    about: ClassVar[str] = ""
    measured_in: ClassVar[str] = "%"
    default: ClassVar[float] = 100.0
    needs_foreground: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """What tables call it: its kind, and the options that are not its defaults."""
        given = self.model_dump(exclude_defaults=True, exclude={"kind", "at"})
        return " ".join([self.kind, *(str(value) for value in given.values())])

    @property
    def intensity_unit(self) -> str:
        return self.measured_in

    def reads(self) -> list[Path]:
        """Files that it takes its content from."""
        return []

    def paint(
        self, canvas: np.ndarray, intensity: float, rng: np.random.Generator, around: Around
    ) -> None:
        """Change float32 images (n, H, W, 3) in 0 to 255, in place."""
        raise NotImplementedError


class Placed(Transformation):
    """A patch at a place of its own in each image; its intensity is its size."""

    unit: Literal["px", "%"] = "px"
    where: Literal["anywhere", "background", "centre"] | Side = "anywhere"

    measured_in: ClassVar[str] = "px"
    default: ClassVar[float] = 5.0

    @property
    def intensity_unit(self) -> str:
        return "% of the side" if self.unit == "%" else "px"

    def paint(self, canvas, intensity, rng, around) -> None:
        size = min(canvas.shape[1:3])
        side = intensity * size / 100 if self.unit == "%" else intensity
        self.draw(canvas, *self.place(canvas, side, rng, around), side, rng)

    def place(self, canvas, side: float, rng, around: Around) -> tuple[np.ndarray, np.ndarray]:
        """Upper left corners (n,), (n,) of the squares that the patches lie in."""
        n, height, width, _ = canvas.shape
        if self.where == "anywhere":
            return drawings.random_position(canvas, side, rng)
        if self.where == "background":
            if around.foreground is None:
                raise ValueError(WITHOUT_FOREGROUND.format(f"{self.kind} with where: background"))
            return drawings.clear_position(canvas, side, around.foreground, rng)
        if self.where == "centre":
            return np.full(n, (height - side) / 2), np.full(n, (width - side) / 2)
        corner = np.full(n, CORNERS.index(self.where))
        return drawings.corner_position(canvas, corner, side)

    def draw(self, canvas, top, left, side: float, rng) -> None:
        raise NotImplementedError


WITHOUT_FOREGROUND = (
    "{} needs to know where the object is, and these images have no foreground masks. Give "
    "dataset.masks, a folder with a mask for each image, or another transformation"
)


def checked_color(value: Any) -> tuple[int, int, int]:
    """Red, green and blue in 0 to 255, of a name, a code such as #ff0000, or three numbers."""
    if isinstance(value, str):
        return ImageColor.getrgb(value)[:3]
    if len(value) != 3 or not all(0 <= v <= 255 for v in value):
        raise ValueError("a colour is a name, a code such as '#ff0000', or three numbers to 255")
    return tuple(value)


def color_word(color: tuple[int, int, int]) -> str:
    """A colour's name, where it has one, or its code."""
    named = (word for word in ImageColor.colormap if ImageColor.getrgb(word)[:3] == tuple(color))
    return next(named, "#{:02x}{:02x}{:02x}".format(*color))


Color = Annotated[tuple[int, int, int], BeforeValidator(checked_color)]


class Tag(Placed):
    kind: Literal["tag"] = "tag"
    where: Literal["anywhere", "background", "centre"] | Side = "top left"
    about: ClassVar[str] = "a square tag in the top left corner"

    def draw(self, canvas, top, left, side, rng) -> None:
        drawings.draw_tag(canvas, top, left, side)


class Ring(Placed):
    kind: Literal["ring"] = "ring"
    about: ClassVar[str] = "a magenta ring at a random place"
    default: ClassVar[float] = 9.0

    def draw(self, canvas, top, left, side, rng) -> None:
        drawings.draw_ring(canvas, top, left, side)


class Cross(Placed):
    kind: Literal["cross"] = "cross"
    about: ClassVar[str] = "a cyan cross at a random place"
    default: ClassVar[float] = 7.0

    def draw(self, canvas, top, left, side, rng) -> None:
        drawings.draw_cross(canvas, top, left, side)


class Square(Placed):
    kind: Literal["square"] = "square"
    color: Color = drawings.YELLOW
    about: ClassVar[str] = "a square of one colour"

    def draw(self, canvas, top, left, side, rng) -> None:
        drawings.blend(canvas, drawings.square_mask(canvas, top, left, side), self.color)


class YellowSquare(Square):
    kind: Literal["yellow_square"] = "yellow_square"
    about: ClassVar[str] = "a yellow square at a random place"


class BlackWhitePatch(Placed):
    kind: Literal["black_white_patch"] = "black_white_patch"
    about: ClassVar[str] = "a black and white patch, like a dog's nose"
    default: ClassVar[float] = 6.0

    def draw(self, canvas, top, left, side, rng) -> None:
        drawings.draw_black_white_patch(canvas, top, left, side)


class Rectangles(Placed):
    kind: Literal["rectangles"] = "rectangles"
    about: ClassVar[str] = "two bright panes, like windows"
    default: ClassVar[float] = 8.0

    def draw(self, canvas, top, left, side, rng) -> None:
        drawings.draw_rectangles(canvas, top, left, side)


class Patch(Placed):
    """A picture, or for each image one from a folder of pictures, such as a bank of faces."""

    kind: Literal["patch"] = "patch"
    path: str
    where: Literal["anywhere", "background", "centre"] | Side = "background"
    about: ClassVar[str] = "a picture of your own, such as a face, in the background"
    default: ClassVar[float] = 8.0

    def reads(self) -> list[Path]:
        return pictures_at(resolve(self.path), "transformation.path")

    def draw(self, canvas, top, left, side, rng) -> None:
        bank = [read_rgba(path) for path in self.reads()]
        k = max(1, min(round(side), *canvas.shape[1:3]))
        crops = np.stack([resized(picture, k) for picture in bank])
        chosen = crops[rng.integers(len(bank), size=len(canvas))]
        rows, columns = (
            np.clip(np.rint(x).astype(int), 0, m - k)[:, None] + np.arange(k)
            for x, m in zip((top, left), canvas.shape[1:3], strict=True)
        )
        each = np.arange(len(canvas))[:, None, None]
        opacity, color = chosen[..., 3:] / 255, chosen[..., :3]
        there = canvas[each, rows[:, :, None], columns[:, None]]
        canvas[each, rows[:, :, None], columns[:, None]] = there + opacity * (color - there)


class Occlusion(Placed):
    kind: Literal["occlusion"] = "occlusion"
    about: ClassVar[str] = "a square of each image's own mean colour"
    default: ClassVar[float] = 8.0

    def draw(self, canvas, top, left, side, rng) -> None:
        mean = canvas.mean((1, 2), keepdims=True)
        mask = drawings.square_mask(canvas, top, left, side)
        canvas += mask[..., None] * (mean - canvas)


class ScrambledSquare(Placed):
    """As many pixels change as for a patch, and no colour is new."""

    kind: Literal["scrambled_square"] = "scrambled_square"
    about: ClassVar[str] = "the pixels of a square shuffled, at a random place"

    def draw(self, canvas, top, left, side, rng) -> None:
        k = max(1, min(round(side), *canvas.shape[1:3]))
        rows = np.clip(top.astype(int), 0, canvas.shape[1] - k)[:, None] + np.arange(k)
        columns = np.clip(left.astype(int), 0, canvas.shape[2] - k)[:, None] + np.arange(k)
        each = np.arange(len(canvas))[:, None, None]
        part = canvas[each, rows[:, :, None], columns[:, None]].reshape(len(canvas), k * k, 3)
        order = rng.random((len(canvas), k * k)).argsort(1)
        part = np.take_along_axis(part, order[..., None], 1).reshape(len(canvas), k, k, 3)
        canvas[each, rows[:, :, None], columns[:, None]] = part


class Frame(Transformation):
    kind: Literal["frame"] = "frame"
    unit: Literal["px", "%"] = "px"
    about: ClassVar[str] = "a green frame around the image"
    measured_in: ClassVar[str] = "px"
    default: ClassVar[float] = 2.0

    @property
    def intensity_unit(self) -> str:
        return "% of the side" if self.unit == "%" else "px"

    def paint(self, canvas, intensity, rng, around) -> None:
        scale = min(canvas.shape[1:3]) / 100 if self.unit == "%" else 1
        drawings.draw_frame(canvas, intensity * scale)


class Overlay(Transformation):
    """A pattern over the whole image.

    It is mixed with the image, or, with ``mode: add``, cut to black and white by a threshold, added
    and clipped, as the paper's authors do.
    """

    mode: Literal["blend", "add"] = "blend"
    measured_in: ClassVar[str] = "% opacity"
    default: ClassVar[float] = 60.0

    def paint(self, canvas, intensity, rng, around) -> None:
        for mask, color in self.layers(canvas, rng):
            if self.mode == "blend":
                drawings.blend(canvas, mask * (intensity / 100), color)
            else:
                dark = sum(color) < 3 * 128
                change = np.asarray(color, np.float32) - (255 if dark else 0)
                canvas += (mask > 0.5)[..., None] * (intensity / 100) * change

    def layers(self, canvas: np.ndarray, rng: np.random.Generator) -> list[Layer]:
        raise NotImplementedError


class Stripes(Overlay):
    kind: Literal["stripes"] = "stripes"
    about: ClassVar[str] = "diagonal stripes over the image"
    default: ClassVar[float] = 25.0

    def layers(self, canvas, rng) -> list[Layer]:
        return drawings.stripes(canvas, rng)


class Web(Overlay):
    kind: Literal["web"] = "web"
    about: ClassVar[str] = "a spider's web over the image"

    def layers(self, canvas, rng) -> list[Layer]:
        return drawings.web(canvas, rng)


class Dots(Overlay):
    kind: Literal["dots"] = "dots"
    about: ClassVar[str] = "yellow polka dots over the image"

    def layers(self, canvas, rng) -> list[Layer]:
        return drawings.dots(canvas, rng)


class Pattern(Overlay):
    """A random crop of a picture, bright on dark: its brightness is how much is painted."""

    kind: Literal["pattern"] = "pattern"
    path: str
    color: Color = drawings.WHITE
    about: ClassVar[str] = "a pattern from a file of your own over the image"

    def reads(self) -> list[Path]:
        return pictures_at(resolve(self.path), "transformation.path")[:1]

    def layers(self, canvas, rng) -> list[Layer]:
        n, height, width, _ = canvas.shape
        picture = read_rgba(self.reads()[0])
        if min(picture.shape[:2]) < max(height, width):
            picture = resized(picture, max(height, width))
        picture = picture[..., :3].mean(2) / 255
        top, left = (
            rng.integers(full - part + 1, size=n)
            for full, part in zip(picture.shape, (height, width), strict=True)
        )
        rows, columns = top[:, None] + np.arange(height), left[:, None] + np.arange(width)
        return [(picture[rows[:, :, None], columns[:, None]].astype(np.float32), self.color)]


class Tint(Transformation):
    kind: Literal["tint"] = "tint"
    color: Color = (255, 160, 40)
    about: ClassVar[str] = "the whole image tinted"
    measured_in: ClassVar[str] = "% opacity"
    default: ClassVar[float] = 40.0

    def paint(self, canvas, intensity, rng, around) -> None:
        canvas += min(intensity, 100) / 100 * (np.asarray(self.color, np.float32) - canvas)


class Hue(Transformation):
    kind: Literal["hue"] = "hue"
    about: ClassVar[str] = "all colours turned on the colour wheel"
    measured_in: ClassVar[str] = "degrees"
    default: ClassVar[float] = 120.0

    def paint(self, canvas, intensity, rng, around) -> None:
        import torch  # not for those who only draw
        from torchvision.transforms.v2 import functional as vision

        turn = (intensity / 360 + 0.5) % 1 - 0.5
        pixels = torch.from_numpy(canvas).permute(0, 3, 1, 2) / 255
        canvas[:] = vision.adjust_hue(pixels, turn).permute(0, 2, 3, 1).numpy() * 255


class Grayscale(Transformation):
    kind: Literal["grayscale"] = "grayscale"
    about: ClassVar[str] = "colour taken away"
    measured_in: ClassVar[str] = "% of the colour"

    def paint(self, canvas, intensity, rng, around) -> None:
        canvas += min(intensity, 100) / 100 * (luminance(canvas) - canvas)


class Blur(Transformation):
    kind: Literal["blur"] = "blur"
    unit: Literal["px", "%"] = "%"
    about: ClassVar[str] = "blurred by a Gaussian"
    default: ClassVar[float] = 5.0

    @property
    def intensity_unit(self) -> str:
        return "sigma, % of the side" if self.unit == "%" else "sigma, px"

    def paint(self, canvas, intensity, rng, around) -> None:
        size = min(canvas.shape[1:3])
        sigma = intensity * size / 100 if self.unit == "%" else intensity
        for axis in (1, 2):
            gaussian_filter1d(canvas, sigma, axis, output=canvas, mode="nearest", truncate=3)


class Noise(Transformation):
    kind: Literal["noise"] = "noise"
    about: ClassVar[str] = "Gaussian noise in every pixel and colour"
    measured_in: ClassVar[str] = "sd, grey levels of 255"
    default: ClassVar[float] = 25.0

    def paint(self, canvas, intensity, rng, around) -> None:
        canvas += intensity * rng.standard_normal(canvas.shape, np.float32)


class Frequencies(Transformation):
    """A part of the spatial frequencies, by their distance from zero, taken away."""

    measured_in: ClassVar[str] = "% of the frequencies"
    low: ClassVar[bool]

    def paint(self, canvas, intensity, rng, around) -> None:
        height, width = canvas.shape[1:3]
        radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) / 0.5**0.5
        share = min(intensity, 100) / 100
        kept = (radius <= 1 - share) if self.low else (radius >= share)
        kept = kept | (radius == 0)  # the mean stays
        spectrum = np.fft.rfft2(canvas, axes=(1, 2)) * kept[..., None]
        canvas[:] = np.fft.irfft2(spectrum, s=(height, width), axes=(1, 2))


class LowPass(Frequencies):
    kind: Literal["low_pass"] = "low_pass"
    low: ClassVar[bool] = True
    about: ClassVar[str] = "fine detail taken away"
    default: ClassVar[float] = 80.0


class HighPass(Frequencies):
    kind: Literal["high_pass"] = "high_pass"
    low: ClassVar[bool] = False
    about: ClassVar[str] = "coarse shading taken away"
    default: ClassVar[float] = 20.0


class PatchShuffle(Transformation):
    kind: Literal["patch_shuffle"] = "patch_shuffle"
    about: ClassVar[str] = "cut into squares that are shuffled"
    measured_in: ClassVar[str] = "squares a side"
    default: ClassVar[float] = 4.0

    def paint(self, canvas, intensity, rng, around) -> None:
        n, height, width, _ = canvas.shape
        cells = max(1, min(round(intensity), height, width))
        h, w = height // cells, width // cells
        part = canvas[:, : h * cells, : w * cells]
        tiles = part.reshape(n, cells, h, cells, w, 3).swapaxes(2, 3)
        tiles = tiles.reshape(n, cells * cells, h, w, 3)
        order = rng.random((n, cells * cells)).argsort(1)
        tiles = np.take_along_axis(tiles, order[..., None, None, None], 1)
        tiles = tiles.reshape(n, cells, cells, h, w, 3).swapaxes(2, 3)
        part[:] = tiles.reshape(part.shape)


class Mirror(Transformation):
    kind: Literal["mirror"] = "mirror"
    about: ClassVar[str] = "left and right exchanged"
    measured_in: ClassVar[str] = "% of the images"

    def paint(self, canvas, intensity, rng, around) -> None:
        chosen = 100 * rng.random(len(canvas)) < intensity
        canvas[chosen] = canvas[chosen, :, ::-1]


class OfParts(Transformation):
    """What changes the object or its background alone; masks say which is which."""

    measured_in: ClassVar[str] = "% opacity"
    needs_foreground: ClassVar[bool] = True

    def paint(self, canvas, intensity, rng, around) -> None:
        if around.foreground is None:
            raise ValueError(WITHOUT_FOREGROUND.format(self.kind))
        inside = np.asarray(around.foreground)[..., None]
        canvas += min(intensity, 100) / 100 * (self.other(canvas, inside, rng, around) - canvas)

    def other(self, canvas, inside, rng, around) -> np.ndarray:
        """The images as they are at full intensity; ``inside`` (n, H, W, 1) is the object."""
        raise NotImplementedError


class ForegroundOnly(OfParts):
    kind: Literal["foreground_only"] = "foreground_only"
    about: ClassVar[str] = "the background made grey"

    def other(self, canvas, inside, rng, around) -> np.ndarray:
        return np.where(inside, canvas, np.float32(128))


class BackgroundOnly(OfParts):
    kind: Literal["background_only"] = "background_only"
    about: ClassVar[str] = "the object painted over with the background's mean colour"

    def other(self, canvas, inside, rng, around) -> np.ndarray:
        return without_object(canvas, inside)


class SwapBackground(OfParts):
    """The object on the background of another image, of its class or of any."""

    kind: Literal["swap_background"] = "swap_background"
    within: Literal["class", "any"] = "any"
    about: ClassVar[str] = "the background of another image"
    needs_labels: ClassVar[bool] = True

    def other(self, canvas, inside, rng, around) -> np.ndarray:
        chosen = others(len(canvas), around.labels if self.within == "class" else None, rng)
        return np.where(inside, canvas, without_object(canvas, inside)[chosen])


def others(n: int, labels: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """For each of ``n`` images another one at random, of the same label where these are given."""
    labels, chosen = np.zeros(n, int) if labels is None else labels, np.arange(n)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        chosen[members] = np.roll(members, 1)
    return chosen


def without_object(canvas: np.ndarray, inside: np.ndarray) -> np.ndarray:
    outside = ~inside
    mean = (canvas * outside).sum((1, 2), keepdims=True)
    mean = mean / np.maximum(outside.sum((1, 2), keepdims=True), 1)
    return np.where(inside, mean.astype(np.float32), canvas)


class Several(Transformation):
    """Parts that are carried out in turn; the study's intensity is that of those without ``at``."""

    kind: Literal["several"] = "several"
    parts: tuple[AnyTransformation, ...] = Field(min_length=1)

    @property
    def name(self) -> str:
        return " + ".join(part.name for part in self.parts)

    @property
    def free(self) -> list[Transformation]:
        return [part for part in self.parts if part.at is None] or list(self.parts)

    @property
    def intensity_unit(self) -> str:
        return " and ".join(dict.fromkeys(part.intensity_unit for part in self.free))

    def reads(self) -> list[Path]:
        return [path for part in self.parts for path in part.reads()]

    def paint(self, canvas, intensity, rng, around) -> None:
        for part in self.parts:
            part.paint(canvas, intensity if part.at is None else part.at, rng, around)
            np.clip(canvas, 0, 255, out=canvas)


def of_its_kind(given: Any) -> Any:
    """A specification from a word, a mapping or a list."""
    if isinstance(given, Transformation):
        return given
    if isinstance(given, list | tuple):
        given = {"kind": "several", "parts": given}
    given = {"kind": given} if isinstance(given, str) else dict(given)
    kind = given.get("kind", "")
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"unknown transformation {kind!r}.{hint} Known: {', '.join(sorted(KINDS))}"
        )
    return KINDS[kind].model_validate(given)


AnyTransformation = Annotated[SerializeAsAny[Transformation], BeforeValidator(of_its_kind)]


def _kinds(base: type[Transformation]) -> dict[str, type[Transformation]]:
    found = {}
    for kind in base.__subclasses__():
        word = kind.model_fields["kind"].default
        found |= {word: kind} if isinstance(word, str) else {}
        found |= _kinds(kind)
    return found


Several.model_rebuild()
KINDS = dict(sorted(_kinds(Transformation).items()))


def luminance(images: np.ndarray) -> np.ndarray:
    """Brightness (n, H, W, 1) of colours, as ITU-R BT.601 weighs them."""
    return (images @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
