"""The classes in masks of public datasets, and the number of no class."""

# The number of pixels that have no class; neither losses nor metrics count
# them.
IGNORE = 255

# Name and trainId of each labelId of Cityscapes, from 0. Its benchmark counts
# the 19 classes with a trainId (cityscapesScripts, helpers/labels.py).
_CITYSCAPES = (
  ("unlabeled", IGNORE),
  ("ego vehicle", IGNORE),
  ("rectification border", IGNORE),
  ("out of roi", IGNORE),
  ("static", IGNORE),
  ("dynamic", IGNORE),
  ("ground", IGNORE),
  ("road", 0),
  ("sidewalk", 1),
  ("parking", IGNORE),
  ("rail track", IGNORE),
  ("building", 2),
  ("wall", 3),
  ("fence", 4),
  ("guard rail", IGNORE),
  ("bridge", IGNORE),
  ("tunnel", IGNORE),
  ("pole", 5),
  ("polegroup", IGNORE),
  ("traffic light", 6),
  ("traffic sign", 7),
  ("vegetation", 8),
  ("terrain", 9),
  ("sky", 10),
  ("person", 11),
  ("rider", 12),
  ("car", 13),
  ("truck", 14),
  ("bus", 15),
  ("caravan", IGNORE),
  ("trailer", IGNORE),
  ("train", 16),
  ("motorcycle", 17),
  ("bicycle", 18),
)
# The names by labelId, the trainId of each labelId, and the names by trainId.
CITYSCAPES_LABEL_IDS = tuple(name for name, _ in _CITYSCAPES)
CITYSCAPES_TO_TRAIN_IDS = {i: to for i, (_, to) in enumerate(_CITYSCAPES)}
CITYSCAPES_TRAIN_IDS = tuple(n for n, to in _CITYSCAPES if to != IGNORE)
