"""The TFDS builder of the dataset, and a function that prepares it."""

import dataclasses
import os
import pathlib
import re
import sys
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from tokenlearner_flexivit import paths, terminal
from tokenlearner_flexivit.data.rendered_scenes import (
  scene,
  shapes,
  textures,
  video,
  workers,
)
from tokenlearner_flexivit.data.sources import preparation

_DESCRIPTION = """
Scenes drawn by code: one large textured object, up to five smaller ones partly
behind it, on a textured background, under uneven light and with noise. The
main label is the texture of the large object. All textures have the same mean
and the same wavelengths, so it takes small detail to tell them apart. Every
example is a function of the seed, the split and its position, and a scene has
the same composition at every size. Nothing is downloaded.
"""

_CITATION = """
@misc{rendered_scenes,
  title = {rendered\\_scenes, a dataset of tokenlearner\\_flexivit},
}
"""


@dataclasses.dataclass(eq=False, kw_only=True)
class RenderedScenesConfig(tfds.core.BuilderConfig):
  """A config of the dataset; its name is that of the folder.

  Attributes:
    image_size: height and width in pixels.
    num_frames: frames of a video, 8 to 32; 0 for images.
    num_train: number of examples in the split "train".
    num_validation: number of examples in the split "validation".
    num_test: number of examples in the split "test".
    seed: seed of all scenes.
  """

  image_size: int
  num_frames: int = 0
  num_train: int = 20_000
  num_validation: int = 2_000
  num_test: int = 2_000
  seed: int = 0

  def __post_init__(self):
    if self.image_size < textures.MIN_SIDE:
      raise ValueError(
        f"rendered_scenes at image_size={self.image_size} cannot show its "
        f"textures: the finest waves are {textures.FINEST:g} of the side and "
        f"need {textures.MIN_PIXELS} pixels. Take at least "
        f"{textures.MIN_SIDE}."
      )
    if self.num_frames and not 8 <= self.num_frames <= 32:
      raise ValueError(
        f"num_frames={self.num_frames} must be 0 (images) or 8 to 32."
      )


def config_named(name: str) -> RenderedScenesConfig:
  """Returns a standard config, or "SIZE" or "video_SIZE" for any size.

  Raises:
    ValueError: no config has this name, or the size is too small.
  """
  standard = {config.name: config for config in RenderedScenes.BUILDER_CONFIGS}
  if name in standard:
    return standard[name]
  match = re.fullmatch(r"(video_)?(\d+)", name)
  if not match:
    raise ValueError(
      f"rendered_scenes has no config {name!r}: it is a size in pixels, as in "
      "'rendered_scenes/96', or a size of videos, as in "
      "'rendered_scenes/video_64', or 'rendered_scenes/tiny'."
    )
  return _config(int(match[2]), is_video=bool(match[1]))


def _config(size: int, is_video: bool = False) -> RenderedScenesConfig:
  if not is_video:
    return RenderedScenesConfig(
      name=str(size), image_size=size, description=f"{size} px images"
    )
  return RenderedScenesConfig(
    name=f"video_{size}",
    image_size=size,
    num_frames=16,
    num_train=5_000,
    num_validation=500,
    num_test=1_000,
    description=f"videos of 16 frames at {size} px",
  )


def _attributes() -> dict[str, tfds.features.FeatureConnector]:
  """Returns the features that images and videos have in common."""
  features = tfds.features
  return {
    "shape": features.ClassLabel(names=shapes.NAMES),
    "texture": features.ClassLabel(names=textures.NAMES),
    "colour": features.ClassLabel(names=list(scene.COLOURS)),
    "scale": features.ClassLabel(names=list(textures.SCALES)),
    "background": features.ClassLabel(names=scene.BACKGROUNDS),
    "num_objects": features.Scalar(np.int32),
    "caption": features.Text(),
  }


class RenderedScenes(tfds.core.GeneratorBasedBuilder):
  """The TFDS builder of rendered scenes, see `_DESCRIPTION`."""

  VERSION = tfds.core.Version("2.0.0")
  RELEASE_NOTES: ClassVar = {
    "2.0.0": "More contrast, but a quarter of the objects are worn.",
    "1.0.0": "First version.",
  }
  BUILDER_CONFIGS: ClassVar = [
    *[_config(size) for size in (96, 64, 120, 240, 480)],
    *[_config(size, is_video=True) for size in (64, 112)],
    RenderedScenesConfig(
      name="tiny",
      image_size=64,
      num_train=200,
      num_validation=50,
      num_test=50,
      description="a few 64 px images, to try things",
    ),
  ]
  DEFAULT_BUILDER_CONFIG_NAME = "96"
  # The dataset has no downloads. To find their checksums TFDS 4.9 would import
  # importlib_resources, which it does not install.
  url_infos = None
  # The examples do not depend on this number.
  num_processes = os.cpu_count() or 1
  screen = None  # Where progress is shown; by default stderr.

  @classmethod
  def folder(
    cls, data_dir: str | os.PathLike | None, config: str
  ) -> pathlib.Path:
    """Returns the folder of the files of a config, by its name."""
    data_dir = paths.data_dir_for_tfds(data_dir)
    default = pathlib.Path(cls(data_dir=data_dir).data_dir)
    return default.parent.parent / config / default.name

  def _info(self) -> tfds.core.DatasetInfo:
    is_video = self.builder_config.num_frames
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=self._video_features() if is_video else self._image_features(),
      # So that the position of an example is the index it was drawn from.
      disable_shuffling=True,
      citation=_CITATION,
    )

  def _image_features(self) -> tfds.features.FeaturesDict:
    features = tfds.features
    size = self.builder_config.image_size
    main = _attributes()
    mask = features.Image(shape=(size, size, 1), encoding_format="png")
    return features.FeaturesDict(
      {
        "image": features.Image(shape=(size, size, 3), encoding_format="jpeg"),
        "label": features.ClassLabel(names=textures.NAMES),
        **main,
        "size": features.ClassLabel(names=scene.SIZES),
        "orientation": features.ClassLabel(names=scene.ORIENTATIONS),
        "objects": features.Sequence(
          {
            "bbox": features.BBoxFeature(),
            **{
              key: main[key] for key in ("shape", "texture", "colour", "scale")
            },
          }
        ),
        "instances": mask,
        "semantic": mask,
      }
    )

  def _video_features(self) -> tfds.features.FeaturesDict:
    features = tfds.features
    size = self.builder_config.image_size
    frame = features.Image(shape=(size, size, 3), encoding_format="jpeg")
    frames = self.builder_config.num_frames
    return features.FeaturesDict(
      {
        # `tfds.features.Video` is equivalent, but would import TensorFlow.
        "video": features.Sequence(frame, length=frames),
        "label": features.ClassLabel(names=video.ACTIONS),
        **_attributes(),
        "boxes": features.Sequence(features.BBoxFeature(), length=frames),
      }
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # There is nothing to download.
    config = self.builder_config
    counts = {
      "train": config.num_train,
      "validation": config.num_validation,
      "test": config.num_test,
    }
    return {
      split: self._generate_examples(split, count)
      for split, count in counts.items()
      if count
    }

  def _generate_examples(self, split: str, count: int):
    config = self.builder_config
    arguments = dict(side=config.image_size, seed=config.seed, split=split)
    kind = "image"
    if config.num_frames:
      kind, arguments["num_frames"] = "video", config.num_frames
    screen = self.screen or sys.stderr
    yield from enumerate(
      tqdm.tqdm(
        workers.generate(kind, arguments, count, self.num_processes),
        desc=f"{self.name}/{config.name} {split}",
        total=count,
        unit=" examples",
        # TFDS counts its own bars, which `preparation` hides, as lines above.
        position=0,
        file=screen,
        mininterval=0.5 if terminal.is_watched(screen) else 10,
        disable=screen is None,
      )
    )


def prepare(
  data_dir: str | os.PathLike | None = None,
  config: str | RenderedScenesConfig = "96",
  num_processes: int | None = None,
) -> None:
  """Writes the dataset unless it exists, by `preparation.prepare`.

  Args:
    data_dir: TFDS's folder, by default $TFDS_DATA_DIR or
      ~/tensorflow_datasets.
    config: a name (see `config_named`), or your own config, which can then be
      read by its name.
    num_processes: how many processes draw; by default one per core.

  Raises:
    ValueError: the config does not exist, or cannot show the textures.
    OSError: the folder cannot be written.
  """
  if isinstance(config, str):
    if RenderedScenes.folder(data_dir, config).exists():
      return  # It may have been written from a user's own config.
    config = config_named(config)
  screen = sys.stderr  # The stream is hidden while the builder writes.

  def make_builder(folder: str) -> RenderedScenes:
    builder = RenderedScenes(
      data_dir=folder, config=config, file_format="array_record"
    )
    builder.screen = screen
    if num_processes:
      builder.num_processes = num_processes
    return builder

  target = RenderedScenes.folder(data_dir, config.name)
  preparation.prepare(target, make_builder)
