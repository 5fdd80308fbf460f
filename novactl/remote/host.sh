# What novactl does on a host, as functions of a POSIX shell. Sent once over a persistent channel and
# called by name with quoted arguments; data comes on stdin. Nothing of it stays on the host.
#
# Exit statuses a caller acts on: 75 a newer epoch was seen, 76 refused (somebody else's), 28 no space,
# 77 busy on the host, 79 no answer in time (what was asked may still happen); anything else is a plain
# failure told on stderr.

export LC_ALL=C PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
unset CDPATH
umask 022

nv_state=/var/lib/novactl

nv_die() { # status message
    nv_rc=$1
    shift
    echo "$*" >&2
    exit "$nv_rc"
}

nv_limit=120 # seconds that libvirt may take

nv_virsh() { # its exit status; 79 when libvirt does not answer, since what was asked may still happen
    nv_late=0
    timeout -k 5 "$nv_limit" virsh -q -c qemu:///system "$@" || nv_late=$?
    case $nv_late in 124 | 137) return 79 ;; esac
    return "$nv_late"
}

nv_has_line() { # text line
    case "
$1
" in
        *"
$2
"*) return 0 ;;
    esac
    return 1
}

nv_has_domain() { # uuid: yes or no, from a list that libvirt really gave; virsh's words for a failed look-up
    # are the same whether there is no such domain or no libvirtd
    nv_all=$(nv_virsh list --all --uuid 2>&1) || nv_die "$?" "libvirt does not answer: $nv_all"
    nv_has_line "$nv_all" "$1"
}

nv_image_tool() { # limited in memory (KiB) and CPU seconds: image files may be hostile
    # shellcheck disable=SC3045  # dash and bash have both
    ( ulimit -v 4194304; ulimit -t 1800; exec timeout -k 5 3600 "$@" )
}

nv_space() { # file-or-directory: free bytes there
    echo "$(($(stat -f -c '%a * %S' "$1")))"
}

nv_margin=67108864 # bytes that stay free: a guest whose disk is full stands still

nv_need_room() { # bytes what [file...]: dies, and keeps none of these files, unless so much leaves the margin free on $nv_where
    nv_left=$(($(nv_space "$nv_where") - nv_margin)) nv_bytes=$1 nv_what=$2
    [ "$nv_left" -lt "$nv_bytes" ] || return 0
    shift 2
    rm -f "$@"
    nv_die 28 "no space left on $nv_where: $nv_what takes $(((nv_bytes + 1048575) >> 20)) MiB," \
        "$((nv_left > 0 ? nv_left >> 20 : 0)) MiB are free"
}

nv_failed() { # message: a full disk is told apart, whatever tool met it
    nv_left=$(nv_space "$nv_where")
    if [ -n "${nv_full-}" ]; then rm -f "$nv_full"; fi
    if [ "$nv_left" -lt 1048576 ]; then
        nv_die 28 "$1: no space left on $nv_where"
    fi
    nv_die 1 "$1"
}

# --- calls: both streams end with a mark. A process costs more than what it does here: few are started.

nv_call() { # mark none|text|packed function arguments...: stdin holds text as it is, or base64 of gzip
    nv_mark=$1 nv_data=$2
    shift 2
    case $nv_data in
        none) ( set -e; "$@" ) </dev/null ;;
        text) ( set -e; "$@" ) ;;
        packed) base64 -d | gzip -dc | ( set -e; "$@" ) ;;
    esac
    nv_rc=$?
    printf '\n%s %d\n' "$nv_mark" "$nv_rc"
    printf '\n%s\n' "$nv_mark" >&2
}

# --- fencing: every act on an instance goes through its epoch, under its lock ------------------------

nv_ours() { # fleet mark function arguments...: only on a host of that fleet, which learns the mark
    nv_other=
    if [ -e "$nv_state/fleet" ]; then read -r nv_other <"$nv_state/fleet"; fi
    [ "$nv_other" = "$1" ] || nv_die 76 "this host is not enrolled in this fleet"
    nv_learn_mark "$2"
    shift 2
    "$@"
}

# The mark of the fleet's newest operation, "serial.operation" with a serial of 12 digits: the highest one told is the
# name of an empty file. The shell itself makes it: at once, without a process; one that comes late sorts before.

nv_known_mark() { # nv_mark is the highest this host was told, empty for none
    nv_mark=
    for nv_file in "$nv_state"/serial/[0-9]*; do nv_mark=${nv_file##*/}; done
    case ${nv_mark%%.*} in *[!0-9]*) nv_mark='' ;; esac
}

nv_learn_mark() { # mark, empty for none: nv_mark is the highest this host was told before
    nv_known_mark
    case $1 in
        '') return 0 ;;
        *[!0-9a-fop.-]*) nv_die 2 "$1 is no mark" ;;
        [0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9].op-?*) ;;
        *) nv_die 2 "$1 is no mark" ;;
    esac
    [ -z "$nv_mark" ] || [ "${1%%.*}" -gt "${nv_mark%%.*}" ] || return 0
    [ -d "$nv_state/serial" ] || mkdir -m 0700 "$nv_state/serial" 2>/dev/null || [ -d "$nv_state/serial" ]
    : >"$nv_state/serial/$1"
    set -- "$nv_state"/serial/[0-9]*
    [ $# -gt 64 ] || return 0
    nv_older=
    for nv_file in "$@"; do # the arguments turn into all but the last
        shift
        if [ -n "$nv_older" ]; then set -- "$@" "$nv_older"; fi
        nv_older=$nv_file
    done
    rm -f "$@"
}

nv_fenced() { # uuid epoch function arguments...
    nv_uuid=$1 nv_epoch=$2
    shift 2
    exec 9>"$nv_state/lock/$nv_uuid"
    flock -w 60 9 || nv_die 77 "another command works on this instance on this host"
    nv_seen=0
    if [ -e "$nv_state/epoch/$nv_uuid" ]; then read -r nv_seen <"$nv_state/epoch/$nv_uuid"; fi
    if [ "$nv_epoch" -lt "$nv_seen" ]; then
        nv_die 75 "this host has seen epoch $nv_seen of the instance, newer than ours ($nv_epoch)"
    fi
    if [ "$nv_epoch" -gt "$nv_seen" ]; then
        echo "$nv_epoch" >"$nv_state/epoch/.$nv_uuid.$$"
        sync "$nv_state/epoch/.$nv_uuid.$$"
        mv "$nv_state/epoch/.$nv_uuid.$$" "$nv_state/epoch/$nv_uuid"
        sync "$nv_state/epoch"
    fi
    "$@"
}

# --- enrolment ----------------------------------------------------------------------------------------

nv_facts() { # instances-path: what preflight wants to know, one "key value" a line
    nv_where=$1
    while [ ! -d "$nv_where" ]; do nv_where=$(dirname "$nv_where"); done
    echo "uid $(id -u)"
    echo "hostname $(hostname)"
    echo "machine_id $(cat /etc/machine-id 2>/dev/null || true)"
    echo "boot_id $(cat /proc/sys/kernel/random/boot_id)"
    echo "arch $(uname -m)"
    echo "cpus $(nproc --all)"
    echo "memory_kib $(awk '$1 == "MemTotal:" {print $2}' /proc/meminfo)"
    echo "available_kib $(awk '$1 == "MemAvailable:" {print $2}' /proc/meminfo)"
    echo "disk_total $(df -B1 --output=size "$nv_where" | tail -n 1 | tr -d ' ')"
    echo "disk_free $(nv_space "$nv_where")"
    echo "disk_ours $(timeout 20 du -sB1 --exclude=_base "$1" 2>/dev/null | cut -f 1)"
    echo "clock $(date -u +%s.%N)"
    if dd if=/dev/zero of="$nv_where/.novactl-odirect" oflag=direct bs=4096 count=1 status=none 2>/dev/null; then
        echo "odirect yes"
    fi
    rm -f "$nv_where/.novactl-odirect"
    echo "fleet $(cat "$nv_state/fleet" 2>/dev/null || true)"
    echo "storage $(nv_storage "$1" 2>/dev/null || true)"
    for nv_tool in virsh qemu-img flock base64 gzip sha256sum dd timeout stat df setsid mkfs.ext4 mkswap qemu-system-x86_64; do
        if command -v "$nv_tool" >/dev/null 2>&1; then echo "tool $nv_tool"; else echo "missing $nv_tool"; fi
    done
    echo "qemu_img $(qemu-img --version 2>/dev/null | head -n 1)"
    echo "sshd $(sshd -V 2>&1 | sed -n 's/.*OpenSSH_\([0-9.]*\).*/\1/p' | head -n 1)"
    echo "streamlocal $(sshd -T 2>/dev/null | awk '$1 == "allowstreamlocalforwarding" {print $2}')"
    echo "tcpforward $(sshd -T 2>/dev/null | awk '$1 == "allowtcpforwarding" {print $2}')"
    if [ -d /proc/sys/net/bridge ]; then
        echo "br_netfilter $(cat /proc/sys/net/bridge/bridge-nf-call-iptables)"
    fi
    if systemctl is-enabled libvirt-guests >/dev/null 2>&1; then
        # its own default, then what the distribution's file says; the last one counts
        echo "libvirt_guests $(sed -n "s/^ON_BOOT=['\"]\{0,1\}\([a-z]*\).*/\1/p" \
            /usr/lib*/libvirt/libvirt-guests.sh /usr/libexec/libvirt-guests.sh \
            /etc/sysconfig/libvirt-guests /etc/default/libvirt-guests 2>/dev/null | tail -n 1)"
    fi
    for nv_link in /sys/class/net/*/bridge; do
        if [ -d "$nv_link" ]; then nv_bridge_facts "${nv_link%/bridge}"; fi
    done
}

nv_bridge_facts() { # /sys/class/net/bridge: it, and what it is plugged into; the taps of guests come and go
    echo "bridge ${1##*/}"
    for nv_port in "$1"/brif/*; do
        nv_port=${nv_port##*/}
        if [ -e "/sys/class/net/$nv_port" ] && [ ! -e "/sys/class/net/$nv_port/tun_flags" ]; then
            echo "port ${1##*/} $nv_port"
        fi
    done
}

nv_probe_kvm() { # stdin: a boot sector that ends QEMU with status 33. Prints kvm when a guest really ran.
    if [ ! -c /dev/kvm ]; then echo "none no /dev/kvm"; return 0; fi
    nv_tmp=$(mktemp -d)
    trap 'rm -rf "$nv_tmp"' EXIT
    cat >"$nv_tmp/probe"
    set +e
    timeout -k 1 5 qemu-system-x86_64 -machine pc,accel=kvm -nodefaults -display none -no-user-config \
        -device isa-debug-exit,iobase=0xf4,iosize=1 \
        -drive "file=$nv_tmp/probe,format=raw,if=ide,readonly=off,snapshot=on" >"$nv_tmp/out" 2>&1
    nv_rc=$?
    set -e
    case $nv_rc in
        33) echo "kvm a guest ran" ;;
        124 | 137) echo "none /dev/kvm opens but a guest hangs under it" ;;
        *) echo "none $(head -n 1 "$nv_tmp/out")" ;;
    esac
}

nv_enrol() { # fleet instances-path takeover(yes|no): prints the name of the storage
    mkdir -p "$nv_state"
    exec 8>"$nv_state/.enrol"
    flock -w 30 8 || nv_die 77 "another enrolment runs on this host"
    nv_other=$(cat "$nv_state/fleet" 2>/dev/null || true)
    if [ -n "$nv_other" ] && [ "$nv_other" != "$1" ] && [ "$3" != yes ]; then
        nv_die 76 "this host belongs to fleet $nv_other"
    fi
    chmod 0711 "$nv_state"
    if [ "$nv_other" != "$1" ]; then nv_forget_fleet; fi
    mkdir -p "$nv_state/lock" "$nv_state/epoch" "$nv_state/serial" "$nv_state/job"
    for nv_dir in "$2" "$2/_base"; do
        [ -d "$nv_dir" ] || ( umask 066; mkdir -p "$nv_dir"; chmod 0711 "$nv_dir" )
    done
    chmod 0700 "$nv_state/lock" "$nv_state/epoch" "$nv_state/serial" "$nv_state/job"
    if [ "$nv_other" != "$1" ]; then
        echo "$1" >"$nv_state/.fleet.$$"
        sync "$nv_state/.fleet.$$"
        mv "$nv_state/.fleet.$$" "$nv_state/fleet"
    fi
    nv_storage "$2"
}

nv_forget_fleet() { # what the host knew of it; its catalogue is kept aside, since it may be the last copy of it
    rm -rf "$nv_state/serial"
    if [ -e "$nv_state/catalogue.json" ]; then mv "$nv_state/catalogue.json" "$nv_state/catalogue.previous.json"; fi
}

nv_leave() { # fleet instances-path: forget this fleet; refuses while instances are there
    if [ "$(cat "$nv_state/fleet" 2>/dev/null || true)" != "$1" ]; then return 0; fi
    for nv_dir in "$2"/*-*-*-*-*; do
        if [ -d "$nv_dir" ]; then nv_die 76 "$(basename "$nv_dir") still has files here"; fi
    done
    rm -f "$nv_state/fleet"
    nv_forget_fleet
}

# --- the second copy of the catalogue: one file, whose first line is its version ----------------------

nv_copy_version() { # nv_version is that of the copy here, 0 for none
    nv_version=0
    if [ -e "$nv_state/catalogue.json" ]; then read -r nv_version <"$nv_state/catalogue.json" || true; fi
    case $nv_version in '' | *[!0-9]*) nv_version=0 ;; esac
}

nv_put_copy() { # version: stdin is the catalogue; one that is no newer than what is here is let go
    nv_where=$nv_state
    umask 077
    exec 8>"$nv_state/.catalogue.lock"
    flock -w 30 8 || nv_die 77 "another command writes the catalogue copy"
    nv_copy_version
    [ "$1" -gt "$nv_version" ] || return 0
    echo "$1" >"$nv_state/.catalogue.new" || nv_failed "cannot write the catalogue copy"
    cat >>"$nv_state/.catalogue.new" || nv_failed "cannot write the catalogue copy"
    sync "$nv_state/.catalogue.new" || nv_failed "cannot write the catalogue copy"
    mv "$nv_state/.catalogue.new" "$nv_state/catalogue.json"
    sync "$nv_state"
}

nv_get_copy() { # the version on the first line, then the catalogue; nothing when there is none
    if [ -e "$nv_state/catalogue.json" ]; then cat "$nv_state/catalogue.json"; fi
}

# --- looking ---------------------------------------------------------------------------------------------

nv_look() { # instances-path bridge...: what boot asks of the host it chose
    echo "disk_free $(nv_space "$1")"
    nv_copy_version
    echo "mark $nv_mark"
    echo "copy $nv_version"
    while read -r nv_key nv_value _; do
        if [ "$nv_key" = MemAvailable: ]; then echo "available_kib $nv_value"; fi
    done </proc/meminfo
    shift
    for nv_bridge in "$@"; do
        [ -d "/sys/class/net/$nv_bridge/bridge" ] || echo "no_bridge $nv_bridge"
    done
}

nv_domains() { # the uuids of all domains
    nv_out=$(nv_virsh list --all --uuid 2>&1) || nv_die 1 "libvirt does not answer: $nv_out"
    echo "$nv_out"
}

nv_domain_state() { # uuid: libvirt's word for the state, "none" when there is no such domain; then "saved" when its
    # memory is kept (managed save)
    nv_rc=0
    nv_out=$(nv_virsh "domstate $1; echo ::; list --inactive --with-managed-save --uuid" 2>&1) || nv_rc=$?
    # virsh goes on after an error
    case $nv_rc,$nv_out in
        0,*error:*) nv_rc=1 ;;
    esac
    if [ "$nv_rc" -ne 0 ]; then
        if nv_has_domain "$1"; then nv_die "$nv_rc" "$nv_out"; fi
        echo none
        return 0
    fi
    printf '%s' "${nv_out%%::*}"
    if nv_has_line "${nv_out#*::}" "$1"; then echo saved; fi
}

nv_greet() { # uuid: the state of the domain; then its epoch, the version of the copy here and the mark
    nv_domain_state "$1"
    nv_seen=0
    if [ -e "$nv_state/epoch/$1" ]; then read -r nv_seen <"$nv_state/epoch/$1"; fi
    nv_copy_version
    echo "$nv_seen $nv_version $nv_mark"
}

nv_route() { # ip: the device a guest's address is reached by, "default" when only by the default route
    ip -o route get "$1" | awk '{for (i = 1; i < NF; i++) {if ($i == "via") via = 1; if ($i == "dev") dev = $(i + 1)}}
        END {print (via ? "default" : dev)}'
}

# --- base files: content-addressed, RAW, under a lock -------------------------------------------------

nv_no_link() { # file...: dies when one is a link: on storage that hosts share, another one's root may have made it
    for nv_file in "$@"; do
        [ ! -L "$nv_file" ] || nv_die 76 "$nv_file is a link"
    done
}

nv_base_lock() { # base-directory name
    nv_no_link "$1/.lock.$2"
    exec 7>"$1/.lock.$2"
    flock -w 30 7 || nv_die 77 "another command fetches this base file"
}

nv_base_have() { # path without ending: bytes of the source that arrived
    if [ -e "$1.part" ]; then cat "$1.pos" 2>/dev/null || echo 0; else echo 0; fi
}

nv_base_state() { # base-directory name raw|qcow2|vmdk|any [op n]: "ready", or how many bytes of the source are here. Dies when it
    # was made of the same bytes as another format
    touch -c "$1/$2.json" # before the look: nv_prune_remove sees that it is young, or has taken it away by then
    if [ -e "$1/$2" ] && [ -e "$1/$2.json" ]; then
        # the job that made it, when whoever started it did not live to see its end
        if [ "$3" != any ]; then nv_base_made_as "$1/$2.json" "$3"; fi
        if [ $# -eq 5 ] && [ -d "$nv_state/job/$4.$5" ]; then nv_job_forget "$4" "$5"; fi
        echo ready
    else
        nv_base_have "$1/.$2"
    fi
}

nv_base_made_as() { # sidecar raw|qcow2|vmdk
    nv_form=raw
    read -r nv_line <"$1"
    case $nv_line in
        *'"source_format": "qcow2"'*) nv_form=qcow2 ;;
        *'"source_format": "vmdk"'*) nv_form=vmdk ;;
    esac
    [ "$nv_form" = "$2" ] || nv_die 76 "its base file of these bytes was made of them as $nv_form, not $2; when nothing uses it," \
        "novactl image prune removes it"
}

nv_base_stands_at() { # position-file bytes: written in one step, since others read it without the lock
    echo "$2" >"$1.new" && mv "$1.new" "$1"
}

nv_base_receive() { # base-directory name size-bytes from: stdin has "offset length" in 64 bytes, each with its bytes
    nv_where=$1
    nv_base_lock "$1" "$2"
    if [ -e "$1/$2.json" ]; then echo ready; return 0; fi
    nv_have=$(nv_base_have "$1/.$2")
    if [ "$4" != "$nv_have" ]; then nv_die 77 "the transfer stands at byte $nv_have by now"; fi
    echo "send $nv_have"
    nv_base_take "$1/.$2" "$3" "$4" 30
    echo received
}

nv_base_finish() { # base-directory name source-format(raw|qcow2|vmdk|file) version virtual-size: hash, make RAW, publish;
    # prints the sum of what was converted here
    nv_where=$1
    nv_base_lock "$1" "$2"
    if [ -e "$1/$2.json" ]; then return 0; fi
    nv_part=$1/.$2.part nv_raw=$1/.$2.raw
    nv_progress "checking"
    nv_sum=$(nv_base_taken "$1/.$2")
    if [ "$nv_sum" != "$2" ]; then
        rm -f "$nv_part" "$1/.$2.pos" "$1/.$2.pieces" "$1/.$2.sum"
        nv_die 1 "the base file arrived damaged (sha256 $nv_sum); it will be sent again"
    fi
    if [ "$3" = qcow2 ] || [ "$3" = vmdk ]; then
        nv_base_alone "$nv_part" "$3"
        nv_base_fits "$1/.$2" "$3" "$5"
        nv_progress "converting"
        nv_image_tool qemu-img convert -q -f "$3" -O raw "$nv_part" "$nv_raw" || {
            nv_full=$nv_raw # what fills the disk goes when it has been seen that it is full
            nv_failed "qemu-img cannot convert the image to raw"
        }
        [ "$(stat -c %s "$nv_raw")" -eq "$5" ] || nv_die 1 "the image did not convert to its stated size"
        nv_progress "hashing"
        sync "$nv_raw" & # meanwhile
        nv_sum=sparse:$(nv_digest sparse "$nv_raw") || nv_die 1 "cannot read the base file"
        wait "$!" || nv_failed "cannot write the base file"
    else
        mv "$nv_part" "$nv_raw"
    fi
    nv_base_publish "$@"
    case $nv_sum in sparse:*) echo "$nv_sum" ;; esac
}

nv_base_alone() { # file format: dies when its header names another file, which root would read here. The inspector saw to that
    # when it came into a store; but as another format, perhaps, than a record says that some host told us
    nv_out=$(nv_image_tool qemu-img info --output=json -f "$2" "$1") || nv_die 1 "qemu-img cannot read the image"
    # not by echo, which makes two lines of a name with \n in some shells
    nv_named=$(printf '%s\n' "$nv_out" | sed -n 's/^.*"\([a-z]*-\)*\(filename\|file\)": "\(.*\)".*$/\3/p' | grep -vxF "$1" || true)
    [ -z "$nv_named" ] || nv_die 76 "the image names another file: $nv_named"
}

nv_base_fits() { # path-without-ending format virtual-size: dies, and keeps nothing of it, unless there is room for what will be made
    # of it. A few MiB may say a hundred GiB: all clusters of the disk can be the same one of the file
    nv_whole=$(nv_measured -f "$2" "$1.part") || nv_die 1 "qemu-img cannot measure the image"
    nv_empty=$(nv_measured --size "$3") || nv_die 1 "qemu-img cannot measure a disk of $3 bytes"
    nv_need_room "$((nv_whole - nv_empty))" "the image as raw" "$1.part" "$1.pos" "$1.pieces" "$1.sum"
}

nv_measured() { # words: the bytes of a qcow2 of it, the data and what stands beside it. As raw it says how long, not how full
    nv_out=$(nv_image_tool qemu-img measure --output=json -O qcow2 "$@") || return
    printf '%s\n' "$nv_out" | sed -n 's/^ *"required": \([0-9]*\),*$/\1/p' | grep .
}

nv_base_publish() { # base-directory name source-format version: $nv_raw, whose bytes hash to $nv_sum, is the base file
    case $nv_sum in sparse:*) nv_kind=raw_sparse_sha256 ;; *) nv_kind=raw_sha256 ;; esac
    chmod 0644 "$nv_raw"
    nv_progress "writing to disk"
    sync "$nv_raw"
    printf '{"source_sha256": "%s", "source_format": "%s", "%s": "%s", "size_bytes": %s, "converter": "%s"}\n' \
        "$2" "$3" "$nv_kind" "${nv_sum#sparse:}" "$(stat -c %s "$nv_raw")" "$4" >"$1/.$2.json"
    sync "$1/.$2.json"
    mv "$nv_raw" "$1/$2"
    mv "$1/.$2.json" "$1/$2.json"
    rm -f "$1/.$2.part" "$1/.$2.pos" "$1/.$2.pieces" "$1/.$2.sum" "$1/.$2.copy."*
    sync "$1"
}

nv_base_blank() { # base-directory name size-bytes ext4|swap: an empty disk that overlays start from. A copied overlay comes to
    # stand on another host's, so all of its bytes are of its name, whatever that host's mke2fs.conf says
    nv_where=$1
    nv_base_lock "$1" "$2"
    if [ -e "$1/$2" ]; then
        touch -c "$1/$2" # it is in use from now on: nobody prunes it
        return 0
    fi
    nv_raw=$1/.$2.raw
    rm -f "$nv_raw"
    truncate -s "$3" "$nv_raw" || nv_failed "cannot make $2"
    case $4 in
        ext4) nv_blank_ext4 "$nv_raw" "$(nv_blank_uuid "$2")" || nv_failed "cannot make $2" ;;
        swap) mkswap -q -U "$(nv_blank_uuid "$2")" "$nv_raw" || nv_failed "cannot make $2" ;;
    esac
    chmod 0644 "$nv_raw"
    sync "$nv_raw"
    mv "$nv_raw" "$1/$2"
}

nv_blank_uuid() { # name
    printf %s "$1" | sha256sum | sed 's/^\(.\{8\}\)\(.\{4\}\)\(.\{4\}\)\(.\{4\}\)\(.\{12\}\).*/\1-\2-\3-\4-\5/'
}

nv_blank_ext4() { # file uuid: the features that mke2fs 1.46 and 1.47 both give, and guests of years know
    nv_features=has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file
    E2FSPROGS_FAKE_TIME=1 MKE2FS_CONFIG=/nonexistent mkfs.ext4 -q -F -L ephemeral0 -U "$2" -b 4096 -I 256 \
        -O "none,$nv_features,dir_nlink,extra_isize,metadata_csum" \
        -E "hash_seed=$2,lazy_itable_init=1,lazy_journal_init=1" "$1"
}

nv_blank_sum() { # base-directory name: what tells it from another host's; nothing when there is none
    [ ! -e "$1/$2" ] || nv_digest sparse "$1/$2" || nv_die 1 "cannot read $2"
}

nv_remove_part() { # base-directory name: what a transfer left, unless one is under way
    nv_no_link "$1/.lock.$2"
    exec 7>"$1/.lock.$2"
    flock -n 7 || nv_die 77 "another command fetches this base file"
    rm -f "$1/.$2.part" "$1/.$2.pos" "$1/.$2.pos.new" "$1/.$2.raw" "$1/.$2.json" "$1/.$2.corrupt" \
        "$1/.$2.pieces" "$1/.$2.sum" "$1/.$2.sum.new" "$1/.$2.copy."*
}

# --- an instance's files: only what carries the mark of this operation is ever taken away ----------

nv_make_directory() { # directory operation
    nv_where=${1%/*}
    if [ -d "$1" ]; then
        [ "$(cat "$1/.made-by" 2>/dev/null || true)" = "$2" ] || nv_die 76 "$1 exists and is not of this operation"
        return 0
    fi
    nv_new=$1.$2
    [ -d "$nv_new" ] || mkdir -m 0711 "$nv_new" || nv_failed "cannot make the instance directory"
    echo "$2" >"$nv_new/.made-by" || nv_failed "cannot make the instance directory"
    install -m 0600 /dev/null "$nv_new/console.log"
    mv -T "$nv_new" "$1"
}

nv_unmake_directory() { # directory operation
    rm -rf "$1.$2" "$1.del"
    if [ -d "$1" ] && [ "$(cat "$1/.made-by" 2>/dev/null || true)" != "$2" ]; then return 0; fi
    nv_remove_directory "$1" # also what a removal that was cut left of it
}

nv_remove_directory() { # directory: gone at once under another name, then file by file
    if [ -d "$1" ]; then
        rm -rf "$1.del"
        mv -T "$1" "$1.del"
    fi
    rm -rf "$1.del"
}

nv_remove_stray() { # directory ending(del|op-...): what was half made or half removed beside it
    case $2 in
        del) ;;
        op-*[!0-9a-f]* | op-) nv_die 2 "$2 is not an ending of ours" ;;
        op-*) ;;
        *) nv_die 2 "$2 is not an ending of ours" ;;
    esac
    rm -rf "$1.$2"
}

nv_overlay() { # directory file base-name size-bytes: a qcow2 overlay over ../_base/<base-name>
    nv_where=$1
    cd "$1"
    [ -e "../_base/$3" ] || nv_die 1 "base file $3 is not here"
    if [ -e "$2" ]; then return 0; fi
    qemu-img create -q -f qcow2 -F raw -b "../_base/$3" "./.$2.new" "$4" >/dev/null || nv_failed "cannot make $2"
    chmod 0600 "./.$2.new"
    mv "./.$2.new" "$2"
}

nv_sealed() { # directory: the sealed user-data there, nothing when there is none
    if [ -e "$1/user-data.sealed" ]; then cat "$1/user-data.sealed"; fi
}

nv_missing() { # directory file...: those that are not there
    nv_where=$1
    shift
    for nv_file in "$@"; do
        [ -e "$nv_where/$nv_file" ] || echo "$nv_file"
    done
}

nv_put() { # directory file mode: stdin becomes the file; a reader sees the old one or the new one
    nv_where=$1
    cd "$1"
    install -m "$3" /dev/stdin "./.$2.new" || nv_failed "cannot write $2"
    sync "./.$2.new" || nv_failed "cannot write $2"
    mv "./.$2.new" "$2"
}

# --- domains -----------------------------------------------------------------------------------------------

nv_define() { # directory uuid: stdin is the domain's XML; a copy stays in libvirt.xml
    nv_put "$1" libvirt.xml 0600
    nv_virsh define --validate "$1/libvirt.xml" >/dev/null
}

nv_undefine_if_made_by() { # uuid operation
    if ! nv_has_domain "$1"; then return 0; fi
    nv_made=$(nv_virsh metadata "$1" https://novactl.org/xmlns/1 --config 2>&1) || nv_made=
    case $nv_made in
        *"operation=\"$2\""*) nv_remove_domain "$1" ;;
    esac
}

nv_become() { # state command uuid: the command was given, and it is in that state a moment later; so already is fine
    nv_out=$(nv_virsh "$2 $3; domstate $3" 2>&1) && nv_rc=0 || nv_rc=$?
    # virsh goes on after an error: the last line is domstate's
    if [ "${nv_out##*
}" = "$1" ]; then return 0; fi
    [ "$nv_rc" -eq 79 ] || nv_rc=1
    nv_die "$nv_rc" "$nv_out"
}

nv_start() { # uuid
    nv_become running start "$1"
}

nv_pause() { # uuid
    nv_become paused suspend "$1"
}

nv_unpause() { # uuid
    nv_become running resume "$1"
}

nv_shutdown() { # uuid: ask the guest by ACPI
    nv_virsh shutdown "$1" --mode acpi >/dev/null 2>&1 || true
}

nv_destroy() { # uuid: power off; not running is fine
    if nv_out=$(nv_virsh destroy "$1" 2>&1); then return 0; else nv_rc=$?; fi
    case $nv_out in *"is not running"*) return 0 ;; esac
    if nv_has_domain "$1"; then nv_die "$nv_rc" "$nv_out"; fi
}

nv_autostart_off() { # uuid: libvirt does not start it by itself; no such domain is fine
    if nv_out=$(nv_virsh autostart --disable "$1" 2>&1); then return 0; else nv_rc=$?; fi
    if nv_has_domain "$1"; then nv_die "$nv_rc" "$nv_out"; fi
}

nv_remove_domain() { # uuid: powered off and no longer defined
    nv_drop_domain "$1" --nvram
}

nv_clear_domain() { # directory uuid: the same, but for its NVRAM; what is left is to be defined anew
    nv_drop_domain "$2" --keep-nvram
    rm -f "$1/saved-by"
}

nv_drop_domain() { # uuid --nvram|--keep-nvram: powered off and no longer defined, its saved memory gone too
    nv_out=$(nv_virsh "destroy $1; undefine $1 --managed-save --snapshots-metadata --checkpoints-metadata $2; list --all --uuid" 2>&1) ||
        nv_die "$?" "$nv_out"
    # virsh goes on after an error: the list decides, not the words
    if nv_has_line "$nv_out" "$1"; then nv_die 1 "$nv_out"; fi
}

# --- reading consoles ---------------------------------------------------------------------------------------

nv_console_tail() { # directory lines(0: all): the length of the log on the first line, then its end
    nv_size=$(stat -c %s "$1/console.log" 2>/dev/null || echo 0)
    echo "$nv_size"
    [ "$nv_size" -gt 0 ] || return 0
    if [ "$2" -eq 0 ]; then
        head -c "$nv_size" "$1/console.log" | tail -c 1048576
    else
        head -c "$nv_size" "$1/console.log" | tail -c 1048576 | tail -n "$2"
    fi
}

nv_console_from() { # directory offset: what came after that many bytes (from the start when it shrank)
    nv_size=$(stat -c %s "$1/console.log" 2>/dev/null || echo 0)
    nv_from=$2
    if [ "$nv_size" -lt "$nv_from" ]; then nv_from=0; fi
    nv_len=$((nv_size - nv_from))
    if [ "$nv_len" -gt 1048576 ]; then nv_len=1048576; fi
    echo "$((nv_from + nv_len))"
    [ "$nv_len" -gt 0 ] || return 0
    tail -c "+$((nv_from + 1))" "$1/console.log" | head -c "$nv_len"
}
