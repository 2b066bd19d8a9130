"""Tasks whose episodes have a descriptor besides a return, for quality-diversity.

    env, params = jaxpg_envs.make("locomotion/point-omni")
    env, params = jaxpg_envs.make("locomotion/ant-omni", backend="spring", start="fixed")
    low, high = env.descriptor_bounds(params)

An observation begins with the running descriptor, divided by the box's upper bound, so that the
last observation of an episode (`info["final_observation"]` of the step that ends it) says what
the episode did: `env.descriptor_of(observation, params)`. The planar arm needs no episodes and is
a function.
"""

from jaxpg_envs.locomotion import arm, descriptors, point_omni, tasks, trap
from jaxpg_envs.locomotion.arm import Scores, planar_arm, score_arm
from jaxpg_envs.locomotion.descriptors import check_descriptors
from jaxpg_envs.locomotion.point_omni import PointOmni
from jaxpg_envs.locomotion.tasks import described_robot, names

__all__ = [
    "PointOmni",
    "Scores",
    "arm",
    "check_descriptors",
    "described_robot",
    "descriptors",
    "names",
    "planar_arm",
    "point_omni",
    "score_arm",
    "tasks",
    "trap",
]
