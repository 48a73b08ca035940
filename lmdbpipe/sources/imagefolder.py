"""A folder with a sub-folder of images for each class, as torchvision's ImageFolder reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from torchvision.datasets import ImageFolder

from lmdbpipe.errors import ConfigError


class ImageFolderSource:
    """``imagefolder:DIR``; samples are (RGB image, class index)."""

    name: ClassVar[str] = "imagefolder"
    where: ClassVar[str] = "DIR"
    summary: ClassVar[str] = "a folder with a sub-folder of images for each class"

    def open(self, where: str) -> Any:
        """Open the folder."""
        folder = Path(where).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"{self.name}:{where}: there is no such folder")
        try:
            return ImageFolder(str(folder))
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{self.name}:{where}: is no folder of classes with images: {reason}") from error
