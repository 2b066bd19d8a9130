"""brax's ant in front of a trap: three walls, open towards the start."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

RADIUS = 0.5
"""Radius of the walls, which are capsules that lie on the ground."""

WALLS = (((12.0, -2.0), (12.0, 2.0)), ((7.0, 3.0), (12.0, 3.0)), ((7.0, -3.0), (12.0, -3.0)))
"""Ends (x, y) of the axis of each wall."""

# The floor meets what has bit 1, the walls what has bit 1 or 2: the feet have 1, the torso gets 2,
# because the floor does not stop brax's torso either.
_TORSO, _WALLS = 2, 3


def walled(ant: Any) -> Any:
    """Put the trap into the world of brax's ant.

    Feet and torso bump into the walls, as in the original. Where the axes of the walls lie is the
    original's too.

    Args:
      ant: a `brax.envs.ant.Ant`, whose system is replaced; integration and actuators stay.

    Returns:
      The same object.

    Source: the trap of QD-PG, Pierrot et al. 2022, as DCG-MAP-Elites sets it up.
    """
    from brax.io import mjcf
    from etils import epath

    path = epath.resource_path("brax") / "envs/assets/ant.xml"
    model = ElementTree.fromstring(path.read_text())
    world = model.find("worldbody")
    world.find(".//geom[@name='torso_geom']").set("contype", str(_TORSO))
    for index, ends in enumerate(WALLS):
        axis = " ".join(f"{x} {y} {RADIUS}" for x, y in ends)
        attributes = {
            "name": f"wall_{index}",
            "type": "capsule",
            "fromto": axis,
            "size": str(RADIUS),
            "conaffinity": str(_WALLS),
        }
        ElementTree.SubElement(world, "geom", attributes)
    sys = mjcf.loads(ElementTree.tostring(model, encoding="unicode"))
    ant.sys = sys.replace(opt=ant.sys.opt, actuator=ant.sys.actuator)
    return ant
