# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet of servers as it should be: what the module that keeps it and the one that plans its recovery share."""

from __future__ import annotations


class ModuleDocFragment:
    """The options of a fleet, without its name."""

    DOCUMENTATION = r"""
options:
  profile:
    description:
      - V(selectel) knows that a preemptible server lives for at most 24 hours, that an interruption loses a local disk, and that a
        disk belongs to a zone.
      - V(openstack) assumes none of this. The tag is C(preemptible) in both.
    type: str
    choices: [selectel, openstack]
    default: selectel
  servers:
    description: The servers, by name. Exactly one of O(servers) and O(name_pattern) is given.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the server and of its place in the fleet.
        type: str
        required: true
      placements:
        description: Where this server may be made, in place of O(placements).
        type: list
        elements: dict
        suboptions: &placement
          region:
            description: Region, O(region_name) by default.
            type: str
          zone:
            description: Availability zone; the cloud chooses by default.
            type: str
          flavor:
            description: Name or ID of the flavor.
            type: str
          flavor_match:
            description: What the flavor must have, because names cannot be guessed. The smallest that has it is taken.
            type: dict
            suboptions:
              gpu:
                description: Alias of the GPU, as in the flavor's extra spec C(pci_passthrough:alias).
                type: str
              gpus:
                description: How many of them, V(1) by default. A flavor with other GPUs beside them does not match.
                type: int
              vcpus:
                description: Virtual processors at least.
                type: int
              ram_mb:
                description: MiB of memory at least.
                type: int
              disk_gb:
                description: GiB of local disk, exactly. V(0) finds flavors for network disks.
                type: int
          preemptible:
            description: Whether the server made here is preemptible.
            type: bool
            default: true
          volume_type:
            description: Type of the network disk, for example V(fast.ru-9a).
            type: str
      networks:
        description: Networks of this server, in place of O(networks).
        type: list
        elements: dict
        suboptions: &network
          network:
            description: Name or ID of the network. A port is made in it, and kept for as long as the server has a place in the fleet.
            type: str
          fixed_ip:
            description: Address the server has in this network.
            type: str
          port:
            description: ID of a port of yours to use instead. It is never changed or removed.
            type: str
      user_data:
        description: User data of this server, in place of O(user_data).
        type: str
      restore:
        description:
          - Whether the server is brought back where it was interrupted. V(first) makes it anew where that fails.
          - V(never) makes it anew at once, if O(allow_data_loss) names it and it needs no fixed address.
          - V(only) leaves it interrupted where that fails.
        type: str
        choices: [first, never, only]
        default: first
      successor:
        description:
          - Make a second server beside a running one, so that the first can go once the second has proven itself, and keep both while this
            is set. Without it, and with the server in O(allow_data_loss), the first is deleted with its disk and address.
        type: bool
        default: false
  name_pattern:
    description: Names of the servers, with C({n}) in place of a number from 1 to O(count).
    type: str
  count:
    description: How many servers there are, with O(name_pattern).
    type: int
  placements:
    description:
      - Where servers may be made, and as what, best first.
      - One that failed goes to the end of the list for O(demote_for) seconds.
    type: list
    elements: dict
    default: []
    suboptions: *placement
  allow_regular:
    description: Make a regular server, at the full price, where no placement has a preemptible one.
    type: bool
    default: false
  image:
    description: Image the servers boot from, by ID, name, or a pattern such as V(golden-*). Of several, the newest is taken.
    type: str
  boot:
    description:
      - V(volume) boots from a network disk of O(volume_size), which outlives an interruption.
      - V(local) boots from the flavor's local disk. In the profile V(selectel) an interruption loses it, and the server is made anew
        only when O(allow_data_loss) names it.
    type: str
    choices: [volume, local]
    default: volume
  volume_size:
    description: Size of the network disk in GiB. Needed with O(boot=volume).
    type: int
  networks:
    description: Networks the servers are plugged into. Without any, the cloud's own default.
    type: list
    elements: dict
    default: []
    suboptions: *network
  security_groups:
    description: Security groups, by name or ID, that the ports made here have beside those they have already.
    type: list
    elements: str
    default: []
  floating_network:
    description: External network, by name or ID, from which each server gets a public address. None by default.
    type: str
    default: ""
  key_name:
    description: Name of the key pair in the cloud that may log in. Used when a server is made.
    type: str
    default: ""
  user_data:
    description: What cloud-init does at the first boot. Used when a server is made.
    type: str
  ssh_host_key:
    description:
      - Make an SSH host key for each server, hand it over in its user data, and keep the public part in its metadata
        (RV(selfhosted.llm_stack.selectel_preemptible#module:servers[].ssh_host_key)), so that nobody has to accept an unknown key.
      - User data can be read from within the server through the metadata service, by whatever may reach 169.254.169.254 there.
    type: bool
    default: false
  metadata:
    description: Metadata merged into that of each server.
    type: dict
    default: {}
  tags:
    description: Tags added to those of each server. The one that makes it preemptible is not among them.
    type: list
    elements: str
    default: []
  start_stopped:
    description: Start servers that are stopped, paused or suspended.
    type: bool
    default: false
  switch_to_preemptible:
    description: Servers, by name, to make preemptible from now on. An interrupted one is restored first.
    type: list
    elements: str
    default: []
  switch_to_regular:
    description: Servers, by name, to make regular from now on, at the full price. An interrupted one is restored first.
    type: list
    elements: str
    default: []
  allow_data_loss:
    description:
      - Servers, by name, whose disks may be lost. Theirs are deleted once they are replaced; without this, a replaced server stays as it
        is, with its disk, and is reported as left over.
    type: list
    elements: str
    default: []
  max_age:
    description:
      - Seconds after whose passing a running server is marked with
        RV(selfhosted.llm_stack.selectel_preemptible#module:servers[].rotate).
    type: float
  demote_for:
    description: Seconds for which a placement that failed is tried last.
    type: float
    default: 1800
  prices:
    description: What things cost an hour, for RV(selfhosted.llm_stack.selectel_preemptible#module:cost). The module knows no price.
    type: dict
    suboptions:
      currency:
        description: For messages, such as V(RUB).
        type: str
      servers:
        description: Prices of servers.
        type: list
        elements: dict
        suboptions:
          flavor:
            description: Name of the flavor.
            type: str
            required: true
          region:
            description: Region the row is for; all by default.
            type: str
          preemptible:
            description: Price of a preemptible server.
            type: float
          regular:
            description: Price of a regular server.
            type: float
      volume_gb:
        description: Price of a GiB of network disk.
        type: float
      address:
        description: Price of a public address.
        type: float
  regions:
    description: Further regions to look for the fleet in, such as one that has left O(placements).
    type: list
    elements: str
    default: []
  deadline:
    description:
      - Seconds for the whole run. What is under way then is left to the next run, which takes it up.
    type: float
    default: 900
"""
