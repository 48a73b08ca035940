"""What is lowered: torchvision's class, and the step that batches it.

A class that is not here is applied a sample at a time. So is a subclass of one that is: it may have changed anything.
"""

from __future__ import annotations

from typing import Any

import torch
from torchvision import transforms as v1
from torchvision.transforms import v2

from lmdbpipe.transforms import augment, blur, color, compose, convert, crops, erase, geometry, jitter, resize, turning

TABLE: dict[type, Any] = {
    torch.nn.Identity: convert.Identity,
    v1.AutoAugment: augment.AutoAugment,
    v1.CenterCrop: geometry.CenterCrop,
    v1.ColorJitter: jitter.ColorJitter,
    v1.ConvertImageDtype: convert.ConvertImageDtype,
    v1.FiveCrop: crops.FiveCrop,
    v1.GaussianBlur: blur.GaussianBlur,
    v1.Grayscale: color.Grayscale,
    v1.Normalize: convert.Normalize,
    v1.PILToTensor: convert.PILToTensor,
    v1.Pad: geometry.Pad,
    v1.RandAugment: augment.RandAugment,
    v1.RandomAdjustSharpness: jitter.RandomAdjustSharpness,
    v1.RandomAffine: turning.RandomAffine,
    v1.RandomApply: compose.RandomApply,
    v1.RandomAutocontrast: color.RandomAutocontrast,
    v1.RandomChoice: compose.RandomChoice,
    v1.RandomCrop: geometry.RandomCrop,
    v1.RandomEqualize: jitter.RandomEqualize,
    v1.RandomErasing: erase.RandomErasing,
    v1.RandomGrayscale: color.RandomGrayscale,
    v1.RandomHorizontalFlip: geometry.HorizontalFlip,
    v1.RandomInvert: color.RandomInvert,
    v1.RandomOrder: compose.RandomOrder,
    v1.RandomPosterize: color.RandomPosterize,
    v1.RandomResizedCrop: resize.RandomResizedCrop,
    v1.RandomRotation: turning.RandomRotation,
    v1.RandomSolarize: color.RandomSolarize,
    v1.RandomVerticalFlip: geometry.VerticalFlip,
    v1.Resize: resize.Resize,
    v1.TenCrop: crops.TenCrop,
    v1.ToTensor: convert.ToTensor,
    v1.TrivialAugmentWide: augment.TrivialAugmentWide,
    v2.AutoAugment: augment.AutoAugmentV2,
    v2.CenterCrop: geometry.CenterCrop,
    v2.ColorJitter: jitter.ColorJitterV2,
    v2.ConvertImageDtype: convert.ConvertImageDtypeV2,
    v2.FiveCrop: crops.FiveCrop,
    v2.GaussianBlur: blur.GaussianBlurV2,
    v2.Grayscale: color.GrayscaleV2,
    v2.Identity: convert.Identity,
    v2.Normalize: convert.Normalize,
    v2.PILToTensor: convert.PILToTensorV2,
    v2.Pad: geometry.Pad,
    v2.RGB: color.RGB,
    v2.RandAugment: augment.RandAugment,
    v2.RandomAdjustSharpness: jitter.RandomAdjustSharpnessV2,
    v2.RandomAffine: turning.RandomAffine,
    v2.RandomApply: compose.RandomApplyV2,
    v2.RandomAutocontrast: color.RandomAutocontrastV2,
    v2.RandomChoice: compose.RandomChoiceV2,
    v2.RandomCrop: geometry.RandomCropV2,
    v2.RandomEqualize: jitter.RandomEqualizeV2,
    v2.RandomErasing: erase.RandomErasingV2,
    v2.RandomGrayscale: color.RandomGrayscaleV2,
    v2.RandomHorizontalFlip: geometry.HorizontalFlip,
    v2.RandomInvert: color.RandomInvertV2,
    v2.RandomOrder: compose.RandomOrderV2,
    v2.RandomPosterize: color.RandomPosterizeV2,
    v2.RandomResizedCrop: resize.RandomResizedCropV2,
    v2.RandomRotation: turning.RandomRotation,
    v2.RandomSolarize: color.RandomSolarizeV2,
    v2.RandomVerticalFlip: geometry.VerticalFlip,
    v2.Resize: resize.ResizeV2,
    v2.TenCrop: crops.TenCrop,
    v2.ToDtype: convert.ToDtype,
    v2.ToImage: convert.ToImage,
    v2.ToPureTensor: convert.ToPureTensor,
    v2.ToTensor: convert.ToTensorV2,
    v2.TrivialAugmentWide: augment.TrivialAugmentWide,
}
