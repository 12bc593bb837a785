# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the planner compares: the servers of a fleet, what belongs to them, and what they should be."""

from __future__ import annotations

from dataclasses import dataclass, field

# Marks on the cloud's objects: whose they are, and which attempt made them.
FLEET_KEY = "llm_stack"
SLOT_KEY = "llm_stack_slot"
ATTEMPT_KEY = "llm_stack_attempt"
# "true" or "false": what the server was made as, so that a lost tag is noticed.
MEANT_KEY = "llm_stack_preemptible"
# IDs of the servers it stands in for; an interrupted server takes no metadata, so its successor carries the note.
REPLACES_KEY = "llm_stack_replaces"
HOST_KEY_KEY = "llm_stack_host_key"
# Set on a volume once a server ran from it: from then on it may hold data.
USED_KEY = "llm_stack_used"
OWN_KEYS = (FLEET_KEY, SLOT_KEY, ATTEMPT_KEY, MEANT_KEY, REPLACES_KEY, HOST_KEY_KEY, USED_KEY)


@dataclass(frozen=True)
class Profile:
    """What is particular to one cloud.

    :param tag: the server tag that makes a server preemptible.
    :param lifetime: seconds a preemptible server may run; None where nothing is promised.
    :param keeps_local_disk: whether an interrupted server comes back with its local disk.
    :param zoned_volumes: whether a network disk must be made in the server's zone, by that zone's name.
    """

    name: str
    tag: str = "preemptible"
    lifetime: float | None = None
    keeps_local_disk: bool = True
    zoned_volumes: bool = False


# Selectel: docs.selectel.ru/en/cloud-servers/about/preemptible-servers. Elsewhere Nova keeps a local disk as an image while shelved.
PROFILES = {
    "selectel": Profile("selectel", lifetime=24 * 3600.0, keeps_local_disk=False, zoned_volumes=True),
    "openstack": Profile("openstack"),
}


@dataclass(frozen=True)
class NetAddress:
    """An address of a server.

    :param kind: ``fixed`` or ``floating``.
    """

    address: str
    kind: str
    network: str


@dataclass(frozen=True)
class Server:
    """A server as Nova shows it.

    :param created_at: seconds since 1970.
    :param launched_at: seconds since 1970; None when it never ran.
    :param specs: extra specs of its flavor.
    """

    id: str
    name: str
    region: str
    status: str
    task_state: str = ""
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    created_at: float = 0.0
    launched_at: float | None = None
    zone: str = ""
    flavor: str = ""
    specs: dict[str, str] = field(default_factory=dict)
    addresses: tuple[NetAddress, ...] = ()
    volumes: tuple[str, ...] = ()
    locked: bool = False
    fault: str = ""

    @property
    def slot(self) -> str:
        """The place in the fleet it fills."""
        return self.metadata.get(SLOT_KEY, "")

    @property
    def attempt(self) -> str:
        """The attempt that made it."""
        return self.metadata.get(ATTEMPT_KEY, "")

    @property
    def replaces(self) -> tuple[str, ...]:
        """IDs of the servers it stands in for."""
        return tuple(part for part in self.metadata.get(REPLACES_KEY, "").split(",") if part)

    @property
    def age_key(self) -> tuple[float, str]:
        """Of two servers in one slot the one with the smaller key stays."""
        return (self.created_at, self.id)


@dataclass(frozen=True)
class Port:
    """A network port.

    :param server: ID of the server it is plugged into, empty when free.
    :param slot: the slot it was made for; empty when this collection did not make it.
    """

    id: str
    region: str
    network: str
    server: str = ""
    slot: str = ""
    groups: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()
    created_at: float = 0.0


@dataclass(frozen=True)
class FloatingIp:
    """A public address this collection made.

    :param port: ID of the port it leads to, empty when free.
    """

    id: str
    region: str
    address: str
    slot: str
    port: str = ""


@dataclass(frozen=True)
class Volume:
    """A network disk this collection made.

    :param size: GiB.
    :param used: a server has run from it.
    """

    id: str
    region: str
    slot: str
    status: str
    size: int = 0
    server: str = ""
    used: bool = False
    created_at: float = 0.0
    attempt: str = ""


@dataclass(frozen=True)
class Flavor:
    """A kind of server the cloud offers.

    :param ram: MiB.
    :param disk: GiB of local disk.
    """

    id: str
    name: str
    vcpus: int = 0
    ram: int = 0
    disk: int = 0
    specs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Image:
    """A disk image the cloud offers; `min_disk` in GiB."""

    id: str
    name: str
    created_at: str = ""
    min_disk: int = 0


@dataclass(frozen=True)
class Named:
    """A network or a security group."""

    id: str
    name: str


@dataclass(frozen=True)
class Catalogue:
    """What a region offers; read only when something is to be made there."""

    flavors: tuple[Flavor, ...] = ()
    images: tuple[Image, ...] = ()
    networks: tuple[Named, ...] = ()


@dataclass(frozen=True)
class Fleet:
    """What there is of a fleet, in all regions looked at."""

    servers: tuple[Server, ...] = ()
    ports: tuple[Port, ...] = ()
    addresses: tuple[FloatingIp, ...] = ()
    volumes: tuple[Volume, ...] = ()
    groups: dict[str, tuple[Named, ...]] = field(default_factory=dict)
    catalogues: dict[str, Catalogue] = field(default_factory=dict)


@dataclass(frozen=True)
class FlavorMatch:
    """A flavor by what it has, because names cannot be guessed. Zero and empty ask for nothing.

    :param gpu: alias of the GPU, as in the extra spec ``pci_passthrough:alias``.
    :param ram: MiB at least.
    """

    gpu: str = ""
    gpus: int = 1
    vcpus: int = 0
    ram: int = 0
    disk: int | None = None


@dataclass(frozen=True)
class Placement:
    """Where a server may be made, and as what.

    :param flavor: a name or ID; empty when `match` finds it.
    """

    region: str
    zone: str = ""
    flavor: str = ""
    match: FlavorMatch | None = None
    preemptible: bool = True
    volume_type: str = ""

    @property
    def wanted_flavor(self) -> str:
        """The flavor asked for, for a person."""
        if not self.match:
            return self.flavor
        parts = [f"{self.match.gpus} x {self.match.gpu}"] if self.match.gpu else []
        parts += [f"{self.match.vcpus} vCPU"] if self.match.vcpus else []
        parts += [f"{self.match.ram} MiB"] if self.match.ram else []
        parts += [f"{self.match.disk} GiB disk"] if self.match.disk is not None else []
        return ", ".join(parts)

    @property
    def key(self) -> str:
        """The name under which a failure here is remembered."""
        kind = "preemptible" if self.preemptible else "regular"
        return "/".join((self.region or "default", self.zone or "any", self.wanted_flavor, kind))


@dataclass(frozen=True)
class NetworkSpec:
    """A network a server is plugged into, or a port of the user's that is used and never removed."""

    network: str = ""
    fixed_ip: str = ""
    port: str = ""


@dataclass(frozen=True)
class SlotSpec:
    """One server as it should be.

    :param restore: ``first``, and make it anew where that fails; ``never``, if its disk may be lost; or ``only``.
    :param successor: make a second server beside a running one, and keep both.
    """

    name: str
    placements: tuple[Placement, ...]
    networks: tuple[NetworkSpec, ...] = ()
    user_data: str = field(default="", repr=False)
    restore: str = "first"
    successor: bool = False

    @property
    def keeps_address(self) -> bool:
        """Whether a successor needs an address that its predecessor holds."""
        return any(net.fixed_ip or net.port for net in self.networks)


@dataclass(frozen=True)
class Price:
    """What a flavor costs an hour; None where the table does not say. An empty region is any."""

    flavor: str
    region: str = ""
    preemptible: float | None = None
    regular: float | None = None


@dataclass(frozen=True)
class Prices:
    """What things cost an hour.

    :param volume_gb: for a GiB of network disk.
    :param address: for a public address.
    """

    currency: str = ""
    servers: tuple[Price, ...] = ()
    volume_gb: float = 0.0
    address: float = 0.0


@dataclass(frozen=True)
class FleetSpec:
    """A fleet as it should be.

    :param only: the servers to work on; all when empty.
    :param keep_predecessors: a server that runs beside its successor stays, also where its disk may be lost.
    :param max_age: seconds after which a server is marked for rotation.
    :param demote_for: seconds a placement that failed goes to the end of the list.
    """

    fleet: str
    slots: tuple[SlotSpec, ...] = ()
    profile: Profile = PROFILES["selectel"]
    image: str = ""
    boot: str = "volume"
    volume_size: int = 0
    security_groups: tuple[str, ...] = ()
    floating_network: str = ""
    key_name: str = ""
    ssh_host_key: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    start_stopped: bool = False
    to_preemptible: tuple[str, ...] = ()
    to_regular: tuple[str, ...] = ()
    allow_data_loss: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    keep_predecessors: bool = False
    max_age: float | None = None
    demote_for: float = 1800.0
    deadline: float = 900.0
    prices: Prices = Prices()

    def slot(self, name: str) -> SlotSpec | None:
        """Return the slot of this name."""
        return next((slot for slot in self.slots if slot.name == name), None)
