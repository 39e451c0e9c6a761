"""Datasets, preprocessing and the input pipeline, without TensorFlow."""

# Importing the modules of ops registers the ops.
from tokenlearner_flexivit.data.captions import (
  captions_of,
  make_vocabulary,
  vocabulary_of,
)
from tokenlearner_flexivit.data.class_names import classes, stuff
from tokenlearner_flexivit.data.examples import ExampleError
from tokenlearner_flexivit.data.ops import augment as augment_ops
from tokenlearner_flexivit.data.ops import colour as colour_ops
from tokenlearner_flexivit.data.ops import decode as decode_ops
from tokenlearner_flexivit.data.ops import dense_label as dense_label_ops
from tokenlearner_flexivit.data.ops import image as image_ops
from tokenlearner_flexivit.data.ops import label as label_ops
from tokenlearner_flexivit.data.ops import panoptic as panoptic_ops
from tokenlearner_flexivit.data.ops import randaug
from tokenlearner_flexivit.data.ops import text as text_ops
from tokenlearner_flexivit.data.ops import video as video_ops
from tokenlearner_flexivit.data.ops import video_augment as video_augment_ops
from tokenlearner_flexivit.data.pipeline import (
  check_entries,
  check_sample,
  check_section,
  device_ops,
  eval_batches,
  open_source,
  peek,
  train_batches,
)
from tokenlearner_flexivit.data.preprocess import parse, register_op
from tokenlearner_flexivit.data.sources.base import Source
from tokenlearner_flexivit.data.sources.video_folder import decode as video_file
from tokenlearner_flexivit.data.sources.video_folder import (
  listing as video_listing,
)
from tokenlearner_flexivit.data.splits_read import describe as describe_splits

__all__ = [
  "ExampleError",
  "Source",
  "augment_ops",
  "captions_of",
  "check_entries",
  "check_sample",
  "check_section",
  "classes",
  "colour_ops",
  "decode_ops",
  "dense_label_ops",
  "describe_splits",
  "device_ops",
  "eval_batches",
  "image_ops",
  "label_ops",
  "make_vocabulary",
  "open_source",
  "panoptic_ops",
  "parse",
  "peek",
  "randaug",
  "register_op",
  "stuff",
  "text_ops",
  "train_batches",
  "video_augment_ops",
  "video_file",
  "video_listing",
  "video_ops",
  "vocabulary_of",
]
