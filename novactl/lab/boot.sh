#!/bin/sh
# What a lab host does when it is switched on, in namespaces of its own, under tini.
#   boot.sh LAB HOST    LAB: the lab's directory; HOST: this host's name
# LAB/HOST/disk is what the host keeps from boot to boot, laid out like its file system.
set -eu
umask 022
: "${NOVACTL_LAB:?run by novactl lab only: outside new namespaces it would ruin the machine}"
lab=$1 host=$2

# Everything of the lab is reached through here, because the mounts below may hide LAB itself.
mount --rbind "$lab" /mnt
disk=/mnt/$host/disk

mount -t sysfs -o nosuid,nodev,noexec sysfs /sys # the machine's own shows the machine's links and cgroups
mount -t tmpfs -o mode=755,nosuid,nodev run /run
mount -t tmpfs -o mode=1777,nosuid,nodev tmp /tmp
mount -t tmpfs -o mode=755 srv /srv

# /etc and /var/lib are the machine's, but writes (and new mount points) stay in the host.
for dir in etc var/lib; do
    mkdir -p "/run/lab/$dir" "/run/lab/work/$dir"
    mount -t overlay -o "lowerdir=/$dir,upperdir=/run/lab/$dir,workdir=/run/lab/work/$dir" overlay "/$dir"
done
for dir in etc/ssh etc/pki etc/libvirt var/lib/libvirt var/cache/libvirt var/log/libvirt var/lib/novactl root; do
    mkdir -p "$disk/$dir" "/$dir"
    mount --bind "$disk/$dir" "/$dir"
done
mkdir /srv/shared
mount --bind /mnt/shared /srv/shared

# A copy, not a file bound in place: tools replace these by renaming.
for file in hostname hosts machine-id resolv.conf; do
    rm -f "/etc/$file"
    cp "$disk/etc/$file" "/etc/$file"
done
hostname -F /etc/hostname
# Without PAM sshd refuses an account locked with "!", and the machine's root may use any shell.
sed -i 's/^root:[^:]*:/root:*:/' /etc/shadow
sed -i 's|^root:.*|root:x:0:0:root:/root:/bin/bash|' /etc/passwd
mount --bind "/mnt/$host/boot_id" /proc/sys/kernel/random/boot_id

# A /dev without kvm. Anything bound over /dev/kvm makes libvirt probe QEMU again at every define (8 s), and a
# /dev/kvm that opens but does not work hangs guests.
mount -t tmpfs -o mode=755,nosuid dev /dev
mkdir /dev/net /dev/pts /dev/shm
while read -r node major minor; do
    mknod -m 666 "/dev/$node" c "$major" "$minor"
done <<NODES
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
net/tun 10 200
NODES
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts /dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev shm /dev/shm
ln -s pts/ptmx /dev/ptmx
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr

# Filters on guests' ports see bridged packets only with the second, which br_netfilter brings.
sysctl -e -q -w net.ipv6.conf.all.disable_ipv6=1 net.bridge.bridge-nf-call-iptables=1

cd /
umount --recursive /mnt
mkdir /run/sshd /run/lock
# New sshds slow down an address that failed to log in: here all clients have the same one.
options="-o PerSourcePenalties=no"
/usr/sbin/sshd -t $options 2>/dev/null || options=
/usr/sbin/sshd -D -e $options &
/usr/sbin/virtlogd --daemon
/usr/sbin/libvirtd --daemon
exec sleep infinity </dev/null
