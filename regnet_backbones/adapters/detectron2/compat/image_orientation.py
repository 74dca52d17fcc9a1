"""Images that lie on their side, as their EXIF data say, read the right way up."""

from functools import wraps
from io import BytesIO
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def turns_tiff_twice(module: ModuleType) -> bool:
    """Tell whether a TIFF of 2x1 pixels that is to be turned by 90 degrees keeps its size."""
    from PIL import ExifTags, Image

    file, exif = BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("L", (2, 1)).save(file, "TIFF", exif=exif)
    return module._apply_exif_orientation(Image.open(file)).size == (2, 1)


def tiff_turned_twice(module: ModuleType) -> None:
    """Load a TIFF first: Pillow turns it then, and takes the orientation out of its EXIF data."""
    stock = module._apply_exif_orientation

    @wraps(stock)
    def load_tiff_first(image: "Image.Image") -> "Image.Image":
        if image.format == "TIFF":
            image.load()
        return stock(image)

    module._apply_exif_orientation = load_tiff_first
