# From json.awk's lines of a network_data.json to lines the init acts upon:
#   mtu MAC MTU | address MAC IP/PREFIX | route MAC NETWORK/PREFIX GATEWAY | dns ADDRESS
BEGIN { FS = "\t" }
{ depth = split($1, at, ".") }
at[1] == "links" && depth == 3 { link[at[2], at[3]] = $2; if (at[2] >= links) links = at[2] + 1 }
at[1] == "networks" && depth == 3 { net[at[2], at[3]] = $2; if (at[2] >= nets) nets = at[2] + 1 }
at[1] == "networks" && at[3] == "routes" && depth == 5 {
    route[at[2], at[4], at[5]] = $2; if (at[4] >= routes[at[2]]) routes[at[2]] = at[4] + 1
}
at[1] == "services" && at[3] == "address" { print "dns", $2 }

function prefix(mask,    part, i, n, bits) {
    bits = 0; n = split(mask, part, ".")
    for (i = 1; i <= n; i++) while (part[i] > 0) { bits += part[i] % 2; part[i] = int(part[i] / 2) }
    return bits
}

END {
    for (i = 0; i < links; i++) {
        mac[link[i, "id"]] = tolower(link[i, "ethernet_mac_address"])
        if (link[i, "mtu"] + 0 > 0) print "mtu", mac[link[i, "id"]], link[i, "mtu"]
    }
    for (i = 0; i < nets; i++) {
        if (net[i, "type"] != "ipv4") continue
        nic = mac[net[i, "link"]]
        address = net[i, "ip_address"]
        print "address", nic, address (address ~ /\// ? "" : "/" prefix(net[i, "netmask"]))
        for (j = 0; j < routes[i]; j++)
            print "route", nic, route[i, j, "network"] "/" prefix(route[i, j, "netmask"]), route[i, j, "gateway"]
        if (net[i, "gateway"] ~ /^[0-9]/) print "route", nic, "0.0.0.0/0", net[i, "gateway"]
    }
}
