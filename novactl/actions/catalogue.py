"""flavor, keypair and network: what the catalogue's verbs do."""

from pathlib import Path

from novactl.actions.world import World
from novactl.db import catalogue
from novactl.errors import UsageError
from novactl.objects.flavor import Flavor, check_flavor
from novactl.objects.keypair import Keypair, parse_public_key
from novactl.objects.names import check_name
from novactl.objects.network import Network, check_network


def create_flavor(world: World, flavor: Flavor) -> Flavor:
    """Raises UsageError for sizes out of reason, Refused for a name that is taken."""
    check_flavor(flavor)
    world.db.write(lambda tx: catalogue.add_flavor(tx, flavor))
    return flavor


def delete_flavor(world: World, name: str) -> None:
    """Raises NotFound."""
    world.db.write(lambda tx: catalogue.remove_flavor(tx, name))


def add_keypair(world: World, project: str, name: str, file: Path) -> Keypair:
    """Raises UsageError for a file that does not hold one public key, Refused for a name that is taken."""
    check_name(name, "keypair name")
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "is not text"
        raise UsageError(f"--public-key {file}: {why}") from error
    keypair = parse_public_key(name, text)
    world.db.write(lambda tx: catalogue.add_keypair(tx, project, keypair))
    return keypair


def delete_keypair(world: World, project: str, name: str) -> None:
    """Raises NotFound."""
    world.db.write(lambda tx: catalogue.remove_keypair(tx, project, name))


def create_network(world: World, network: Network) -> Network:
    """Raises UsageError for what makes no sense, Refused for a name or addresses that are taken."""
    network = check_network(network)
    world.db.write(lambda tx: catalogue.add_network(tx, network))
    return network


def delete_network(world: World, name: str) -> None:
    """Raises NotFound, or Refused while instances have addresses in it."""
    world.db.write(lambda tx: catalogue.remove_network(tx, name))
