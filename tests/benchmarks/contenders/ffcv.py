"""FFCV: a file of raw pixels, a pipeline compiled by numba, batches in buffers that it reuses for later batches.

Its threads are in the process; one thread beside the main one is its least. The train transforms are FFCV's own
operations, not torchvision's: RandomTranslate for RandomCrop with padding, and a lookup table for ToTensor and
Normalize. Images come out channels-last in memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..contender import Epochs, Job, Kind, Reader, Unsupported, missing, module
from ..data import Source

_FILE = "data.beton"
_LARGE_PAGE = 1 << 25  # bytes; a photo must fit into a page, and its writer waits forever if one does not


class FFCV:
    """``DatasetWriter`` and ``Loader``."""

    name = folder = "ffcv"
    kind: Kind = "peer"

    def available(self) -> str | None:
        """Needs ffcv, with the compiled library and numba that it needs."""
        return missing("ffcv.loader", "ffcv.writer", "ffcv.fields.decoders", "ffcv.fields.rgb_image", "ffcv.transforms")

    def build(self, source: Source, folder: Path) -> None:
        """Write raw pixels, in the one process that it starts for it."""
        fields = module("ffcv.fields")
        columns = {"image": fields.RGBImageField(write_mode="raw"), "label": fields.IntField()}
        pages = {} if source.shape else {"page_size": _LARGE_PAGE}
        writer = module("ffcv.writer").DatasetWriter(str(folder / _FILE), columns, num_workers=1, **pages)
        writer.from_indexed_dataset(source)

    def open(self, source: Source, folder: Path) -> Reader:
        """Loaders are made, and compiled at their first batch, by what is asked of them."""
        return _Reader(folder / _FILE)


class _Reader(Reader):
    def __init__(self, path: Path) -> None:
        self.path = path

    def _loader(self, job: Job, image: list[Any], *, order: str) -> Epochs:
        loader, transforms = module("ffcv.loader"), module("ffcv.transforms")
        label = [module("ffcv.fields.decoders").IntDecoder(), transforms.ToTensor(), transforms.Squeeze([1])]
        tail = [transforms.ToTensor(), transforms.ToTorchImage()]
        return loader.Loader(  # type: ignore[no-any-return]
            str(self.path),
            batch_size=job.batch_size,
            num_workers=max(1, job.threads),
            order=getattr(loader.OrderOption, order),
            drop_last=False,
            pipelines={"image": [*image, *tail], "label": label},
        )

    def _decoder(self) -> Any:
        return module("ffcv.fields.rgb_image").SimpleRGBImageDecoder()

    def sequential(self, job: Job) -> Epochs:
        return self._loader(job, [self._decoder()], order="SEQUENTIAL")

    def shuffled(self, job: Job) -> Epochs:
        return self._loader(job, [self._decoder()], order="RANDOM")

    def train(self, job: Job) -> Epochs:
        if job.workers:
            raise Unsupported("threads instead of worker processes")
        steps = [self._step(step) for step in getattr(job.transform, "transforms", [job.transform])]
        image = [step for step in steps if step is not None]
        if not any(hasattr(step, "get_crop_generator") for step in image):
            image.insert(0, self._decoder())
        return self._loader(job, image, order="RANDOM")

    def _step(self, step: Any) -> Any:
        """FFCV's own operation for a torchvision transform; None for what the next one does as well."""
        transforms = module("ffcv.transforms")
        match type(step).__name__:
            case "RandomResizedCrop":
                decoders = module("ffcv.fields.rgb_image")
                return decoders.RandomResizedCropRGBImageDecoder(tuple(step.size), tuple(step.scale), tuple(step.ratio))
            case "RandomCrop":
                return transforms.RandomTranslate(padding=step.padding)
            case "RandomHorizontalFlip":
                return transforms.RandomHorizontalFlip(step.p)
            case "ToTensor":
                return None
            case "Normalize":
                mean, std = (255 * np.asarray(value) for value in (step.mean, step.std))
                return transforms.NormalizeImage(mean, std, np.float32)
            case name:
                raise Unsupported(f"no {name}")
