r"""The maps of TokenLearner's learned tokens over images and videos.

A learned token is a weighted sum over the positions of an image or a frame
(TokenLearner, arXiv 2106.11297, Section 2); its weights are a map on the grid
of patches. For a run, at each of its patch sizes:

  python -m tokenlearner_flexivit.analysis.token_maps --workdir=WORKDIR \
    --output=maps.png [--images FILE ...] [--patch_sizes=24,12,6]

and in a program or a notebook

  maps = token_maps(model, params, images, patch_size=8)  # [B, S, h, w]
  figure = image_figure(model, params, images, patch_sizes=(24, 12, 8))

`overlay` draws them and says how they are scaled.

Letters: B batch, T frames, T' frames or tubelets of the model, H W image,
C channels, h w grid, S learned tokens.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from tokenlearner_flexivit import dials, terminal
from tokenlearner_flexivit.analysis import captions as captions_lib
from tokenlearner_flexivit.analysis import command, outputs
from tokenlearner_flexivit.figures import drawing, overlay
from tokenlearner_flexivit.inference import runs
from tokenlearner_flexivit.models import tiling
from tokenlearner_flexivit.models.video import vivit

TITLE = "Where learned tokens look"


def map_names(model: Any) -> tuple[str, ...]:
  """Returns the blocks before which a model learns tokens, as in `out`.

  It is one block without TokenFuser; with it, every block from
  `token_learner.layer` on.

  Raises:
    ValueError: the model has no TokenLearner.
  """
  config = model.token_learner
  if config is None:
    raise ValueError(
      "The model has no token_learner, so there are no maps to show. Give it "
      "one, as in token_learner=dict(layer=6, num_tokens=8)."
    )
  end = model.depth if config["fuser"] else config["layer"] + 1
  return tuple(f"block{i:02d}" for i in range(config["layer"], end))


def token_maps(
  model: Any,
  params: Any,
  images: np.ndarray | jax.Array,
  *,
  patch_size: tiling.Size | None = None,
  num_tokens: int | None = None,
  name: str | None = None,
) -> np.ndarray:
  """Returns the maps of learned tokens on the grid of patches.

  Args:
    model: a `models.ViT` or `models.ViViT`.
    params: its parameters.
    images: [B, H, W, C] float, or videos [B, T, H, W, C].
    patch_size: None for the model's own.
    num_tokens: S, the number of first tokens to take; None for all.
    name: one of `map_names`; None for the first. Later maps depend on
      `num_tokens`.

  Returns:
    float32 [B, S, h, w], of videos [B, T', S, h, w]: weights as the model uses
    them. They sum to 1 over the grid in TokenLearner v1.1; in v1.0 each is in
    (0, 1), or with mean pooling in (0, 1 / (h * w)). Those of averages are
    the same for all images.

  Raises:
    ValueError: no TokenLearner, an unknown name, more tokens than were
      learned, or a patch size that does not divide the images.
  """
  names = map_names(model)
  if name is None:
    name = names[0]
  if name not in names:
    raise ValueError(
      f"No maps called {name!r}. This model has them in {', '.join(names)}."
    )
  if patch_size is not None:
    patch_size = tiling.to_size(patch_size)
  # Parameters of a run may lie on devices of several hosts.
  params = jax.tree.map(
    lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, params
  )
  setting = dials.Setting(patch_size, num_tokens)
  key = f"encoder/{name}/token_learner/maps"
  out = outputs.named(model, params, images, setting, (key, "stem"))
  maps = np.asarray(out[key])
  return maps.reshape(*maps.shape[:-1], *out["stem"].shape[-3:-1])


def image_figure(
  model: Any,
  params: Any,
  images: np.ndarray,
  *,
  patch_sizes: Sequence[tiling.Size | None] = (None,),
  num_tokens: int | None = None,
  name: str | None = None,
  title: str = TITLE,
  captions: Sequence[str] | None = None,
) -> drawing.Figure:
  """Draws the maps of images: rows are patch sizes, columns are tokens.

  Args:
    model: a `models.ViT`.
    params: its parameters.
    images: [B, H, W, 1 or 3] float; a group of rows for each.
    patch_sizes: None is the model's own.
    num_tokens: as in `token_maps`.
    name: as in `token_maps`.
    title: of the picture.
    captions: words for each image, such as its class.

  Returns:
    A figure to be saved, or shown by a notebook.

  Raises:
    ValueError: as `token_maps`.
  """
  sizes = [model.patch_size if p is None else p for p in patch_sizes]
  choice = dict(num_tokens=num_tokens, name=name)
  maps = [
    outputs.without_padding(
      model,
      token_maps(model, params, images, patch_size=size, **choice),
      images.shape[1:3],
      size,
    )
    for size in sizes
  ]
  captions = captions or [""] * len(images)
  rows = [
    overlay.Row(f"patch {_size_name(size)}", image, size_maps[i], captions[i])
    for i, image in enumerate(map(overlay.displayable, images))
    for size, size_maps in zip(sizes, maps, strict=True)
  ]
  return overlay.figure(rows, title)


def video_figure(
  model: Any,
  params: Any,
  video: np.ndarray,
  *,
  patch_size: tiling.Size | None = None,
  num_tokens: int | None = None,
  name: str | None = None,
  title: str = TITLE,
  caption: str = "",
) -> drawing.Figure:
  """Draws the maps of a video over time: rows are frames, columns are tokens.

  Args:
    model: a `models.ViViT`.
    params: its parameters.
    video: [T, H, W, 1 or 3] float.
    patch_size: as in `token_maps`.
    num_tokens: as in `token_maps`.
    name: as in `token_maps`.
    title: of the picture.
    caption: of the video, such as its class; stands in the first frame.

  Returns:
    A figure to be saved, or shown by a notebook. For a tubelet of several
    frames, the middle frame is shown.

  Raises:
    ValueError: as `token_maps`.
  """
  maps = token_maps(
    model,
    params,
    video[None],
    patch_size=patch_size,
    num_tokens=num_tokens,
    name=name,
  )[0]
  # The numbers of the frames that the model reads.
  numbers = np.arange(len(video))
  if model.num_frames is not None:
    numbers = vivit.sample_frames(numbers[None], model.num_frames)[0]
  tubelet = len(numbers) // len(maps)
  numbers = numbers[tubelet // 2 :: tubelet]
  shown = overlay.displayable(video)
  rows = [
    overlay.Row(f"frame {number}", shown[number], frame_maps)
    for number, frame_maps in zip(numbers.tolist(), maps, strict=True)
  ]
  rows[0] = rows[0]._replace(caption=caption)
  return overlay.figure(rows, title, first="frame")


def data_to_draw(
  config: Mapping[str, Any], model: Any
) -> dict[str, Any] | None:
  """Returns the data section whose examples a run's report shows with maps.

  It is None if the model learns no tokens, or if the config has no evaluation
  with a split.
  """
  learner = model.token_learner
  if learner is None or learner["version"] == "average":
    return None
  return runs.test_data(config)


def fitting_sizes(
  config: Mapping[str, Any], model: Any, shape: Sequence[int]
) -> list[tuple[int, int]]:
  """Returns the patch sizes of the training that suit test images or videos.

  Args:
    config: of the run, complete.
    model: the run's.
    shape: [H, W, C] or [T, H, W, C].
  """
  return [
    size
    for size in runs.trained_dials(config, model)["patch_size"].values
    if runs.fits(model, shape, dials.Setting(size))
  ]


def draw_run(
  path: str | pathlib.Path, config: Mapping[str, Any], model: Any, params: Any
) -> bool:
  """Draws the picture of learned tokens for a run's report.

  It shows four test images, the smallest, the largest and the middle one of
  the patch sizes as the config lists them, and at most eight tokens.

  Args:
    path: of the picture.
    config: of the run, complete.
    model: the run's.
    params: its parameters.

  Returns:
    Whether `data_to_draw` had something to draw, and `fitting_sizes` a patch
    size to draw it at.
  """
  data = data_to_draw(config, model)
  if data is None:
    return False
  images, words = captions_lib.read_examples(data, 4)
  sizes = fitting_sizes(config, model, images.shape[1:])
  if not sizes:
    return False
  picked = sorted({0, (len(sizes) - 1) // 2, len(sizes) - 1})
  drawn = image_figure(
    model,
    params,
    images,
    captions=words,
    patch_sizes=[sizes[i] for i in picked],
    num_tokens=min(8, model.token_learner["num_tokens"]),
  )
  drawing.save(drawn, path, dpi=120)
  return True


def _size_name(size: tiling.Size) -> str:
  sizes = tiling.to_size(size)
  return "x".join(map(str, sizes if len(set(sizes)) > 1 else sizes[:1]))


def main(argv: list[str] | None = None) -> None:
  """Draws the maps of a run; bad input gives an error of one line."""
  parser = command.parser(
    "token_maps", "Draws the maps of learned tokens over images."
  )
  add = parser.add_argument
  command.add_images(add, 4)
  add("--num_tokens", type=int, help="how many of the tokens to use")
  add("--name", help="which maps of a model with TokenFuser, as block03")
  args = parser.parse_args(argv)
  with command.errors_in_a_line():
    opened = command.open_run(args)
    map_names(opened.model)  # Checked before anything is read.
    images, words = command.read_captioned(args, opened)
    drawn = image_figure(
      opened.model,
      opened.params,
      images,
      captions=words,
      patch_sizes=[setting.patch_size for setting in opened.settings],
      num_tokens=args.num_tokens,
      name=args.name,
    )
    drawing.save(drawn, args.output, dpi=150)
  print(f"Maps of {terminal.counted(len(images), 'image')}: {args.output}")


if __name__ == "__main__":
  main()
