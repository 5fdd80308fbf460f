"""A Ceph of one monitor and one OSD, in the memory of a lab host."""

from pathlib import Path

from novactl import lab

UP = r"""
set -eu
exec </dev/null
dir=$1 address=$2 fsid=$3 osd=$4
mkdir -p "$dir/mon" "$dir/osd"
mount -t tmpfs tmpfs /etc/ceph # of this host alone
cat >/etc/ceph/ceph.conf <<END
[global]
fsid = $fsid
mon host = [v2:$address:3300,v1:$address:6789]
mon initial members = a
auth cluster required = none
auth service required = none
auth client required = none
auth allow insecure global id reclaim = true
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data = $dir/mon
osd data = $dir/osd
osd objectstore = memstore
keyring = $dir/keyring
admin socket = $dir/\$name.asok
log file = $dir/\$name.log
pid file = $dir/\$name.pid
END
ceph-authtool --create-keyring "$dir/keyring" --gen-key -n mon. --cap mon 'allow *'
ceph-authtool "$dir/keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *'
monmaptool --create --fsid "$fsid" --addv a "[v2:$address:3300,v1:$address:6789]" "$dir/monmap"
ceph-mon --mkfs -i a --monmap "$dir/monmap" --keyring "$dir/keyring"
ceph-mon -i a
timeout 30 ceph osd new "$osd"
ceph-osd --mkfs -i 0 --osd-uuid "$osd"
ceph-osd -i 0
timeout 30 ceph osd pool create images 8
timeout 30 ceph osd pool application enable images rbd
timeout 30 sh -c 'until ceph osd stat | grep -q "1 up"; do sleep 0.3; done'
timeout 30 rbd pool init images
"""
FSID, OSD = "11111111-2222-4333-8444-666666666666", "11111111-2222-4333-8444-777777777777"


def start(host: lab.LabHost, directory: Path) -> None:
    """It is up, with an empty pool "images"; the host finds it, and it ends with the host."""
    words = ["sh", "-c", UP, "sh", str(directory), host.address, FSID, OSD]
    ended = host.run(words, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def stop(host: lab.LabHost, directory: Path) -> None:
    """It is gone."""
    pids = [path.read_text().strip() for path in directory.glob("*.pid")]
    host.run(["kill", "-9", *pids])
    host.run(["umount", "/etc/ceph"])
