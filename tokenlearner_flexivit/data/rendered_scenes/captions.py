"""Captions: an English sentence about a scene or a video."""

from . import shapes, textures
from .scene import BACKGROUNDS, COLOURS, ORIENTATIONS, SIZES, Object, Scene

_BACKGROUND_WORDS = {
  "plain": "a plain background",
  "clouds": "a cloudy background",
  "planks": "a background of planks",
  "tiles": "a background of tiles",
}
_COUNTS = ("no", "one", "two", "three", "four", "five")
_SINGULAR = ("net", "weave", "zigzag")


def caption(scene: Scene) -> str:
  """Returns a sentence about what an image shows.

  An example is "A large red heart with fine stripes, tilted left, and two
  smaller objects on a cloudy background."
  """
  main = scene.objects[0]
  others = len(scene.objects) - 1
  plural = "object" if others == 1 else "objects"
  company = f" and {_COUNTS[others]} smaller {plural}" if others else ""
  return (
    f"A {SIZES[scene.size]} {_thing(main)}, "
    f"{ORIENTATIONS[scene.orientation]},{company} on "
    f"{_BACKGROUND_WORDS[BACKGROUNDS[scene.background]]}."
  )


def action_caption(main: Object, action: str) -> str:
  """Returns a sentence: "A red heart with a fine net grows."."""
  thing = _thing(main)
  return f"{'An' if thing[0] in 'aeiou' else 'A'} {thing} {action}."


def _thing(item: Object) -> str:
  """Returns words about an object: "red heart with fine stripes"."""
  texture = textures.NAMES[item.texture]
  article = "a " if texture in _SINGULAR else ""
  return (
    f"{list(COLOURS)[item.colour]} {shapes.NAMES[item.shape]} with "
    f"{article}{list(textures.SCALES)[item.scale]} {texture}"
  )
