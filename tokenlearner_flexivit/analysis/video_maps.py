r"""The maps of learned tokens over a video: a picture and an animation.

TokenLearner computes the same number of tokens for each frame, or tubelet of a
few frames, by a map on the grid of patches (`token_maps`). For a run, or for
videos of one's own, which are cropped as in the run's evaluation:

  python -m tokenlearner_flexivit.analysis.video_maps --workdir=WORKDIR \
    --output=maps.png [--videos FILE ...] [--num_tokens=4]

writes maps.png, a row per frame of the first video and a column per token, and
maps.gif, all videos moving with their maps beside them.

Letters: V videos, T frames, T' tubelets, H W frame, C channels, h w grid, S
learned tokens.
"""

import argparse
import inspect
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tokenlearner_flexivit import arguments, paths, terminal
from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit.analysis import captions as captions_lib
from tokenlearner_flexivit.analysis import command, token_maps
from tokenlearner_flexivit.data.ops import video as video_ops
from tokenlearner_flexivit.data.sources.video_folder import (
  frames as frame_store,
)
from tokenlearner_flexivit.data.sources.video_folder import (
  source as video_folder,
)
from tokenlearner_flexivit.figures import drawing, overlay
from tokenlearner_flexivit.inference import runs
from tokenlearner_flexivit.models import tiling
from tokenlearner_flexivit.models.video import vivit

_MAX_TOKENS = 8
# Frames of small clips are enlarged, so that patches can be distinguished.
_CELL_PIXELS = 112
_GAP = 4
_LINE = 17  # Height of a line of words in pixels.
_MILLISECONDS = 200


def animation(
  videos: Sequence[np.ndarray],
  maps: Sequence[np.ndarray],
  captions: Sequence[str] | None = None,
) -> list[Image.Image]:
  """Returns the frames of an animation, videos below one another.

  Args:
    videos: V of [T, H, W, C].
    maps: V of [T', S, h, w]; T' divides T.
    captions: words for each video, such as its class.

  Returns:
    T pictures: per video a frame and the maps of its tubelet side by side,
    under the names of the columns; below, the time and a colour scale.
  """
  rows = [_cells(*pair) for pair in zip(videos, maps, strict=True)]
  height, width = rows[0][0][0].shape[:2]
  scale = max(1, round(_CELL_PIXELS / max(height, width)))
  down, across = (scale * side + _GAP for side in (height, width))
  columns, moments = len(rows[0][0]), len(rows[0])
  names = ["frame", *(f"token {s}" for s in range(1, columns))]
  shape = (len(rows) * down + 2 * _LINE, columns * across - _GAP, 3)
  captions = [terminal.encodable(words) for words in captions or ()]
  font = ImageFont.truetype(drawing.font_file(captions), _LINE - 6)
  pictures = []
  for time, moment in enumerate(zip(*rows, strict=True), start=1):
    canvas = np.ones(shape)
    for i, row in enumerate(moment):
      for j, cell in enumerate(row):
        large = cell.repeat(scale, axis=0).repeat(scale, axis=1)
        top, left = _LINE + i * down, j * across
        canvas[top : top + large.shape[0], left : left + large.shape[1]] = large
    picture = Image.fromarray((255 * canvas).round().astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    pen.font = font
    for j, name in enumerate(names):
      pen.text((j * across + 2, 1), name, "black")
    for i, words in enumerate(captions):
      place = 2, _LINE + i * down + 2
      pen.rectangle(pen.textbbox(place, words), "black")
      pen.text(place, words, "white")
    words = f"frame {time} of {moments}; yellow: most weight"
    pen.text((2, shape[0] - _LINE), words, "black")
    pictures.append(picture)
  return pictures


def _cells(video: np.ndarray, maps: np.ndarray) -> list[list[np.ndarray]]:
  """Returns each frame with its maps over it, [H, W, 3] in [0, 1]."""
  maps = np.repeat(maps, len(video) // len(maps), axis=0)
  return [
    [frame, *(overlay.overlay(frame, x) for x in frame_maps)]
    for frame, frame_maps in zip(overlay.displayable(video), maps, strict=True)
  ]


def draw(
  path: str | pathlib.Path,
  model: Any,
  params: Any,
  videos: np.ndarray,
  *,
  patch_size: tiling.Size | None = None,
  num_tokens: int | None = None,
  captions: Sequence[str] | None = None,
) -> None:
  """Draws a picture of the first video, and the animation of all beside it.

  Args:
    path: of the picture; the animation has the extension .gif instead.
    model: a `models.ViViT` with TokenLearner.
    params: its parameters.
    videos: [V, T, H, W, 1 or 3] float.
    patch_size: None for the model's own.
    num_tokens: S, the first so many; None for eight, or all if there are less.
      Of averages only all can be shown.
    captions: words for each video, such as its class.

  Raises:
    ValueError: no TokenLearner, or invalid arguments.
  """
  path = pathlib.Path(path)
  token_maps.map_names(model)
  learner = model.token_learner
  if num_tokens is None and learner["version"] != "average":
    num_tokens = min(_MAX_TOKENS, learner["num_tokens"])
  choice = dict(patch_size=patch_size, num_tokens=num_tokens)
  caption = captions[0] if captions else ""
  figure = token_maps.video_figure(
    model, params, videos[0], caption=caption, **choice
  )
  drawing.save(figure, path, dpi=120)
  frames = [_frames_read(model, video) for video in np.asarray(videos)]
  # One video at a time: all of its frames make one long sequence.
  maps = [
    token_maps.token_maps(model, params, video[None], **choice)[0]
    for video in videos
  ]
  first, *others = animation(frames, maps, captions)
  with paths.whole(path.with_suffix(".gif")) as partial:
    first.save(
      partial,
      "GIF",
      save_all=True,
      append_images=others,
      duration=_MILLISECONDS,
      loop=0,
    )


def _frames_read(model: Any, video: np.ndarray) -> np.ndarray:
  """Returns the frames of a video [T, ...] that the model reads."""
  if model.num_frames is None:
    return video
  return vivit.sample_frames(video[None], model.num_frames)[0]


def draw_run(
  path: str | pathlib.Path, config: Mapping[str, Any], model: Any, params: Any
) -> bool:
  """Draws three test videos for a run's report, by `draw`.

  Args:
    path: of the picture.
    config: of the run, complete.
    model: the run's.
    params: its parameters.

  Returns:
    Whether there was something to draw, as in `token_maps.draw_run`.
  """
  data = token_maps.data_to_draw(config, model)
  if data is None:
    return False
  videos, words = read_captioned(data, 3)
  sizes = token_maps.fitting_sizes(config, model, videos.shape[1:])
  if not sizes:
    return False
  # The smallest patch size has the finest maps.
  draw(path, model, params, videos, patch_size=min(sizes), captions=words)
  return True


def read_examples(data_config: Mapping[str, Any], number: int) -> np.ndarray:
  """Returns the videos of `read_captioned` alone."""
  return read_captioned(data_config, number)[0]


def read_captioned(
  data_config: Mapping[str, Any], number: int
) -> tuple[np.ndarray, list[str]]:
  """Returns evenly spaced videos of a split, preprocessed by its section.

  Args:
    data_config: the data section of an evaluation: name, split and pp.
    number: how many videos; all if the split has fewer.

  Returns:
    [number, T, H, W, C], of several views the middle crop of the middle clip;
    and the names of the videos' classes.

  Raises:
    ValueError: the split cannot be read, no video is wanted, or they come in
      several sizes.
  """
  if number < 1:
    raise ValueError(f"{number} videos wanted; give 1 or more.")
  source = data_lib.open_source(data_config)
  number = min(number, len(source))
  wanted = (np.arange(number) * len(source) // number).tolist()
  pp = data_config["pp"]
  examples = [source[i] for i in wanted]
  videos = [
    _prepared(raw, pp, i) for i, raw in zip(wanted, examples, strict=True)
  ]
  batch = {"video": _stacked(videos, pp), **labels(examples)}
  # Labels of the dataset, before the preprocessing.
  words = captions_lib.label_names({**data_config, "pp": None}, batch)
  return batch["video"], words


def labels(examples: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
  """Returns the `label` of a batch: classes [B], or their weights [B, C].

  It is left out if an example has none, or a list of several classes.

  Args:
    examples: of a dataset, before the preprocessing.
  """
  values = [np.asarray(example.get("label")) for example in examples]
  kinds = {(x.dtype.kind in "iu", x.dtype.kind == "f", x.shape) for x in values}
  if len(kinds) > 1:
    return {}
  ((are_classes, are_weights, shape),) = kinds
  is_known = (are_classes and not shape) or (
    are_weights and len(shape) == 1 and shape[0] > 0
  )
  return {"label": np.stack(values)} if is_known else {}


def read_files(
  paths: Sequence[str | pathlib.Path], data_config: Mapping[str, Any]
) -> np.ndarray:
  """Returns videos from files, preprocessed as in a run's evaluation.

  Their frames are those that `video_folder` would store: at the rate and size
  of the run's own, or at 25 per second and 256 pixels if it has other data.

  Raises:
    ValueError: a file cannot be read or preprocessed (names it), or they come
      in several sizes.
  """
  fps, size = video_folder.fps_and_size(data_config["name"])
  videos = []
  for path in paths:
    path = pathlib.Path(path).expanduser()
    try:
      with frame_store.stored(path, fps, size) as frames:
        # Ops of users may read the label.
        example = {"video": frames, "label": np.int32(0), "id": np.int32(0)}
        videos.append(_prepared(example, data_config["pp"], 0))
    except (OSError, ValueError) as error:
      raise ValueError(f"{path}: {error}") from error
  return _stacked(videos, data_config["pp"])


def _prepared(example: Mapping[str, Any], pp: str, seed: int) -> np.ndarray:
  """Returns the video of an example, [T, H, W, C]."""
  preprocess = data_lib.parse(pp).only("video")
  # Random ops draw the same numbers in each call.
  video = preprocess(dict(example), np.random.default_rng(seed))["video"]
  if video.ndim == 4:
    return video
  crops = 1
  for step in preprocess.steps:
    if step.fn is video_ops.spatial_views:
      bound = inspect.signature(step.fn).bind(None, *step.args, **step.kwargs)
      bound.apply_defaults()
      crops = bound.arguments["crops"]
  clips = len(video) // crops
  return video[clips // 2 * crops + crops // 2]


def _stacked(videos: Sequence[np.ndarray], pp: str) -> np.ndarray:
  """Returns videos of one size as an array."""
  shapes = sorted({video.shape for video in videos})
  if len(shapes) > 1:
    raise ValueError(
      f"The preprocessing {pp!r} gives videos of several sizes: {shapes}. Look "
      "at them one at a time, or at such as have one size."
    )
  return np.stack(videos)


def main(argv: list[str] | None = None) -> None:
  """Draws the maps of a run; bad input gives an error of one line."""
  parser = argparse.ArgumentParser(
    prog="python -m tokenlearner_flexivit.analysis.video_maps",
    description="Draws the maps of learned tokens over videos.",
  )
  add = parser.add_argument
  add("--workdir", required=True, help="of a trained run")
  add(
    "--output",
    required=True,
    type=arguments.picture,
    help="the picture, such as maps.png",
  )
  add("--videos", nargs="+", metavar="FILE", help="videos of your own")
  add("--num_videos", type=int, default=3, help="how many of the test split")
  add("--num_tokens", type=int, help="how many of the tokens to show")
  args = parser.parse_args(argv)
  with command.errors_in_a_line():
    run = runs.open_run(args.workdir, "video")
    token_maps.map_names(run.model)  # Checked before anything is read.
    if args.videos:
      videos = read_files(args.videos, run.data)
      names = [pathlib.Path(file).name for file in args.videos]
      words = [captions_lib.shortened(name) for name in names]
    else:
      videos, words = read_captioned(run.data, args.num_videos)
    choice = dict(
      patch_size=min(run.dials["patch_size"].values),
      num_tokens=args.num_tokens,
      captions=words,
    )
    draw(args.output, run.model, run.params, videos, **choice)
  moving = args.output.with_suffix(".gif")
  number = terminal.counted(len(videos), "video")
  print(f"Maps of {number}: {args.output} and {moving}")


if __name__ == "__main__":
  main()
