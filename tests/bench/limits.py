"""The limits (docs/performance.md explains them): seconds, or ratios of two figures of one run. This is the
only place where a limit stands."""

HELP_SECONDS = 0.15
"""`novactl --help` and `novactl boot --help`; a shell's completion starts the same program."""

LIST_SECONDS = 0.4
"""`novactl list` of LIST_INSTANCES instances, as a table and as JSON."""

LIST_INSTANCES = 1000

LIST_MORE_HOSTS = 1.15
"""The same list with LIST_HOSTS hosts takes at most so many times what it takes with one."""

LIST_HOSTS = 500

CRON_SECONDS = 0.3
"""`novactl cron` when no task is due."""

METRICS_SECONDS = 1.0
"""`novactl metrics` of FLEET_HOSTS hosts and FLEET_INSTANCES instances, with an operation each."""

FLEET_HOSTS = 1000

FLEET_INSTANCES = 20000

DIFF_SECONDS = 2.0
"""`novactl inventory diff` of 1,000 hosts and 20,000 instances, nothing of which differs."""

BOOT_OF_RAW = 1.3
"""One boot of a cached image: at most so many times the raw calls, plus start-up."""

TEN_BOOTS_OF_RAW = 1.25
"""Ten boots on one host: at most so many times ten raw threads, plus start-up."""

TEN_DELETES_OF_RAW = 1.5
"""Ten deletes: at most so many times ten raw threads, plus start-up."""

QUICK_FACTOR = 2.0
"""Without --bench-json or BENCH_FULL=1 (as in `make test`, on machines that do other things too) there are
few repetitions and every limit is so many times wider: one that has become twice as slow is still seen."""

ATTEMPTS = 3
"""How often the quick variant measures what is over its limit before it says so."""

MANY_INSTANCES, MANY_HOSTS = 20_000, 1000

PAGE_SECONDS = 1.0
"""A filtered page, a host's instances, `show`, and `host list`, with MANY_INSTANCES on MANY_HOSTS."""

REFRESH_SECONDS = 10.0
"""`list --refresh` of REFRESH_HOSTS, cold, 5 % of them dead and 5 % slow."""

REFRESH_HOSTS = 500

BULK_OF_SLOWEST = 1.3
"""Stopping BULK_GUESTS on three hosts: at most so many times what the slowest of them takes."""

BULK_GUESTS = 50

DECISION_SECONDS = 0.05
"""One decision over 10,000 hosts in process: all default filters, an anti-affinity group of 50."""

SCHEDULE_SECONDS = 1.0
"""The same as a command."""

BATCH_SECONDS = 5.0
"""10,000 instances onto 10,000 hosts, with the commit, on SQLite."""

CLAIMERS = 8
"""Processes that claim at once."""

CLAIM_SECONDS = 0.001
"""One full claim of theirs, when each command claims for CLAIMS_AT_ONCE instances, as many as have their
steps written at once."""

CLAIMS_AT_ONCE = 64

REBALANCE_SECONDS = 2.0
"""The plan of a rebalancing of FLEET_HOSTS and FLEET_INSTANCES, as a function."""

REBALANCE_COMMAND_SECONDS = 3.0
"""`novactl rebalance` of the same fleet, from SQLite, printing some two thousand moves."""

NO_WORSE = 1.0001
"""Spread and moves of a rebalancing by those of hbal; its figures are printed with so many digits."""

PACKING = 0.05
"""By how much placement told to pack may be behind the best of first fit, best fit and dot product."""

LIVE_OF_RAW = 1.2
"""A live migration: at most so many times virsh's over the same transport, plus start-up."""

DOWNTIME_MORE = 0.1
"""By how many seconds the guest may be silent longer than when virsh moves it."""

COPY_OF_PLAIN = 1.25
"""Copying a disk between two hosts: at most so many times what plain ssh takes for the same bytes, which is
0.8 of its rate."""

DRAIN_BY_TWO = 0.65
"""Emptying a host whose link lets a move take ten seconds, two moves at a time: at most so many times what
one at a time takes."""

SNAPSHOT_OF_RAW = 1.3
"""A live snapshot: at most so many times virsh blockcopy, qemu-img convert and ssh by hand, plus start-up."""

FROZEN_SECONDS = 0.5
"""How long the guest's file systems are frozen at most meanwhile."""

INSPECT_SECONDS = 0.05
"""A look at a qcow2 of 100 GiB."""

UNCACHED_OF_SCP = 1.2
"""What a boot takes longer when its host has not got the image: at most so many times scp and qemu-img
convert take."""

PUSH_TO_SIX = 1.5
"""One image to six hosts over slow links: at most so many times what it takes to one of them."""
