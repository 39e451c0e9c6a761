"""The evaluator of segmentations against counting pixel by pixel."""

import contextlib
import types

import cv2
import jax
import numpy as np
import pytest
from flax import linen as nn

from tokenlearner_flexivit import data as data_lib
from tokenlearner_flexivit import dials, evaluators, tasks
from tokenlearner_flexivit.data.sources import base as sources
from tokenlearner_flexivit.evaluators import segmentation
from tokenlearner_flexivit.models import protocol
from tokenlearner_flexivit.parallel import pmap

CLASSES, SIDE, TRUTH, IGNORE = 3, 12, 20, 255
KEEP = "keep('image','semantic','valid')"
PP = f"pad_to(12,masks='semantic')|{KEEP}"
DATA = dict(name="fake:12x12x3:3:11", split="test", pp=PP, num_threads=1)
ORIGINAL = (
  "copy('full','semantic')|pad_to(20,255,key='semantic')"
  "|keep('semantic','valid')"
)
SETTINGS = [dials.Setting((4, 4)), dials.Setting((5, 6))]


class Echo(protocol.Model):
  """Takes the channels of an image for logits, louder at smaller patches."""

  own_patch_size = (4, 4)

  @nn.compact
  def __call__(self, images, *, patch_size=None, train=False):
    zero = self.param("zero", nn.initializers.zeros, ())
    return images * patch_size[0] + zero, {}


class Pictures(sources.Source):
  """Images of several sizes, with a mask of their size and another one."""

  name, num_classes, class_names = "pictures", None, None

  def __init__(self, count=11):
    rng = np.random.default_rng(3)
    self.examples = []
    for number in range(count):
      size = rng.integers(5, SIDE, 2, endpoint=True)
      full = rng.integers(5, TRUTH, 2, endpoint=True)
      example = {
        "image": rng.normal(size=(*size, 3)).astype(np.float32),
        "semantic": rng.choice(np.int32([0, 1, 2, IGNORE]), size),
        "full": rng.choice(np.int32([0, 1, 2, IGNORE]), full),
        "id": np.int32(number),
      }
      self.examples.append((example, size, full))
    # No pixel of the last has a class.
    example["semantic"][:], example["full"][:] = IGNORE, IGNORE

  def __len__(self):
    return len(self.examples)

  def __getitem__(self, index):
    return dict(self.examples[index][0])

  def classes(self, key="label"):
    return (CLASSES, ["sky", "sea/lake", "sand"])


@pytest.fixture
def pictures(monkeypatch):
  source = Pictures()
  monkeypatch.setattr(data_lib, "open_source", lambda *_: source)
  return source


def make(batch_size=16, devices=None, **section):
  task = tasks.create(
    {"name": "segmentation"},
    model=Echo(),
    num_classes=CLASSES,
    class_names=["sky", "sea/lake", "sand"],
  )
  context = evaluators.Context(
    task=task,
    settings=SETTINGS,
    batch_size=batch_size,
    parallel=pmap.Pmap(devices),
    class_names=task.class_names,
  )
  section = {"type": "segmentation", "data": DATA, **section}
  return evaluators.create(section, context)


def evaluate(evaluator):
  params = evaluator._parallel.place({"zero": np.float32(0)})
  return dict(evaluator.run(params))


def counted(source, at_original_size, predict):
  """Counts pixel by pixel what `predict` makes of an example."""
  matrix = np.zeros((CLASSES, CLASSES), int)
  for example, size, full in source.examples:
    key, shown = ("full", full) if at_original_size else ("semantic", size)
    predicted = predict(example, size, shown)
    for row in range(shown[0]):
      for column in range(shown[1]):
        truth = example[key][row, column]
        if truth != IGNORE:
          matrix[truth, predicted[row, column]] += 1
  right = np.diagonal(matrix)
  ious = right / (matrix.sum(axis=0) + matrix.sum(axis=1) - right)
  return {
    "mIoU": ious.mean(),
    "pixel_accuracy": right.sum() / matrix.sum(),
    "mean_accuracy": (right / matrix.sum(axis=1)).mean(),
    "IoU_sea_lake": ious[1],
  }


def by_channels(example, size, shown):
  image = example["image"].astype(np.float64)
  resized = cv2.resize(image, (int(shown[1]), int(shown[0])))
  return resized.argmax(axis=-1)


def by_patches(patch_size):
  def predict(example, size, shown):
    mask = example["full" if tuple(shown) != tuple(size) else "semantic"]
    predicted, cells = np.zeros(shown, int), {}
    for row in range(shown[0]):
      for column in range(shown[1]):
        cell = tuple(
          int((at + 0.5) * s / f // p)
          for at, s, f, p in zip(
            (row, column), size, shown, patch_size, strict=True
          )
        )
        cells.setdefault(cell, []).append((row, column))
    for places in cells.values():
      values = [mask[place] for place in places if mask[place] != IGNORE]
      for place in places:
        predicted[place] = np.bincount(values, minlength=CLASSES).argmax()
    return predicted

  return predict


def by_cells(patch_size, window, stride):
  """As `by_patches`, with the patches of all windows that have a pixel."""

  def patches(at, size, patch, window):
    last = max(size - window, 0)
    starts = [*range(0, last, stride), last]
    return tuple((s, (at - s) // patch) for s in starts if 0 <= at - s < window)

  def predict(example, size, shown):
    predicted, cells = np.zeros(shown, int), {}
    for place in np.ndindex(*shown):
      seen = ((np.array(place) + 0.5) * size / shown).astype(int).tolist()
      cell = tuple(map(patches, seen, size.tolist(), patch_size, window))
      cells.setdefault(cell, []).append(place)
    for places in cells.values():
      values = [example["full"][place] for place in places]
      values = [value for value in values if value != IGNORE]
      for place in places:
        predicted[place] = np.bincount(values, minlength=CLASSES).argmax()
    return predicted

  return predict


@pytest.mark.parametrize("number", [1, 2, 8])
def test_it_counts_what_numpy_counts(pictures, number, monkeypatch):
  devices = jax.devices()[:number]
  monkeypatch.setattr(jax, "local_devices", lambda: devices)
  monkeypatch.setattr(jax, "local_device_count", lambda: number)
  # The last batch is not full, on eight devices the only one.
  evaluator = make(8 if number < 8 else 16, devices, truth=ORIGINAL)
  values = evaluate(evaluator)
  expected = counted(pictures, True, by_channels)
  for setting in SETTINGS:
    for name, value in expected.items():
      assert values[f"{setting.name}/{name}"] == pytest.approx(value)
    assert values[f"{setting.name}/examples"] == 10
  if number == 8:
    for setting in SETTINGS:
      best = counted(pictures, True, by_patches(setting.patch_size))
      assert values[f"{setting.name}/ceiling"] == pytest.approx(best["mIoU"])
    assert evaluate(evaluator) == values  # The second time without the ceiling.


def test_masks_of_the_batch(pictures):
  values = evaluate(make())
  expected = counted(pictures, False, by_channels)
  for name, value in expected.items():
    assert values[f"{SETTINGS[0].name}/{name}"] == pytest.approx(value)


def test_windows_that_see_the_same_are_the_whole_image(pictures):
  evaluator = make(window=(6, 7), stride=4, truth=ORIGINAL)
  assert evaluator.image_shape == (6, 7, 3)
  values, whole = evaluate(evaluator), evaluate(make(truth=ORIGINAL))
  ceilings = [f"{setting.name}/ceiling" for setting in SETTINGS]
  kept = {k: v for k, v in values.items() if k not in ceilings}
  same = {k: v for k, v in whole.items() if k not in ceilings}
  assert kept == pytest.approx(same, abs=2e-3)
  for setting in SETTINGS:
    best = by_cells(setting.patch_size, (6, 7), 4)
    expected = counted(pictures, True, best)["mIoU"]
    assert values[f"{setting.name}/ceiling"] == pytest.approx(expected)
  throughput = evaluator.throughput(
    evaluator._parallel.place({"zero": np.float32(0)}), repeats=1
  )
  assert throughput.keys() == set(SETTINGS)


def test_masks_that_do_not_fit(pictures):
  pp = f"pad_to(12,masks='semantic')|resize(20,'nearest',key='semantic')|{KEEP}"
  with pytest.raises(
    ValueError, match=r"'semantic' the shape \[20, 20\].*truth"
  ):
    make(data={**DATA, "pp": pp})
  with pytest.raises(ValueError, match=r"stride=3 .*window is None"):
    make(stride=3)
  with pytest.raises(ValueError, match=r"stride=9 is larger than .*window=8"):
    make(window=8, stride=9)
  with pytest.raises(ValueError, match=r"window: Expected one or two positive"):
    make(window=0)
  with pytest.raises(ValueError, match=r"test\.truth.*nothing"):
    evaluators.check(
      {"type": "segmentation", "data": DATA, "truth": "nothing"},
      "config.evals.test",
    )
  for pp, fits in (("decode", False), ("decode(exif=False)", True)):
    section = {
      "type": "segmentation",
      "data": {**DATA, "pp": f"{pp}|keep('image')"},
      "truth": "decode_ids(key='semantic')|keep('semantic')",
    }
    if fits:
      evaluators.check(section, "config.evals.test")
    else:
      with pytest.raises(ValueError, match=r"Say decode\(exif=False\) in"):
        evaluators.check(section, "config.evals.test")
  pictures.examples[0][0]["full"][0, 0] = 7
  with pytest.raises(ValueError, match=r"numbers 7 \(at 1 of 400 pixels\)"):
    make(truth=ORIGINAL)
  pictures.examples[0][0]["full"][0, 0] = 1
  pictures.examples[4][0]["semantic"][2, 2] = 9
  with pytest.raises(ValueError, match=r"numbers 9 \(at 1 of"):
    evaluate(make())


@pytest.mark.parametrize(
  "names, fits",
  [
    (["sky"], True),
    (["sky", "grass"], True),
    (["tree", "sky"], False),
    (["none", "sky", "road", "tree"], False),
  ],
)
def test_other_numbers_of_classes_are_refused(names, fits):
  """Of fewer or more classes than the model has, too."""
  made = object.__new__(segmentation.Evaluator)
  made._where, made._class_names = "config.evals.x", ("sky", "road", "tree")
  made._task = types.SimpleNamespace(num_classes=CLASSES)
  source = types.SimpleNamespace(
    name="x", classes=lambda key: (len(names), names)
  )
  with contextlib.ExitStack() as raises:
    if not fits:
      match = r"x\.data has other classes"
      raises.enter_context(pytest.raises(ValueError, match=match))
    made._check_classes({"pp": KEEP}, source, "semantic")


def test_nothing_to_count(pictures):
  for example, *_ in pictures.examples:
    example["semantic"][:] = IGNORE
  with pytest.raises(ValueError, match="no pixel of pictures has a class"):
    evaluate(make())
