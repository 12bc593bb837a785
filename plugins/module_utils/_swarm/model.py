# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the planners compare: engines, GPUs, nodes, and what they should be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# The kind under which GPUs are advertised. The NVIDIA runtime reads DOCKER_RESOURCE_GPU unless told otherwise.
GPU_KIND = "GPU"
RESOURCES_KEY = "node-generic-resources"
SWARM_RESOURCE = "DOCKER_RESOURCE_GPU"
# Older engines reject tasks with named generic resources whenever their node is updated.
OLDEST_ENGINE = 26
# Toolkits before it may ignore the GPU that a swarm assigns, unless they run in legacy mode (nvidia-container-toolkit issue 1599).
OLDEST_TOOLKIT = (1, 19)
# On a node that was drained for a while: the availability it gets back.
DRAINED_LABEL = "llm-stack.drained-from"


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver names it.

    :param uuid: the full UUID, ``GPU-`` and 36 characters.
    :param vram_mib: memory in MiB; 0 when the driver does not tell (unified memory).
    """

    uuid: str
    model: str
    vram_mib: int
    driver: str

    @property
    def vram_gb(self) -> int:
        """Memory in GiB as the card is sold: 24564 MiB are 24."""
        return round(self.vram_mib / 1024)


@dataclass(frozen=True)
class Toolkit:
    """The NVIDIA container toolkit of a host.

    :param version: major, minor, patch; empty when it could not be read.
    :param swarm_resource: the active value of ``swarm-resource``, empty when unset or commented out.
    :param mode: the active value of ``mode``, empty for the default.
    """

    version: tuple[int, ...] = ()
    swarm_resource: str = ""
    mode: str = ""


@dataclass(frozen=True)
class Service:
    """The engine's system service.

    :param stale: it runs, but was started before its configuration file was last changed.
    """

    installed: bool = False
    active: bool = False
    enabled: bool = False
    stale: bool = False


@dataclass(frozen=True)
class Membership:
    """What the engine is in a swarm.

    :param state: ``inactive``, ``pending``, ``active``, ``error`` or ``locked`` as the engine says; ``stopped`` when
        the engine does not run and its disk holds a node's identity.
    """

    state: str = "inactive"
    node_id: str = ""
    cluster_id: str = ""
    is_manager: bool = False
    error: str = ""
    heartbeat_ns: int = 0
    autolock: bool = False


@dataclass(frozen=True)
class Engine:
    """An engine as it is.

    :param version: ``26.1.5``; empty when no engine is installed.
    :param settings: the content of its configuration file.
    :param toolkit: None when the host has no NVIDIA container runtime.
    :param tasks: names of the swarm tasks that run here, which a restart would end.
    """

    hostname: str = ""
    version: str = ""
    service: Service = Service()
    settings: dict[str, Any] = field(default_factory=dict)
    gpus: tuple[Gpu, ...] = ()
    toolkit: Toolkit | None = None
    membership: Membership = Membership()
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Join:
    """The swarm a node belongs to. The token is kept out of every representation.

    :param known_nodes: IDs of the nodes the manager knows; None when nobody asked it.
    :param role: ``worker`` or ``manager``.
    """

    manager: str
    cluster_id: str
    token: str = field(repr=False)
    known_nodes: tuple[str, ...] | None = None
    role: str = "worker"


@dataclass(frozen=True)
class Init:
    """How the first manager makes the swarm.

    :param heartbeat_ns: None leaves what the swarm has.
    :param autolock: whether a manager needs a key after its engine was started; None leaves what the swarm has.
    :param rotate_worker_token: make the former join token of workers worthless.
    """

    heartbeat_ns: int | None = None
    autolock: bool | None = None
    rotate_worker_token: bool = False
    data_path_port: int | None = None
    address_pools: tuple[str, ...] = ()
    subnet_size: int | None = None


@dataclass(frozen=True)
class EngineSpec:
    """An engine as it should be.

    :param settings: merged into the configuration file; None as a value removes the key.
    :param gpus: advertise the GPUs found.
    :param require_gpu: a host without a GPU is refused.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    gpus: bool = True
    require_gpu: bool = False
    advertise_address: str = ""
    data_path_address: str = ""
    join: Join | None = None
    init: Init | None = None


@dataclass(frozen=True)
class Node:
    """A node as a manager sees it.

    :param state: ``ready``, ``down``, ``disconnected`` or ``unknown``.
    :param gpus: how many GPUs it advertises.
    """

    id: str
    hostname: str
    version: int = 0
    role: str = "worker"
    availability: str = "active"
    state: str = "ready"
    gpus: int = 0
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A task that runs on a node, as a manager sees it."""

    id: str
    node_id: str
    service_id: str


@dataclass(frozen=True)
class Member:
    """A node as it should be.

    :param id: the identity; the host name counts only where this is empty.
    :param labels: merged into the node's; None as a value removes the label.
    :param availability: ``active``, ``pause``, ``drain``, ``resume`` for what it was before a temporary drain; empty leaves it.
    :param gpus: how many GPUs the manager must see; None does not ask.
    :param absent: the node is removed.
    :param temporary: a drain that ``resume`` takes back.
    :param wait: a drain has ended when no task runs on the node.
    :param remove_twins: remove nodes of the same host name that are down: what the machine was before it joined anew.
    """

    id: str = ""
    hostname: str = ""
    labels: dict[str, str | None] = field(default_factory=dict)
    availability: str = ""
    gpus: int | None = None
    absent: bool = False
    temporary: bool = False
    wait: bool = True
    remove_twins: bool = False

    @property
    def name(self) -> str:
        """How a person knows the node."""
        return self.hostname or self.id


@dataclass(frozen=True)
class Guards:
    """What the planner lets pass.

    :param rehearsal: check mode: what an earlier task of this run would have made may still be missing.
    """

    rehearsal: bool = False


def gpu_labels(gpus: tuple[Gpu, ...]) -> dict[str, str]:
    """Return the labels by which services find a node's GPUs."""
    if not gpus:
        return {}
    models = sorted({"-".join(gpu.model.replace("NVIDIA ", "").split()) for gpu in gpus})
    return {
        "gpu": "true",
        "gpu.model": "+".join(models),
        "gpu.vram_gb": str(min(gpu.vram_gb for gpu in gpus)),
        "gpu.count": str(len(gpus)),
    }
