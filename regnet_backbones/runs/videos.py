"""What `predict` reads: image files, and the frames of videos, which OpenCV decodes one by one."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from regnet_backbones.errors import UserError
from regnet_backbones.runs.image_files import open_upright, output_names
from regnet_backbones.runs.progress import progress

SUFFIXES = (".avi", ".mkv", ".mov", ".mp4", ".webm")

# What is written of a frame: the name of the video's, and the number of the frame from 0.
FRAME = "{}_{:06d}"

# Containers promise a number of frames that may be a few too many.
PROMISED = 0.95

FRAMES_PER_SECOND = 25  # if a video has no rate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InputImage:
    """An image, or a frame of a video."""

    file: Path
    name: str  # of what is written of it, below a folder and without suffix
    image: Image.Image
    frame: int | None = None  # its number from 0


class ImageReader:
    """The images of files, read one by one; of videos the frames 0, every, 2 * every, ...

    `stills` are the files that are not videos, `failed` those that could not be read in full, which
    are warnings; `count` is the number of images, of videos as many as they promise.
    """

    def __init__(self, files: Sequence[Path], *, every: int = 1):
        if every < 1:
            raise UserError(f"--every must be at least 1, got {every}")
        self._files, self._every = files, every
        self.stills = [file for file in files if not is_video(file)]
        self._videos = {file: _Video(file) for file in files if is_video(file)}
        self._names = output_names(files, self._videos)
        self._last: dict[Path, int] = {}
        frames = (max(1, -(-video.count // every)) for video in self._videos.values())
        self.count, self.failed = len(self.stills) + sum(frames), list[Path]()

    def __iter__(self) -> Iterator[InputImage]:
        with progress(total=self.count, desc="predicted", unit=" images") as bar:
            for file in self._files:
                try:
                    for image in self._read(file):
                        yield image
                        bar.update()
                except UserError as error:
                    logger.warning("not predicted: %s", error)
                    self.failed.append(file)

    def _read(self, file: Path) -> Iterator[InputImage]:
        if file not in self._videos:
            yield InputImage(file, str(self._names[file]), open_upright(file))
            return
        for number, image in self._videos[file].frames(self._every):
            self._last[file] = number
            yield InputImage(file, FRAME.format(self._names[file], number), image, number)

    def join_overlays(self, folder: Path) -> None:
        """Replace the overlays of frames, `<folder>/<name>.jpg`, by videos."""
        for file, last in self._last.items():
            name = self._names[file]
            numbers = range(0, last + 1, self._every)
            overlays = [folder / f"{FRAME.format(name, number)}.jpg" for number in numbers]
            rate = self._videos[file].rate / self._every
            _write_video(folder / f"{name}.mp4", overlays, rate)
            for overlay in overlays:
                overlay.unlink()


def is_video(file: Path) -> bool:
    """Return whether the name of a file is that of a video."""
    return file.suffix.lower() in SUFFIXES


class _Video:
    """A video that has a frame; `count` is how many it promises, `rate` those of a second."""

    def __init__(self, file: Path):
        import cv2

        self.file, self._open = file, partial(cv2.VideoCapture, str(file))
        capture = self._open()
        self.count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.rate = capture.get(cv2.CAP_PROP_FPS) or FRAMES_PER_SECOND
        readable = capture.read()[0]
        capture.release()
        if not readable:
            raise UserError(f"video '{file}' has no readable frame; replace or remove it")

    def frames(self, every: int) -> Iterator[tuple[int, Image.Image]]:
        """Yield number and RGB image of frames; raise UserError if many promised ones lack."""
        capture = self._open()
        try:
            for number in count():
                if not capture.grab():
                    break
                if number % every:
                    continue
                decoded, pixels = capture.retrieve()
                if not decoded:
                    break
                yield number, Image.fromarray(np.ascontiguousarray(pixels[..., ::-1]))
        finally:
            capture.release()
        if number < PROMISED * self.count:
            frames = f"frames {number} to {self.count - 1} of video '{self.file}'"
            raise UserError(f"{frames} cannot be decoded")


def _write_video(file: Path, pictures: Sequence[Path], rate: float) -> None:
    """Write a video of pictures, smaller ones at the top left."""
    import cv2

    sizes = []
    for picture in pictures:
        with Image.open(picture) as image:
            sizes.append(image.size)
    # The codec takes even sides.
    size = tuple(-(-max(sides) // 2) * 2 for sides in zip(*sizes, strict=True))
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
    if not writer.isOpened():
        raise UserError(f"OpenCV cannot write '{file}'; use --no-pictures")
    for picture in pictures:
        canvas = np.zeros((*size[::-1], 3), np.uint8)
        pixels = cv2.imread(str(picture))
        canvas[: pixels.shape[0], : pixels.shape[1]] = pixels
        writer.write(canvas)
    writer.release()
