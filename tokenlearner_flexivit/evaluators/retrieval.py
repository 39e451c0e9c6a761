"""Recall of images by their texts, and of texts by their images.

* `i2t_R1`, `i2t_R5`, `i2t_R10`: the share of the images that have one of their
  own texts among the k nearest of all texts.
* `t2i_R1`, ...: the share of the texts whose image is among the k nearest of
  all images.
* `R1`: the mean of `i2t_R1` and `t2i_R1`.

Near is what has a large cosine. Of equal cosines the lower position in the data
comes first, so that a model whose answers are all the same has no more than
chance. Candidates are all texts and images of the split: numbers of papers are
of Karpathy's test split of COCO, 5,000 images with all their captions.

The preprocessing gives `tokens` [L], one text of each image, or `texts` [K, L]
and `text_mask` [K], several of them, by the ops `tokenize` and `tokenize_all`:

    pp="decode|resize(240)|value_range(-1,1)|tokenize_all(16,'words',5)"
       "|keep('image','texts','text_mask')"

Each batch is read and decoded once and its texts are embedded once; then every
setting's program runs on its images.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit.evaluators import base
from tokenlearner_flexivit.figures.metric import Metric
from tokenlearner_flexivit.tasks.contrastive import TOKENS

TEXTS, TEXT_MASK = "texts", "text_mask"
KS = (1, 5, 10)
METRICS = {
  "R1": Metric("R@1, mean of both ways", "%"),
  **{f"i2t_R{k}": Metric(f"image to text R@{k}", "%") for k in KS},
  **{f"t2i_R{k}": Metric(f"text to image R@{k}", "%") for k in KS},
}
# Rows of cosines that are in memory together: with 25,000 texts, 100 MB.
_ROWS = 1024


def ranks(
  scores: Float[np.ndarray, "N M"], chosen: Int[np.ndarray, " N"]
) -> Int[np.ndarray, " N"]:
  """Returns the position of one candidate per row, from the best on.

  Of equal scores the lower index comes first.

  Args:
    scores: of M candidates in each row.
    chosen: the candidates whose positions are returned.
  """
  own = np.take_along_axis(scores, chosen[:, None], axis=1)
  before = np.arange(scores.shape[1])[None] < chosen[:, None]
  return ((scores > own) | ((scores == own) & before)).sum(axis=1)


def recalls(
  zimg: Float[np.ndarray, "N E"],
  ztxt: Float[np.ndarray, "M E"],
  text_image: Int[np.ndarray, " M"],
  ks: Sequence[int] = KS,
) -> dict[str, float]:
  """Returns recalls both ways, in [0, 1], by the names of `METRICS`.

  Args:
    zimg: embeddings of images.
    ztxt: embeddings of texts.
    text_image: the image of each text; every image has one.
    ks: numbers of candidates that count as near.
  """
  positions = {"i2t": [], "t2i": []}
  for start in range(0, len(zimg), _ROWS):
    images = np.arange(start, min(start + _ROWS, len(zimg)))
    scores = zimg[images] @ ztxt.T
    own = text_image[None] == images[:, None]
    best = np.where(own, scores, -np.inf).argmax(axis=1)
    positions["i2t"].append(ranks(scores, best))
  for start in range(0, len(ztxt), _ROWS):
    texts = slice(start, start + _ROWS)
    scores = ztxt[texts] @ zimg.T
    positions["t2i"].append(ranks(scores, text_image[texts]))
  shares = {
    f"{way}_R{k}": float((np.concatenate(parts) < k).mean())
    for way, parts in positions.items()
    for k in ks
  }
  return {"R1": (shares["i2t_R1"] + shares["t2i_R1"]) / 2, **shares}


class Evaluator(base.Evaluator):
  """An evaluator of retrieval, for a task that embeds images and texts.

  Attributes:
    settings: the settings that are evaluated.
    image_shape: (H, W, C) of the images.
    headline: the metric that settings are compared by.
  """

  metrics = METRICS
  headline = "R1"
  needs = ("embed_texts",)

  def __init__(self, context: base.Context, data: dict[str, Any]):
    """Opens the data and checks that every setting fits it.

    Args:
      context: with a task that has `predict`, `embed_texts` and `check_tokens`.
      data: the data section of the config.

    Raises:
      ValueError: no examples, no texts or texts of another vocabulary, or a
        setting that does not fit the images.
    """
    super().__init__(context)
    source = data_lib.open_source(data, f"{self._where}.data")
    self.sources = (source,)
    self._images = self._open(
      data, source, entries=(), optional=(TOKENS, TEXTS, TEXT_MASK)
    )
    self._check_texts(self._images.example)
    self.image_shape = self._images.shape
    self._embed = self._answer_programs()
    self._embed_texts = self._program(
      "embeddings of texts",
      functools.partial(_embed_texts, self._task),
      sharded_output=True,
    )
    self._gather = self._gather_program()

  def _check_texts(self, example: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError for an example without texts of the vocabulary."""
    where = f"{self._where}.data.pp"
    if TEXTS not in example and TOKENS not in example:
      raise ValueError(
        f"{where} gives neither {TEXTS!r} nor {TOKENS!r}, only "
        f"{', '.join(example)}. Put tokenize_all(...) there for several texts "
        f"of an image, and keep('image','{TEXTS}','{TEXT_MASK}') at its end."
      )
    if TEXTS in example:
      data_lib.check_entries(example, (TEXT_MASK,), where)
    texts = example[TEXTS if TEXTS in example else TOKENS]
    self._task.check_tokens(texts[None], where)

  def run(self, params: Any) -> Iterator[tuple[str, float]]:
    """Yields `{setting.name}/` with the names of `METRICS`, and `/examples`.

    `examples` counts the images.

    Raises:
      ValueError: an image has no text, or embeddings are not finite.
    """
    kept = []
    nothing = self._nothing()
    for batch in self._images:
      inputs = self._inputs(batch)
      rows = {
        "ztxt": self._embed_texts(params, _texts(batch)),
        "mask": batch["mask"],
        **{
          setting.name: embed(params, inputs)
          for setting, embed in self._embed.items()
        },
      }
      if TEXT_MASK in batch:
        rows[TEXT_MASK] = batch[TEXT_MASK]
      kept.append(jax.device_get(self._gather(nothing, rows)))
    rows = jax.tree.map(lambda *x: np.concatenate(x), *kept)
    is_real = rows.pop("mask") > 0
    rows = {name: value[is_real] for name, value in rows.items()}
    ztxt = rows.pop("ztxt")
    has_text = rows.pop(TEXT_MASK, np.ones(ztxt.shape[:2])) > 0
    if not has_text.any(axis=1).all():
      index = int(np.flatnonzero(~has_text.any(axis=1))[0])
      raise ValueError(
        f"{self._where}.data: {self.sources[0].describe(index)} has no text, "
        "so it can be retrieved by none. Leave such images out."
      )
    text_image, _ = np.nonzero(has_text)
    ztxt = ztxt[has_text]
    for setting in self.settings:
      zimg = _unit(rows[setting.name])
      if not (np.isfinite(zimg).all() and np.isfinite(ztxt).all()):
        raise ValueError(
          f"{self._where}: the embeddings at {setting.name} are not finite, so "
          "they have no order. The training has diverged."
        )
      for name, value in recalls(zimg, ztxt, text_image).items():
        yield f"{setting.name}/{name}", value
      yield f"{setting.name}/examples", len(zimg)

  def _timed(self, params):
    return self._embed, (params, self._inputs(next(iter(self._images))))


def _texts(batch: base.Batch) -> base.Batch:
  """Returns the texts of a batch under one name."""
  return {TEXTS: batch[TEXTS if TEXTS in batch else TOKENS]}


def _embed_texts(task: Any, params: Any, batch: base.Batch) -> jax.Array:
  """Returns embeddings [b, K, E] of texts [b, K, L], or [b, L]; on a device."""
  texts = batch[TEXTS]
  flat = task.embed_texts(params, texts.reshape(-1, texts.shape[-1]))
  return flat.reshape(len(texts), -1, flat.shape[-1])


def _unit(vectors: Float[np.ndarray, "N E"]) -> Float[np.ndarray, "N E"]:
  """Returns vectors of length 1: means over views are shorter."""
  return vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-8)
