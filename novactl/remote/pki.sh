# Certificates of `novactl pki`, where libvirt tells QEMU to look for them. Of the six names there each is a link through
# `novactl`, which points to the one directory of the newest: all of them change in one rename.

nv_qemu_conf() { # key: its value in qemu.conf, empty for none
    sed -n "s/^[[:blank:]]*$1[[:blank:]]*=[[:blank:]]*[\"']\([^\"']*\)[\"'].*/\1/p" /etc/libvirt/qemu.conf 2>/dev/null | tail -n 1
}

nv_pki_find() { # nv_pki is that directory, nv_user and nv_group are QEMU's; refused when files there are not novactl's
    nv_pki=$(nv_qemu_conf migrate_tls_x509_cert_dir)
    if [ -z "$nv_pki" ] && [ -d /etc/pki/libvirt-migrate ]; then nv_pki=/etc/pki/libvirt-migrate; fi
    [ -n "$nv_pki" ] || nv_pki=$(nv_qemu_conf default_tls_x509_cert_dir)
    [ -n "$nv_pki" ] || nv_pki=/etc/pki/qemu
    nv_user=$(nv_qemu_conf user) nv_group=$(nv_qemu_conf group)
    for nv_name in libvirt-qemu qemu; do # what libvirt was built with, when qemu.conf says nothing
        if [ -z "$nv_user" ] && getent passwd "$nv_name" >/dev/null; then nv_user=$nv_name; fi
        if [ -z "$nv_group" ] && getent group "$nv_name" >/dev/null; then nv_group=$nv_name; fi
    done
    nv_user=${nv_user#+} nv_group=${nv_group#+}
    [ -n "${nv_user:+$nv_group}" ] || nv_die 1 "which user and group QEMU runs as is not in qemu.conf"
    for nv_name in ca-cert ca-crl server-cert server-key client-cert client-key; do
        if [ -e "$nv_pki/$nv_name.pem" ] || [ -L "$nv_pki/$nv_name.pem" ]; then
            [ "$(readlink "$nv_pki/$nv_name.pem")" = "novactl/$nv_name.pem" ] || nv_die 76 "$nv_pki/$nv_name.pem is not novactl's"
        fi
    done
}

nv_pki_lock() {
    exec 8>"$nv_state/.pki.lock"
    flock -w 30 8 || nv_die 77 "another command places certificates"
}

nv_pki_where() { # the directory
    nv_pki_find
    echo "$nv_pki"
}

nv_pki_place() { # crl-number: stdin is the six files, each after a line "# NAME.pem". Private keys are for QEMU's group alone
    nv_pki_find
    nv_pki_lock
    mkdir -p "$nv_pki"
    nv_where=$nv_pki nv_full=
    nv_set=$(mktemp -d "$nv_pki/novactl-XXXXXXXX") || nv_die 1 "cannot write to $nv_pki"
    trap 'rm -rf "$nv_set"' EXIT
    ( umask 077; awk -v set="$nv_set" '/^# [a-z-]+[.]pem$/ { file = set "/" $2; next } { print >file }' ) || nv_failed "cannot write to $nv_pki"
    echo "$1" >"$nv_set/crl-number"
    if cmp -s "$nv_pki/novactl/ca-cert.pem" "$nv_set/ca-cert.pem" && [ "$(cat "$nv_pki/novactl/crl-number")" -gt "$1" ]; then
        cp "$nv_pki/novactl/ca-crl.pem" "$nv_pki/novactl/crl-number" "$nv_set"
    fi
    chmod 0644 "$nv_set"/*-cert.pem "$nv_set/ca-crl.pem"
    chgrp "$nv_group" "$nv_set"/*-key.pem
    chmod 0640 "$nv_set"/*-key.pem
    chmod 0755 "$nv_set"
    [ "$(id -u)" -ne 0 ] || setpriv --reuid "$nv_user" --regid "$nv_group" --clear-groups cat "$nv_set/server-key.pem" >/dev/null ||
        nv_die 1 "QEMU's user $nv_user cannot read what is in $nv_pki"
    sync "$nv_set"/* "$nv_set" || nv_failed "cannot write to $nv_pki"
    for nv_file in "$nv_set"/*.pem; do
        nv_file=${nv_file##*/}
        [ -L "$nv_pki/$nv_file" ] || ln -s "novactl/$nv_file" "$nv_pki/$nv_file"
    done
    ln -sfn "${nv_set##*/}" "$nv_pki/.novactl"
    mv -T "$nv_pki/.novactl" "$nv_pki/novactl"
    trap - EXIT
    sync "$nv_pki"
    for nv_file in "$nv_pki"/novactl-*; do
        [ "$nv_file" = "$nv_set" ] || rm -rf "$nv_file"
    done
}

nv_pki_publish() { # number: stdin is the revocation list of that number; one that is no newer than what is here is let go.
    # Says which number is here then
    nv_pki_find
    nv_pki_lock
    nv_where=$nv_pki/novactl
    [ -e "$nv_where/crl-number" ] || nv_die 1 "novactl's certificates are no longer in $nv_pki"
    read -r nv_seen <"$nv_where/crl-number"
    if [ "$1" -le "$nv_seen" ]; then
        echo "$nv_seen"
        return 0
    fi
    nv_full=$nv_where/.ca-crl.new
    cat >"$nv_full" || nv_failed "cannot write to $nv_pki"
    sync "$nv_full" || nv_failed "cannot write to $nv_pki"
    mv "$nv_full" "$nv_where/ca-crl.pem"
    echo "$1" >"$nv_where/crl-number"
    echo "$1"
}
