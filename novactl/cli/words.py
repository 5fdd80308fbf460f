"""The words on the root, the module of this room that each comes from, and its line of `--help`."""

MODULES: dict[str, dict[str, str]] = {
    "completion": {
        "completion": "Print a script that makes the shell complete commands.",
    },
    "boot": {
        "boot": "Make an instance and start it.",
    },
    "placement": {
        "schedule": "Show what boot would choose, from what the database knows.",
    },
    "instances": {
        "list": "List instances.",
        "show": "Show an instance.",
        "wait": "Wait until an instance is as asked.",
    },
    "lifecycle": {
        "start": "Start instances.",
        "stop": "Shut instances down.",
        "reboot": "Restart guests.",
        "pause": "Make guests stand still, in memory.",
        "unpause": "Let paused guests go on.",
        "suspend": "Save the memory of guests on their hosts' disks.",
        "resume": "Let suspended guests go on where they were.",
        "lock": "Refuse all that would change these instances.",
        "unlock": "Let locked instances be changed again.",
        "delete": "Delete instances and their disks.",
    },
    "rescues": {
        "rescue": "Boot guests from a rescue image.",
        "unrescue": "Boot guests from their own disks again.",
        "rebuild": "Give instances new disks of an image.",
        "shelve": "Put instances away as images of their disks.",
        "unshelve": "Let shelved instances run again.",
    },
    "evacuate": {
        "evacuate": "Run instances of a host that is down on other hosts.",
    },
    "moves": {
        "resize": "Give an instance another flavor.",
        "migrate": "Move instances to other hosts.",
        "resize-confirm": "Keep instances as a resize or migration left them.",
        "resize-revert": "Bring instances back to what they were before a move.",
    },
    "snapshots": {
        "snapshot": "Make an image of an instance's disks.",
    },
    "backups": {
        "backup": "Backups of instances' disks.",
    },
    "recover": {
        "recover": "End what was left half way, after a look everywhere.",
    },
    "live": {
        "migrate-abort": "End a live migration that is under way.",
    },
    "records": {
        "set": "Give an instance another name, more metadata or tags.",
        "unset": "Take metadata or tags from an instance.",
        "reset-state": "Record that an instance is active, or in error.",
    },
    "consoles": {
        "console-log": "Print what the guest wrote on its serial console.",
        "ssh": "Log in to an instance through its host.",
    },
    "hosts": {
        "host": "Hypervisors.",
    },
    "pki": {
        "pki": "Certificates by which hosts know each other.",
    },
    "aggregates": {
        "aggregate": "Groups of hosts.",
    },
    "catalogue": {
        "flavor": "Sizes of instances.",
        "image": "What root disks are made from.",
        "keypair": "Public keys for the guests' users.",
        "network": "Networks of instances.",
    },
    "projects": {
        "project": "Projects that have limits; default and others need none.",
        "quota": "What a project may use, and what it uses.",
    },
    "groups": {
        "group": "Server groups: instances that are kept together, or apart.",
    },
    "inventory": {
        "inventory": "The fleet as files.",
    },
    "rebalance": {
        "rebalance": "Move instances: rules are mended, the load is spread.",
    },
    "operations": {
        "op": "Operations: what was done, and what is left.",
        "event": "What happened to instances.",
    },
    "playbook": {
        "playbook": "Runbooks of novactl operations and host commands.",
    },
    "audit": {
        "audit": "Compare the database with the hosts, both ways.",
    },
    "cron": {
        "cron": "Do all periodic work that is due.",
    },
    "health": {
        "check": "Tell what needs attention, from the database alone.",
        "metrics": "Figures of the fleet for Prometheus.",
    },
    "database": {
        "db": "The database.",
    },
    "lab": {
        "lab": "A disposable fleet of real hypervisors on this machine.",
    },
    "demo": {
        "demo": "Boot an instance on two disposable hypervisors.",
    },
}
"""In the order of `--help`, which shows it without importing any of them. Each line is how the command's own
help begins; tests/cli/test_options.py compares them."""
