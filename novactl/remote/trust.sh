# Trust between two hosts for the length of one operation: a key made on the source, and one line for it in root's
# authorized_keys on the target, which lets it do one thing and expires by itself. Both carry the operation's id; where a step
# has a key of its own, its number too (op-HEX-N), and that is `op` here.

nv_trust_find() { # op: nv_trust is where the operation's key and its files are
    case ${1#op-} in "$1" | '' | *[!0-9a-f-]*) nv_die 2 "$1 is not an operation" ;; esac
    nv_trust=$nv_state/trust/$1
}

nv_trust_key() { # op address: source: makes the key unless it is there; prints the address it will come from, then the public key
    nv_trust_find "$1"
    ( umask 077; mkdir -p "$nv_trust" )
    if [ ! -e "$nv_trust/key.pub" ]; then
        rm -f "$nv_trust/key"
        ssh-keygen -q -t ed25519 -N '' -C "novactl $1" -f "$nv_trust/key" || nv_die 1 "ssh-keygen makes no key"
    fi
    nv_from=$(ip -o route get "$(getent ahosts "$2" | awk 'NR == 1 {print $1}')" | sed -n 's/.* src \([^ ]*\).*/\1/p')
    [ -n "$nv_from" ] || nv_die 1 "no route to $2"
    echo "$nv_from"
    cat "$nv_trust/key.pub"
}

nv_trust_to() { # op address port: source: where the target is; stdin is its pinned host keys, one a line
    nv_trust_find "$1"
    sed 's/^/target /' >"$nv_trust/known_hosts"
    printf '%s %s\n' "$2" "$3" >"$nv_trust/target"
    rm -f "$nv_trust/shared" # a connection does for good what the key could do when it was made
}

nv_trust_ssh() { # op ssh-word...: source: ssh to the target under the key; what that says into a file is 64 KiB at most
    ( ulimit -f 64; nv_trust_become "$@" )
}

nv_trust_share() { # the same over one connection for all of them, since to make one takes as long as to send 100 MiB. It
    # ends when the key is withdrawn, or nobody has used it for five minutes
    nv_trust_find "$1"
    nv_op=$1
    shift
    nv_trust_ssh "$nv_op" -o ControlMaster=auto -o ControlPath="$nv_trust/shared" -o ControlPersist=300 "$@"
}

nv_trust_become() { # the same for the background: this process becomes ssh. To kill a shell before it would leave it connected
    nv_trust_find "$1"
    shift
    read -r nv_address nv_port <"$nv_trust/target"
    # in the processor AES-GCM takes two thirds of the time that ssh's first choice takes
    if grep -qw aes /proc/cpuinfo; then
        set -- -o Ciphers=aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes256-ctr "$@"
    fi
    set -- -F none -i "$nv_trust/key" -o IdentitiesOnly=yes -o UserKnownHostsFile="$nv_trust/known_hosts" \
        -o GlobalKnownHostsFile=/dev/null -o HostKeyAlias=target -o StrictHostKeyChecking=yes -o BatchMode=yes \
        -o UpdateHostKeys=no -o ConnectTimeout=5 -o ServerAliveInterval=5 -o ServerAliveCountMax=3 -o LogLevel=ERROR \
        -o HostName="$nv_address" -l root -p "$nv_port" "$@"
    exec ${nv_timeout:+timeout "$nv_timeout"} ssh "$@"
}

nv_trust_try() { # op: source: the target lets the key in
    nv_trust_find "$1"
    # into a file: what stays connected may keep it open
    nv_rc=0
    nv_trust_share "$1" target hello </dev/null >"$nv_trust/said" 2>&1 || nv_rc=$?
    [ "$nv_rc" -ne 255 ] || nv_die 1 "the target does not let it in: $(cat "$nv_trust/said")"
}

nv_authorized_keys() { # nv_keys is root's file of them
    nv_home=$(getent passwd root | cut -d : -f 6)
    nv_keys=$(sshd -T 2>/dev/null | awk '$1 == "authorizedkeysfile" {print $2}')
    case $nv_keys in
        '' | none) nv_keys=.ssh/authorized_keys ;;
    esac
    nv_keys=$(printf '%s\n' "$nv_keys" | sed "s|%h|$nv_home|g; s|%u|root|g; s|%%|%|g")
    case $nv_keys in /*) ;; *) nv_keys=$nv_home/$nv_keys ;; esac
}

nv_trust_allow() { # op from seconds forward|receive words...: target: stdin is the public key. It may connect within so many seconds;
    # forward: its connections may forward, nothing else; receive: they carry out nv_receive with these words
    nv_trust_find "$1"
    nv_op=$1 nv_from=$2 nv_seconds=$3 nv_purpose=$4
    shift 4
    IFS= read -r nv_key
    # both come from the other host, which may be anybody's by now: nothing but a key and an address gets into the file
    nv_blob=${nv_key#ssh-ed25519 }
    nv_blob=${nv_blob%" novactl $nv_op"}
    [ "$nv_key" = "ssh-ed25519 $nv_blob novactl $nv_op" ] || nv_die 2 "this is not the operation's key"
    case $nv_blob in '' | *[!A-Za-z0-9+/=]*) nv_die 2 "this is not a key" ;; esac
    case $nv_from in '' | *[!0-9A-Fa-f.:]*) nv_die 2 "this is not an address" ;; esac
    ( umask 077; mkdir -p "$nv_trust" )
    : >"$nv_trust/allowed" # before it is
    if [ "$nv_purpose" = receive ]; then
        cat >"$nv_trust/receive.new"
        mv "$nv_trust/receive.new" "$nv_trust/receive"
        nv_may="command=\"/bin/sh $nv_trust/receive $*\""
    else
        nv_may='port-forwarding,command="/bin/false"'
    fi
    # expiry-time is in the target's local time
    nv_until=$(date -d "+$nv_seconds seconds" +%Y%m%d%H%M%S)
    nv_change_keys "$nv_op" "restrict,from=\"$nv_from\",expiry-time=\"$nv_until\",$nv_may $nv_key"
}

nv_change_keys() { # op line: the operation's line is this one; none when it is empty
    nv_authorized_keys
    if [ ! -e "$nv_keys" ]; then
        [ -n "$2" ] || return 0
        ( umask 077; mkdir -p "${nv_keys%/*}"; : >>"$nv_keys" )
    fi
    exec 8>"$nv_state/.authorized_keys.lock"
    flock -w 30 8 || nv_die 77 "another command changes root's authorized_keys"
    nv_where=${nv_keys%/*} nv_full=$nv_keys.novactl
    nv_rc=0
    ( umask 077; grep -v " novactl $1\$" "$nv_keys" >"$nv_full" ) || nv_rc=$?
    # 1: no line is left; 2: not all of them got there
    { [ "$nv_rc" -le 1 ] && [ -e "$nv_full" ]; } || nv_failed "cannot write $nv_keys"
    [ -z "$2" ] || printf '%s\n' "$2" >>"$nv_full" || nv_failed "cannot write $nv_keys"
    chmod --reference "$nv_keys" "$nv_full"
    chown --reference "$nv_keys" "$nv_full"
    sync "$nv_full" || nv_failed "cannot write $nv_keys"
    mv "$nv_full" "$nv_keys"
    exec 8>&-
}

nv_trust_end() { # op: nothing of it is left on this host, no connection that a killed job left either
    nv_trust_find "$1"
    # not where the key was made and nobody let in: what sshd says takes long to ask for
    if [ ! -e "$nv_trust/key" ] || [ -e "$nv_trust/allowed" ]; then nv_change_keys "$1" ""; fi
    grep -ls "trust/[o]p-${1#op-}/[ks]" /proc/[0-9]*/cmdline | while IFS=/ read -r _ _ nv_process _; do
        kill "$nv_process" 2>/dev/null || true
    done
    nv_trust_throw_out
    rm -rf "$nv_trust"
}

nv_trust_throw_out() { # target: what the key has under way here ends, and with it the connection that it came by
    rm -f "$nv_trust/receive" # nothing begins any more
    grep -lsF "$nv_trust/receive" /proc/[0-9]*/cmdline | while IFS=/ read -r _ _ nv_process _; do
        nv_line=$({ tr '\0' ' ' <"/proc/$nv_process/cmdline"; } 2>/dev/null) || continue
        case $nv_line in *"/bin/sh $nv_trust/receive "*) ;; *) continue ;; esac
        [ "$(stat -c %u "/proc/$nv_process" 2>/dev/null)" = "$(id -u)" ] || continue # anybody may call himself so
        nv_above=$nv_process
        for nv_n in 1 2 3; do # a shell that root has may be between them
            nv_above=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$nv_above/status" 2>/dev/null) || break
            case $(cat "/proc/$nv_above/comm" 2>/dev/null) in
                sshd | sshd-session) kill "$nv_above" 2>/dev/null || true; break ;;
                sh | dash | bash) ;;
                *) break ;;
            esac
        done
        kill "$nv_process" 2>/dev/null || true
    done
}

nv_trusts() { # the operations that left a key or a line of root's authorized_keys here
    nv_authorized_keys
    {
        sed -n 's/.* novactl \(op-[0-9a-f-]*\)$/\1/p' "$nv_keys" 2>/dev/null || true
        for nv_dir in "$nv_state"/trust/op-*; do
            if [ -d "$nv_dir" ]; then echo "${nv_dir##*/}"; fi
        done
    } | sort -u
}
