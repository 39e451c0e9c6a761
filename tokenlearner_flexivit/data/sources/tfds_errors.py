"""Says in words why a TFDS dataset cannot be read."""

import difflib
import os
import pathlib
import re
from collections.abc import Collection, Sequence

import tensorflow_datasets as tfds

from tokenlearner_flexivit import paths, terminal
from tokenlearner_flexivit.data import shared_examples

# The only format that is read. Its files are full blocks of so many bytes.
_FORMAT, _BLOCK = "array_record", 1 << 16


def check_files(
  builder: tfds.core.DatasetBuilder,
  name: str,
  parts: Sequence[shared_examples.Part],
) -> None:
  """Raises ValueError if files of a prepared dataset were not copied whole.

  They are opened one by one as a training reaches them, perhaps hours later.
  """
  form = builder.info.file_format
  if not _is_prepared(builder) or form is None or form.value != _FORMAT:
    return
  wrong = []
  for key in dict.fromkeys(part.known for part in parts):
    info = builder.info.splits[key]
    for path, length in zip(info.filepaths, info.shard_lengths, strict=True):
      path = pathlib.Path(path)
      if not length:
        continue
      if not path.exists():
        wrong.append(f"{path.name} (missing)")
      elif (size := path.stat().st_size) % _BLOCK or not size:
        wrong.append(f"{path.name} (cut off)")
  if wrong:
    more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    raise ValueError(
      f"{len(wrong)} of the files of the dataset {name!r} in "
      f"{builder.data_dir} cannot be read: {', '.join(wrong[:5])}{more}. Copy "
      "or prepare the dataset again."
    )


def _is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
  """Tells whether a dataset is prepared.

  TFDS's own `is_prepared` takes brackets in a path for a pattern.
  """
  return (pathlib.Path(builder.data_dir) / "dataset_info.json").is_file()


def unknown_name(
  name: str, data_dir: str | os.PathLike | None, own: Collection[str]
) -> str:
  """Returns in words that a dataset is not known, and which might be meant.

  Args:
    name: as asked for.
    data_dir: TFDS's folder; None for the default.
    own: names of the datasets of this package.
  """
  known = tfds.list_builders(with_community_datasets=False)
  known = {re.sub(r"\W|_", "", key): key for key in [*known, *own]}
  plain = re.sub(r"\W|_", "", name.partition("/")[0].partition(":")[0]).lower()
  close = difflib.get_close_matches(plain, known, n=5)
  hint = ""
  if close:
    hint = f" Close names: {', '.join(known[key] for key in close)}."
  if prepared := _prepared(name, data_dir):
    hint += f" Prepared are {', '.join(prepared)}."
  return (
    f"Unknown dataset {name!r}.{hint} A dataset is one of "
    f"{', '.join(sorted(own))} (nothing to download), "
    "'folder:/path' (images in class folders), 'mask_folder:/path' (images and "
    "masks), 'coco:/path' (COCO annotations), 'captions:/path' (images and "
    "captions), 'video_folder:/path' (videos), "
    "'fake:HEIGHTxWIDTHxCHANNELS:CLASSES' (noise), or any TFDS name "
    "(https://www.tensorflow.org/datasets/catalog/overview). Without "
    "TensorFlow, some of these, such as ucf101, are known only once they are "
    "prepared."
  )


def _prepared(name: str, data_dir: str | os.PathLike | None) -> list[str]:
  """Returns the configs and versions of a dataset that a folder holds."""
  dataset = re.split("[/:]", name.strip())[0]
  folder = paths.data_dir(data_dir) / dataset
  if not re.fullmatch(r"\w+", dataset) or not folder.is_dir():
    return []
  names = []
  for info in sorted(folder.glob("**/dataset_info.json")):
    *config, version = info.parent.relative_to(folder).parts or ("",)
    names.append(f"{'/'.join([dataset, *config])}:{version}")
  return names


def is_stored(name: str, data_dir: str | os.PathLike | None) -> bool:
  """Tells whether a folder holds a dataset of TFDS, in any version.

  Args:
    name: as asked for, with the config if there are several.
    data_dir: TFDS's folder; None for the default.

  Raises:
    ValueError: the folder is none.
  """
  known = {stored.partition(":")[0] for stored in _prepared(name, data_dir)}
  return name.strip().partition(":")[0] in known


def cannot_read(
  builder: tfds.core.DatasetBuilder, name: str, split: str, error: Exception
) -> str:
  """Returns in words why a split cannot be read and what to do."""
  if not _is_prepared(builder):
    return (
      f"The dataset {name!r} is not prepared in {builder.data_dir}. Prepare it "
      "with\n"
      f"  tfds build {name} --file_format=array_record "
      f"--data_dir={builder.data_dir_root}\n"
      "which for some datasets needs TensorFlow, on any machine, once; or give "
      "the folder where it is as data_dir (or TFDS_DATA_DIR)."
    )
  if isinstance(error, NotImplementedError):
    return (
      f"The dataset {name!r} in {builder.data_dir} is stored as "
      f"{builder.info.file_format.value}, which has no random access. Convert "
      "it with\n"
      f"  tfds convert_format --dataset_version_dir={builder.data_dir} "
      "--out_file_format=array_record\n"
      "(which needs TensorFlow, on any machine, once; the new files are put "
      "beside the old ones)."
    )
  splits = ", ".join(
    f"{key} ({terminal.counted(info.num_examples, 'example')})"
    for key, info in builder.info.splits.items()
  )
  return (
    f"Cannot read the split {split!r} of the dataset {name!r}: {error}\n"
    f"Its splits are: {splits}."
  )
