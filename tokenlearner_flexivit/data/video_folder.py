"""People's own videos: `video_folder:/path`, stored once as JPEGs of frames."""

import dataclasses
import os
import pathlib
import re
import urllib.parse
from typing import ClassVar

import tensorflow_datasets as tfds

from tokenlearner_flexivit.data import (
  frame_store,
  preparation,
  tfds_source,
  video_file,
  video_listing,
)

# Where a name does not say, see `VideoFolderSource`.
FPS, SIZE = 25, 256

_DESCRIPTION = """
Videos of a folder, as JPEGs of frames that are evenly spaced in time.
"""


@dataclasses.dataclass(eq=False, kw_only=True)
class VideoFolderConfig(tfds.core.BuilderConfig):
  """Which videos.

  Attributes:
    listing: the videos.
  """

  # TFDS logs the config.
  listing: video_listing.Listing = dataclasses.field(repr=False)


class VideoFolder(tfds.core.GeneratorBasedBuilder):
  """TFDS builder; see `_DESCRIPTION`."""

  VERSION = tfds.core.Version("1.2.0")
  RELEASE_NOTES: ClassVar = {
    "1.2.0": "Frames are turned as the file asks.",
    "1.1.0": "Frames of AVI and of clips of MPEG streams in true order.",
    "1.0.0": "First version.",
  }
  # There are no downloads to check; see `Digits`.
  url_infos = None
  frames: frame_store.FrameStore  # Needed to write the dataset only.

  def _info(self) -> tfds.core.DatasetInfo:
    features = tfds.features
    listing = self.builder_config.listing
    label = features.ClassLabel(names=listing.class_names)
    frame = features.Image(shape=(None, None, 3), encoding_format="jpeg")
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=features.FeaturesDict(
        {
          "video": features.Sequence(frame),
          "label": features.Sequence(label) if listing.has_several else label,
          "file_name": features.Text(),
        }
      ),
      # The order is the listing's.
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # There is nothing to download.
    clips = self.builder_config.listing.clips
    return {split: self._generate_examples(split) for split in clips}

  def _generate_examples(self, split: str):
    listing = self.builder_config.listing
    for index, clip in enumerate(listing.clips[split]):
      labels = [listing.class_names.index(name) for name in clip.labels]
      yield (
        index,
        {
          "video": self.frames.read(clip),
          "label": labels if listing.has_several else labels[0],
          "file_name": clip.path,
        },
      )


class VideoFolderSource(tfds_source.TfdsSource):
  """Videos of a folder, by class folders or CSV files.

  The name is "video_folder:PATH", perhaps with "?fps=FPS&size=SIZE"; where they
  are not given, 25 frames per second are stored (0.001 to 1000 can be), with a
  smaller side of 256 pixels or the video's own if that is less. See
  `video_listing.list_videos` for what PATH may hold and `video_file.read_jpegs`
  for how frames are chosen.

  The first time, all videos are decoded and stored in TFDS's folder, as
  video_folder/FOLDER-FPSfps-SIZEpx-DIGEST. DIGEST depends on the names and
  sizes of the files and on their labels and times, so that after a change all
  is stored anew. What is stored can also be read where PATH is not, as the
  dataset of that name. Until all is there, the frames of each video are kept in
  a file in video_folder/.frames-FPSfps-SIZEpx-VERSION, which takes the room
  twice.
  """

  def __init__(
    self, name: str, split: str, data_dir: str | os.PathLike | None = None
  ):
    """Lists the videos, stores them unless they are, and opens the split.

    Args:
      name: see above.
      split: train, validation or test, or a slice of one.
      data_dir: TFDS's folder, by default $TFDS_DATA_DIR or
        ~/tensorflow_datasets.

    Raises:
      ValueError: the name, the folder, a CSV file or a video cannot be read;
        the message says which and why.
      OSError: TFDS's folder cannot be written.
    """
    path, fps, size = parse_name(name)
    config = prepare(path, data_dir, fps, size)
    super().__init__(f"video_folder/{config}", split, data_dir)
    self.name = f"{name} ({split})"


def parse_name(name: str) -> tuple[str, float, int]:
  """Returns the path, the frames per second and the size in a dataset name."""
  path, _, query = name.removeprefix("video_folder:").partition("?")
  low, high = video_file.FPS_RANGE
  try:
    given = dict(urllib.parse.parse_qsl(query, strict_parsing=bool(query)))
    fps, size = float(given.pop("fps", FPS)), int(given.pop("size", SIZE))
    if not path or given or not low <= fps <= high or size < 1:
      raise ValueError
  except ValueError:
    raise ValueError(
      f"Cannot read the dataset {name!r}: expected 'video_folder:/path', or "
      f"with frames per second ({low} to {high}) and pixels of the smaller "
      "side (1 or more) 'video_folder:/path?fps=25&size=256'."
    ) from None
  return path, fps, size


def fps_and_size(name: str) -> tuple[float, int]:
  """Returns the frames per second and the size that a dataset is stored at.

  Args:
    name: of any dataset: "video_folder:PATH...", what `VideoFolderSource` has
      stored, "video_folder/FOLDER-FPSfps-SIZEpx-DIGEST", or another, for which
      they are those that are stored by default.

  Raises:
    ValueError: the name is "video_folder:" and what cannot be read.
  """
  if name.startswith("video_folder:"):
    return parse_name(name)[1:]
  stored = re.match(r"video_folder/.*-([^-]+)fps-(\d+)px-", name)
  return (float(stored[1]), int(stored[2])) if stored else (FPS, SIZE)


def prepare(
  path: str | os.PathLike,
  data_dir: str | os.PathLike | None = None,
  fps: float = FPS,
  size: int = SIZE,
  num_threads: int | None = None,
) -> str:
  """Stores the videos of a folder unless they are; see `VideoFolderSource`.

  Videos are decoded by several threads. When this is broken off, the next call
  goes on with those that are left. What is stored does not depend on that.

  Args:
    path: the folder.
    data_dir: TFDS's folder, by default $TFDS_DATA_DIR or
      ~/tensorflow_datasets.
    fps: frames per second to store.
    size: greatest smaller side of a stored frame in pixels.
    num_threads: how many videos are decoded at a time; by default one per core.

  Returns:
    The name of the dataset's config: it is "video_folder/CONFIG" to TFDS.

  Raises:
    ValueError: the folder or any of the videos cannot be read. All videos are
      tried before, and the message says where all are listed.
    OSError: TFDS's folder cannot be written.
    ImportError: PyAV is not installed.
  """
  listing = video_listing.list_videos(path)
  stem = re.sub(r"\W+", "_", listing.root.resolve().name)
  if data_dir is not None:
    data_dir = os.path.expanduser(data_dir)
  config = VideoFolderConfig(
    name=f"{stem}-{fps:g}fps-{size}px-{listing.digest()}", listing=listing
  )
  target = pathlib.Path(VideoFolder(data_dir=data_dir, config=config).data_dir)
  if target.exists():
    return config.name

  # Shared by all states of the folder, so that a mended one is soon stored.
  # Not by those of another version, which may have made other frames.
  name = f".frames-{fps:g}fps-{size}px-{target.name}"
  folder = target.parent.parent / name
  store = frame_store.FrameStore(folder, listing.root, fps, size)
  clips = [clip for split in listing.clips.values() for clip in split]
  store.fill(clips, num_threads or os.cpu_count() or 1, config.name)

  def make_builder(folder: str) -> VideoFolder:
    builder = VideoFolder(
      data_dir=folder, config=config, file_format="array_record"
    )
    builder.frames = store
    return builder

  preparation.prepare(target, make_builder)
  store.remove(clips)
  return config.name
