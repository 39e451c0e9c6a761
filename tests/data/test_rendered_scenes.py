"""The rendered_scenes builder: scenes, labels, masks, videos, preparing."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from tokenlearner_flexivit import data
from tokenlearner_flexivit.data.rendered_scenes import (
  builder,
  captions,
  draw,
  examples,
  scene,
  shapes,
  textures,
  video,
  workers,
)

_TASK = dict(side=64, seed=3, split="train")


def _decode(png_or_jpeg: bytes) -> np.ndarray:
  encoded = np.frombuffer(png_or_jpeg, np.uint8)
  return cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)


def _scenes(count: int, seed: int = 3) -> list[scene.Scene]:
  return [
    scene.sample(scene.generator(seed, "train", index))
    for index in range(count)
  ]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
  """A small prepared dataset: its folder and its config."""
  config = builder.RenderedScenesConfig(
    name="mini",
    image_size=64,
    num_train=6,
    num_validation=0,
    num_test=3,
    seed=_TASK["seed"],
  )
  folder = str(tmp_path_factory.mktemp("tfds"))
  builder.prepare(folder, config, num_processes=2)
  return folder, config


@pytest.mark.parametrize(
  "kind, arguments", [("image", {}), ("video", dict(num_frames=8))]
)
def test_same_bytes_on_any_number_of_processes(kind, arguments):
  task = {**_TASK, **arguments}
  one, three = (
    list(workers.generate(kind, task, 7, num_processes=n)) for n in (1, 3)
  )
  assert len(one) == 7
  np.testing.assert_equal(one, three)
  # And in this process, in any order.
  if kind == "image":
    np.testing.assert_equal(examples.image_example(**task, index=5), one[5])


def test_seed_split_and_index_make_the_scene():
  image = examples.image_example(**_TASK, index=0)["image"]
  for change in ({"seed": 4}, {"split": "test"}, {"index": 1}):
    other = {**_TASK, "index": 0, **change}
    assert examples.image_example(**other)["image"] != image


def test_workers_load_neither_jax_nor_tfds():
  program = workers.PROGRAM.replace("workers.serve()", "").rstrip() + (
    ", examples, video; assert not {'jax', 'tensorflow_datasets', 'grain', "
    "'tokenlearner_flexivit'} & sys.modules.keys()"
  )
  subprocess.run([sys.executable, "-P", "-c", program], check=True)


def test_error_in_a_worker_is_an_error(capfd):
  with pytest.raises(RuntimeError, match="before example 0"):
    list(workers.generate("image", {"side": 64}, 2, num_processes=2))
  assert "TypeError" in capfd.readouterr().err


def test_labels_masks_and_boxes_agree():
  for index in range(8):
    example = examples.image_example(**_TASK, index=index)
    one = scene.sample(scene.generator(_TASK["seed"], "train", index))
    main, objects = one.objects[0], example["objects"]
    assert example["label"] == example["texture"]
    for key in ("shape", "texture", "colour", "scale"):
      assert example[key] == getattr(main, key)
      assert [thing[key] for thing in objects] == [
        getattr(thing, key) for thing in one.objects
      ]
    assert example["num_objects"] == len(objects) == len(one.objects)

    instances = _decode(example["instances"])
    semantic = _decode(example["semantic"])
    assert instances.shape == semantic.shape == (64, 64)
    assert set(np.unique(instances)) == set(range(len(objects) + 1))
    areas = np.bincount(instances.ravel())[1:]
    assert areas.argmax() == 0
    lookup = np.array([0, *[thing["shape"] + 1 for thing in objects]])
    np.testing.assert_array_equal(semantic, lookup[instances])
    for i, thing in enumerate(objects):
      top, left, bottom, right = np.round(thing["bbox"] * 64).astype(int)
      visible = instances == i + 1
      inside = np.zeros_like(visible)
      inside[top:bottom, left:right] = True
      assert not (visible & ~inside).any()
      for edge in (
        visible[top, :],
        visible[bottom - 1, :],
        visible[:, left],
        visible[:, right - 1],
      ):
        assert edge.any()


def test_objects_can_be_seen_and_the_main_one_stands_out():
  for one in _scenes(150):
    main, *others = one.objects
    assert all(main.extent > 3 * other.extent for other in others)
    covered = np.zeros((96, 96), bool)
    for thing in one.objects:
      mask = (
        shapes.mask(thing.shape, thing.centre, thing.extent, thing.angle, 96)
        > 127
      )
      assert (mask & ~covered).sum() > 0.3 * mask.sum()
      covered |= mask


def test_caption_says_what_there_is():
  for one in _scenes(20):
    text, main = captions.caption(one), one.objects[0]
    for word in (
      shapes.NAMES[main.shape],
      textures.NAMES[main.texture],
      list(textures.SCALES)[main.scale],
      list(scene.COLOURS)[main.colour],
      scene.SIZES[one.size],
      scene.ORIENTATIONS[one.orientation],
    ):
      assert word in text
    assert ("smaller" in text) == (len(one.objects) > 1)
    assert ("objects" in text) == (len(one.objects) > 2)


def test_labels_are_balanced_and_independent():
  labels = [examples.labels(one) for one in _scenes(1200)]
  sizes = {
    "shape": len(shapes.NAMES),
    "texture": len(textures.NAMES),
    "colour": len(scene.COLOURS),
    "scale": len(textures.SCALES),
    "size": len(scene.SIZES),
    "orientation": len(scene.ORIENTATIONS),
    "background": len(scene.BACKGROUNDS),
    "num_objects": scene.MAX_OBJECTS,
  }
  for a in sizes:
    for b in sizes:
      table = np.zeros((sizes[a], sizes[b]))
      for row in labels:
        table[row[a] - (a == "num_objects"), row[b] - (b == "num_objects")] += 1
      if a == b:
        table = table.sum(axis=0, keepdims=True)
      expected = table.sum() / table.size
      chi2 = ((table - expected) ** 2 / expected).sum()
      freedom = table.size - 1
      # Four standard deviations of the chi-squared distribution.
      assert chi2 < freedom + 4 * np.sqrt(2 * freedom), (a, b)


def test_a_quarter_of_the_objects_are_worn():
  contrasts = np.array(
    [1 - o.dark[0] / o.light[0] for one in _scenes(400) for o in one.objects]
  )
  worn = contrasts < 0.1
  assert 0.2 < worn.mean() < 0.3
  assert contrasts[~worn].min() > 0.49 and contrasts.max() < 0.91


def test_textures_differ_in_fine_detail_only():
  u, v = np.meshgrid(np.arange(0, 24, 0.02), np.arange(0, 24, 0.02))
  for texture, name in enumerate(textures.NAMES):
    tones = textures.tones(texture, u, v, pixels=50)
    assert tones.min() == 0 and tones.max() == 1, name
    assert abs(tones.mean() - 0.5) < 0.02, name
    # Averages over squares of three waves hardly differ.
    coarse = tones[:1200, :1200].reshape(8, 150, 8, 150).mean(axis=(1, 3))
    assert coarse.std() < 0.05, name


def test_composition_does_not_depend_on_the_size():
  for one in _scenes(5):
    image, instances = draw.draw(one, 64, noise_seed=0)
    large_image, large = draw.draw(one, 256, noise_seed=0)
    down = cv2.resize(large, (64, 64), interpolation=cv2.INTER_NEAREST_EXACT)
    assert (down == instances).mean() > 0.95
    # Neither do light and colours: pixels agree but for detail and noise.
    small = [
      cv2.resize(x, (8, 8), interpolation=cv2.INTER_AREA).astype(float)
      for x in (image, large_image)
    ]
    assert np.abs(small[0] - small[1]).mean() < 6


@pytest.mark.parametrize("name", ["63", "video_32"])
def test_size_that_cannot_show_the_textures(name):
  with pytest.raises(ValueError, match=r"cannot show .* at least 64"):
    data.open_source({"name": f"rendered_scenes/{name}", "split": "train"})


def test_unknown_config():
  with pytest.raises(
    ValueError, match=r"no config 'huge'.*'rendered_scenes/96'"
  ):
    data.open_source({"name": "rendered_scenes/huge", "split": "train"})


def test_number_of_frames_is_checked():
  with pytest.raises(ValueError, match=r"num_frames=7 .* 8 to 32"):
    builder.RenderedScenesConfig(name="short", image_size=64, num_frames=7)


def test_configs_by_name():
  assert builder.config_named("333").image_size == 333
  assert builder.config_named("video_112").num_frames == 16
  names = [config.name for config in builder.RenderedScenes.BUILDER_CONFIGS]
  assert names[0] == builder.RenderedScenes.DEFAULT_BUILDER_CONFIG_NAME
  for name in names:
    assert builder.config_named(name).name == name


def test_reading_through_the_pipeline(tiny):
  folder, config = tiny
  c = {
    "name": "rendered_scenes/mini",
    "split": "train",
    "data_dir": folder,
    "num_threads": 1,
    "pp": "decode|decode(1,key='semantic')|copy('shape','label')"
    "|keep('image','label','semantic','id','num_objects')",
  }
  source = data.open_source(c)
  assert len(source) == config.num_train
  assert source.class_names == list(textures.NAMES)
  for key, names in {
    "objects/shape": shapes.NAMES,
    "semantic": ("background", *shapes.NAMES),
  }.items():
    assert source.classes(key) == (len(names), list(names))
  (batch,) = data.eval_batches(c, batch_size=config.num_train)
  assert batch["image"].shape == (6, 64, 64, 3)
  for row, index in enumerate(batch["id"]):
    # The position in the split is the index that the example was made from.
    made = examples.image_example(**_TASK, index=int(index))
    assert source[int(index)]["image"] == made["image"]
    assert source[int(index)]["caption"].decode() == made["caption"]
    assert batch["label"][row] == made["shape"]
    np.testing.assert_array_equal(
      batch["semantic"][row, ..., 0], _decode(made["semantic"])
    )


def test_masks_and_boxes_move_with_their_image(tiny):
  folder, config = tiny
  masks = "masks=('semantic','instances')"
  c = {
    "name": "rendered_scenes/mini",
    "split": "train",
    "data_dir": folder,
    "num_threads": 0,
    "pp": f"decode({masks})|objects(6,'shape')"
    f"|inception_crop(48,30,{masks},boxes='boxes')|flip_lr({masks},boxes='boxes')"
    "|keep('image','semantic','instances','boxes','box_label')",
  }
  batches = data.train_batches(c, batch_size=config.num_train, seed=0)
  numbers = 0
  for _ in range(4):
    batch = next(batches)
    assert batch["semantic"].shape == (6, 48, 48)
    for semantic, instances, boxes, labels in zip(
      *(batch[key] for key in ("semantic", "instances", "boxes", "box_label")),
      strict=True,
    ):
      for number, (box, label) in enumerate(
        zip(48 * boxes, labels, strict=True)
      ):
        shown = np.argwhere(instances == number + 1)
        if label < 0:
          assert not box.any()
          continue
        numbers += 1
        assert (
          len(shown) and (semantic[instances == number + 1] == label + 1).all()
        )
        # A box cut by the edge may be wider than what is left of its object.
        assert (shown.min(0) >= box[:2] - 1.5).all()
        assert (shown.max(0) + 1 <= box[2:] + 1.5).all()
        if box.min() > 0 and box.max() < 48:
          assert np.abs(shown.min(0) - box[:2]).max() < 1.5
          assert np.abs(shown.max(0) + 1 - box[2:]).max() < 1.5
  batches.close()
  assert numbers > 30


def test_features_that_are_named_are_read_alone(tiny):
  folder, config = tiny
  c = {
    "name": "rendered_scenes/mini",
    "split": "train",
    "data_dir": folder,
    "pp": "decode|keep('image','label')",
  }
  some = data.open_source({**c, "features": ("label", "image")})
  full = data.open_source(c)
  assert some.class_names == full.class_names
  assert len(some) == len(full) == config.num_train
  for index in range(len(full)):
    everything = full[index]
    assert some[index] == {k: everything[k] for k in ("label", "image", "id")}
    assert some.describe(index) == full.describe(index)
  # What is left out is missed by name.
  with pytest.raises(data.ExampleError, match=r"example 0 .*'image'"):
    data.peek({**c, "features": ("label",)})
  with pytest.raises(ValueError, match=r"'lable', but .* caption, .*, texture"):
    data.open_source({**c, "features": ("image", "lable")})


def test_prepared_files_are_the_same_again(tiny, tmp_path, caplog):
  folder, config = tiny
  builder.prepare(tmp_path, config, num_processes=1)
  for one in builder.RenderedScenes.folder(folder, "mini").glob("*record*"):
    again = builder.RenderedScenes.folder(tmp_path, "mini") / one.name
    assert again.read_bytes() == one.read_bytes()
  assert "custom data configuration" not in caplog.text


def test_video_features(tmp_path):
  config = builder.RenderedScenesConfig(
    name="clips",
    image_size=64,
    num_frames=8,
    num_train=2,
    num_validation=0,
    num_test=0,
  )
  builder.prepare(tmp_path, config)
  clips = tfds.builder("rendered_scenes/clips", data_dir=str(tmp_path))
  assert clips.info.features["label"].names == list(video.ACTIONS)
  example = clips.as_data_source(split="train")[1]
  assert np.stack(example["video"]).shape == (8, 64, 64, 3)
  assert np.stack(example["boxes"]).shape == (8, 4)
  made = video.video_example(64, 8, seed=0, split="train", index=1)
  assert example["label"] == made["label"]
  assert example["caption"].decode() == made["caption"]


def test_actions_move_the_main_object_as_named():
  seen = set()
  for index in range(60):
    action, first, (motion, *_) = video.sample(
      scene.generator(0, "video train", index)
    )
    name = video.ACTIONS[action]
    seen.add(name)
    start, end = (motion.at(first.objects[0], t) for t in (0.0, 1.0))
    x, y = np.subtract(end.centre, start.centre)
    turn, growth = end.angle - start.angle, end.extent / start.extent
    path = [
      motion.at(first.objects[0], t).centre for t in np.linspace(0, 1, 16)
    ]
    spread = np.ptp(path, axis=0)
    is_large = {
      "moves left": x < -0.2,
      "moves right": x > 0.2,
      "moves up": y < -0.2,
      "moves down": y > 0.2,
      "turns clockwise": turn > 1,
      "turns counterclockwise": turn < -1,
      "grows": growth > 1.4,
      "shrinks": growth < 0.7,
      "circles": spread.min() > 0.15,
    }
    assert [key for key, large in is_large.items() if large] == (
      [name] if name != "stays" else []
    )
    for t in (0.0, 0.5, 1.0):
      now = motion.at(first.objects[0], t)
      mask = shapes.mask(now.shape, now.centre, now.extent, now.angle, 64)
      whole = shapes.mask(now.shape, (0.5, 0.5), now.extent, now.angle, 64)
      assert mask.sum() > 0.9 * whole.sum()  # It stays in the picture.
  assert seen == set(video.ACTIONS)


def test_video_frames_show_the_motion():
  """The box of the main object follows it."""
  index = next(
    i
    for i in range(100)
    if video.sample(scene.generator(0, "video train", i))[0]
    == video.ACTIONS.index("moves right")
  )
  example = video.video_example(64, 8, seed=0, split="train", index=index)
  left = [box[1] for box in example["boxes"]]
  assert np.all(np.diff(left) > 0) and left[-1] - left[0] > 0.2
  assert _decode(example["video"][0]).shape == (64, 64, 3)
