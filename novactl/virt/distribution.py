"""Base files that go from host to host (remote/distribute.sh)."""

from novactl.version import __version__
from novactl.virt.calls import Calls, check_base, trust_word


class Distribution(Calls):
    """What push and fetches from other hosts do on both of them."""

    def pull_words(
        self,
        key: str,
        name: str,
        size: int,
        source_format: str,
        virtual_size: int,
        *,
        proven: bool,
        raw_sum: str | None,
        waits: bool,
    ) -> list[str]:
        """The base file is here, from the target of the key; the words of a job. `proven`: only
        its source, whose name is its sum; else also what was made of it there, if that is all there is and
        hashes to `raw_sum` (None: to what that host says). `waits`: that host gets it meanwhile. What the
        job says is for raw_sum_of()."""
        made_by = f"novactl {__version__}"
        what = (check_base(name), str(size), source_format, made_by, str(virtual_size))
        made = f"sparse:{check_base(raw_sum)}" if raw_sum else "any"
        how = ("source" if proven else made, *(["wait"] if waits else []))
        return ["nv_base_pull", trust_word(key), self.base_path, *what, *how]

    def serve_words(self, name: str) -> list[str]:
        """All that the key may do here: get this base file, or what has come of it."""
        return ["nv_serve", self.base_path, check_base(name)]
