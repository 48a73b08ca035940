"""Transforms that are given to a reader: which parts of a sample they act on."""

from __future__ import annotations

import dataclasses

from lmdbpipe.errors import ConfigError
from lmdbpipe.pipeline import Steps
from lmdbpipe.records import Records
from lmdbpipe.wrapped import Step, Transform, standard_paths


@dataclasses.dataclass(frozen=True)
class FixedSteps:
    """The same transforms for every sample."""

    steps: Steps

    @property
    def uniform(self) -> bool:
        """Whether all samples have the same."""
        return True

    def __call__(self, index: int) -> Steps:
        """Give them."""
        return self.steps


def fixed_steps(
    records: Records, transform: Transform | None, target_transform: Transform | None, transforms: Transform | None
) -> FixedSteps:
    """Put transforms where the source applied its own, which its file remembers, or where torchvision would.

    Raises:
        ConfigError: Both a joint transform and one for a part are given.
    """
    if transforms is not None and (transform is not None or target_transform is not None):
        raise ConfigError("give either transforms, or transform and target_transform")
    recorded = records.databases[0].manifest.provenance.get("transforms", {})
    paths = standard_paths(records.schema.structure)
    paths |= {name: tuple(tuple(path) for path in found) for name, found in recorded.items() if name != "transforms"}
    given = {"transform": transform, "target_transform": target_transform, "transforms": transforms}
    steps = []
    for name, function in given.items():
        if function is not None:  # a joint transform takes all its parts together, others act on each place by itself
            calls = [paths[name]] if name == "transforms" else [(path,) for path in paths[name]]
            steps += [Step(function, call) for call in calls]
    return FixedSteps(tuple(steps))
