"""Example transforms for each row of the table: the conformance suite runs them all against torchvision."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

MEAN, STD = (0.49, 0.48, 0.44), (0.24, 0.25, 0.26)


def _deprecated_to_tensor() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return v2.ToTensor()


def _crops(module: Any) -> tuple[Callable[[], Any], ...]:
    return (
        lambda: module.RandomCrop(7),
        lambda: module.RandomCrop((9, 5), padding=2),
        lambda: module.RandomCrop(8, padding=(1, 2, 3, 4), fill=7),
        lambda: module.RandomCrop(8, padding=(3, 1), padding_mode="reflect"),
        lambda: module.RandomCrop(8, padding=2, padding_mode="edge"),
        lambda: module.RandomCrop(8, padding=2, padding_mode="symmetric"),
        lambda: module.RandomCrop((16, 13), pad_if_needed=True),
        lambda: module.RandomCrop((13, 16), padding=1, pad_if_needed=True, padding_mode="edge"),
        lambda: module.RandomCrop((13, 14), padding=1, pad_if_needed=True, padding_mode="symmetric"),
        lambda: module.RandomCrop(9, padding=1, fill=(1, 2, 3)),
        lambda: module.RandomCrop(9, padding=1, fill=0.5),
        lambda: module.RandomCrop(40),
    )


def _pads(module: Any) -> tuple[Callable[[], Any], ...]:
    return (
        lambda: module.Pad(2),
        lambda: module.Pad([1, 3], fill=9),
        lambda: module.Pad((1, 0, 4, 2), fill=(9, 8, 7)),
        lambda: module.Pad(2, padding_mode="edge"),
        lambda: module.Pad((3, 2), padding_mode="reflect"),
        lambda: module.Pad((1, 2, 3, 0), padding_mode="symmetric"),
        lambda: module.Pad(1, fill=300),
        lambda: module.Pad(-1),
        lambda: module.Pad((-1, 2, 1, -2), padding_mode="edge"),
        lambda: module.Pad(0, padding_mode="reflect"),
    )


def _flips(name: str, module: Any) -> tuple[Callable[[], Any], ...]:
    return (getattr(module, name), lambda: getattr(module, name)(0.7), lambda: getattr(module, name)(1.0))


def _erasing(module: Any) -> tuple[Callable[[], Any], ...]:
    return (
        lambda: module.RandomErasing(0.8),
        lambda: module.RandomErasing(0.8, scale=(0.3, 0.9), ratio=(0.2, 5.0), value="random"),
        lambda: module.RandomErasing(1.0, value=(3, 2, 1), inplace=True),
        lambda: module.RandomErasing(1.0, scale=(0.9, 1.0), value=5),
    )


def _resizes(module: Any) -> tuple[Callable[[], Any], ...]:
    return (
        lambda: module.Resize(6),
        lambda: module.Resize((11, 12)),
        lambda: module.Resize((9, 4)),
        lambda: module.Resize(8, max_size=11),
        lambda: module.Resize((21, 17), interpolation=InterpolationMode.BICUBIC),
        lambda: module.Resize(7, interpolation=InterpolationMode.NEAREST),
        lambda: module.Resize((10, 9), interpolation=InterpolationMode.LANCZOS),
    )


def _resized_crops(module: Any) -> tuple[Callable[[], Any], ...]:
    return (
        lambda: module.RandomResizedCrop(8),
        lambda: module.RandomResizedCrop((9, 6), scale=(0.5, 2.0), ratio=(2.0, 3.0)),
        lambda: module.RandomResizedCrop(7, interpolation=InterpolationMode.BICUBIC),
    )


def _mixed(module: Any) -> list[Any]:
    return [module.RandomCrop(8, padding=2), module.RandomHorizontalFlip(), module.RandomInvert()]


def _applies(module: Any) -> tuple[Callable[[], Any], ...]:
    return (
        lambda: module.RandomApply(_mixed(module), p=0.6),
        lambda: module.RandomApply([module.CenterCrop(6)]),
        lambda: module.RandomApply([module.RandomApply([module.RandomVerticalFlip()]), module.RandomGrayscale(0.5)]),
        lambda: module.RandomApply([module.Grayscale(1)]),
        lambda: module.RandomApply([module.ColorJitter(0.3, 0.3)]),
        lambda: module.RandomApply([lambda x: x], p=1.0),
    )


def _choices(module: Any) -> tuple[Callable[[], Any], ...]:
    return (
        lambda: module.RandomChoice(_mixed(module)),
        lambda: module.RandomChoice([module.CenterCrop(6), module.RandomCrop(6), module.Resize(6)], p=[0.2, 0.5, 0.3]),
        lambda: module.RandomChoice([module.RandomRotation(10), module.CenterCrop(5)]),
    )


def _orders(module: Any) -> tuple[Callable[[], Any], ...]:
    return (
        lambda: module.RandomOrder(_mixed(module)),
        lambda: module.RandomOrder([module.Pad(1), module.RandomCrop(7), module.RandomSolarize(100)]),
    )


def _policies(module: Any) -> tuple[Callable[[], Any], ...]:
    return (
        module.AutoAugment,
        lambda: module.AutoAugment(module.AutoAugmentPolicy.CIFAR10),
        lambda: module.AutoAugment(module.AutoAugmentPolicy.SVHN, fill=[9, 0, 300]),
        lambda: module.AutoAugment(interpolation=InterpolationMode.BILINEAR),
        lambda: module.AutoAugment(interpolation=InterpolationMode.BICUBIC),
    )


def _augments(module: Any) -> dict[type, tuple[Callable[[], Any], ...]]:
    return {
        module.AutoAugment: _policies(module),
        module.ColorJitter: (
            lambda: module.ColorJitter(0.4, 0.5, 0.6, 0.2),
            lambda: module.ColorJitter(brightness=(0.0, 3.0)),
            lambda: module.ColorJitter(contrast=2.0, hue=(-0.5, 0.5)),
            lambda: module.ColorJitter(saturation=(2, 2)),
            module.ColorJitter,
        ),
        module.GaussianBlur: (
            lambda: module.GaussianBlur(5),
            lambda: module.GaussianBlur((3, 9), sigma=(0.3, 4.0)),
            lambda: module.GaussianBlur((7, 1), sigma=1.5),
            lambda: module.GaussianBlur(15),
        ),
        module.RandAugment: (
            module.RandAugment,
            lambda: module.RandAugment(4, magnitude=30, fill=99),
            lambda: module.RandAugment(0),
            lambda: module.RandAugment(3, interpolation=InterpolationMode.BILINEAR, fill=(1, 2, 3)),
            lambda: module.RandAugment(1, magnitude=5, num_magnitude_bins=7, fill=[1, 2, 3]),
        ),
        module.RandomAdjustSharpness: (
            lambda: module.RandomAdjustSharpness(2.5, p=0.6),
            lambda: module.RandomAdjustSharpness(0.3, p=1.0),
        ),
        module.RandomAffine: (
            lambda: module.RandomAffine(30, (0.2, 0.4), (0.6, 1.5), 20),
            lambda: module.RandomAffine(0, (0.5, 0.0), fill=(3, 2, 1)),
            lambda: module.RandomAffine((-5, 80), shear=(-9, 9, -30, 30), center=(2, 7)),
            lambda: module.RandomAffine(9, scale=(1e-4, 1e-3), fill=8),
            lambda: module.RandomAffine(30, (0.2, 0.4), (0.6, 1.5), 20, interpolation=InterpolationMode.BILINEAR),
            lambda: module.RandomAffine(9, interpolation=InterpolationMode.BICUBIC),
        ),
        module.RandomEqualize: (lambda: module.RandomEqualize(0.6), lambda: module.RandomEqualize(1.0)),
        module.RandomRotation: (
            lambda: module.RandomRotation(40),
            lambda: module.RandomRotation((90, 90), fill=7),
            lambda: module.RandomRotation((180, 180)),
            lambda: module.RandomRotation((0, 0), center=(3, 1)),
            lambda: module.RandomRotation(180, center=(1, 8), fill=(1, 2, 3)),
            lambda: module.RandomRotation(30, interpolation=InterpolationMode.BILINEAR, fill=50),
            lambda: module.RandomRotation(30, expand=True),
        ),
        module.TrivialAugmentWide: (
            module.TrivialAugmentWide,
            lambda: module.TrivialAugmentWide(9, fill=[200]),
            lambda: module.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR),
        ),
    }


def _colors(module: Any) -> dict[type, tuple[Callable[[], Any], ...]]:
    return {
        module.Grayscale: (lambda: module.Grayscale(1), lambda: module.Grayscale(3)),
        module.RandomAutocontrast: (lambda: module.RandomAutocontrast(0.6), lambda: module.RandomAutocontrast(1.0)),
        module.RandomGrayscale: (lambda: module.RandomGrayscale(0.5), lambda: module.RandomGrayscale(1.0)),
        module.RandomInvert: _flips("RandomInvert", module),
        module.RandomPosterize: (lambda: module.RandomPosterize(3), lambda: module.RandomPosterize(0, p=0.6)),
        module.RandomSolarize: (
            lambda: module.RandomSolarize(100),
            lambda: module.RandomSolarize(0.5, p=0.7),
            lambda: module.RandomSolarize(256),
            lambda: module.RandomSolarize(254.5, p=1.0),
            lambda: module.RandomSolarize(-2),
        ),
    }


def _both(module: Any) -> dict[type, tuple[Callable[[], Any], ...]]:
    """Rows that both generations have."""
    return {
        module.CenterCrop: (
            lambda: module.CenterCrop(5),
            lambda: module.CenterCrop((8, 13)),
            lambda: module.CenterCrop(20),
        ),
        module.ConvertImageDtype: tuple(
            lambda dtype=dtype: module.ConvertImageDtype(dtype)
            for dtype in (torch.float32, torch.float64, torch.float16, torch.uint8, torch.int16, torch.int32)
        ),
        module.FiveCrop: (lambda: module.FiveCrop(4), lambda: module.FiveCrop((5, 3)), lambda: module.FiveCrop(11)),
        module.Normalize: (
            lambda: module.Normalize(MEAN, STD),
            lambda: module.Normalize([0.5], [0.25], inplace=True),
            lambda: module.Normalize([0.5, 0.5], [1.0, 0.0]),
        ),
        module.PILToTensor: (module.PILToTensor,),
        module.Pad: _pads(module),
        module.RandomApply: _applies(module),
        module.RandomChoice: _choices(module),
        module.RandomCrop: _crops(module),
        module.RandomErasing: _erasing(module),
        module.RandomHorizontalFlip: _flips("RandomHorizontalFlip", module),
        module.RandomOrder: _orders(module),
        module.RandomResizedCrop: _resized_crops(module),
        module.RandomVerticalFlip: _flips("RandomVerticalFlip", module),
        module.Resize: _resizes(module),
        module.TenCrop: (lambda: module.TenCrop((3, 4)), lambda: module.TenCrop([5], vertical_flip=True)),
        **_augments(module),
        **_colors(module),
    }


EXAMPLES: dict[type, tuple[Callable[[], Any], ...]] = {
    **_both(v1),
    **_both(v2),
    torch.nn.Identity: (torch.nn.Identity,),
    v1.ToTensor: (v1.ToTensor,),
    v2.Identity: (v2.Identity,),
    v2.RGB: (v2.RGB,),
    v2.ToDtype: (
        lambda: v2.ToDtype(torch.float32, scale=True),
        lambda: v2.ToDtype(torch.float32),
        lambda: v2.ToDtype(torch.uint8, scale=True),
        lambda: v2.ToDtype(torch.float64, scale=True),
        lambda: v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
        lambda: v2.ToDtype({tv_tensors.Image: torch.float32}),
    ),
    v2.ToImage: (v2.ToImage,),
    v2.ToPureTensor: (v2.ToPureTensor,),
    v2.ToTensor: (_deprecated_to_tensor,),
}
