"""What a test can set about the emulator, also while requests are under way."""

import collections.abc
import dataclasses
import re
import secrets
import threading
from time import monotonic

PAGE = 1000  # items and prefixes in a page of a list, as in Cloud Storage
TEST_TOKEN = "emulated.test"  # the same in all emulators: TensorStore keeps its first
PERMISSIONS = frozenset(
    {
        "storage.buckets.get",
        "storage.objects.create",
        "storage.objects.delete",
        "storage.objects.get",
        "storage.objects.list",
    }
)


@dataclasses.dataclass(eq=False)
class Fault:
    """What goes wrong with the requests that match.

    Attributes:
      match: a regular expression, searched in "METHOD host/path?query agent", unquoted.
      status: the response's status; the request is not carried out.
      reset: the connection ends without a response; the request is not carried out.
      stall: seconds to wait halfway through the response's body.
      truncate: bytes of the response's body after which the connection ends; 0 after
        the headers.
      seconds: how long the fault lasts from when it is added; None for ever.
      after: matching requests that are spared first.
      count: the most requests that are hit; None for no limit.
      hits: the requests that were hit.
    """

    match: str = ""
    _: dataclasses.KW_ONLY
    status: int | None = None
    reset: bool = False
    stall: float | None = None
    truncate: int | None = None
    seconds: float | None = None
    after: int = 0
    count: int | None = None
    hits: int = dataclasses.field(default=0, init=False)
    _matches: int = dataclasses.field(default=0, init=False, repr=False)
    _added: float = dataclasses.field(default=0.0, init=False, repr=False)

    def start(self) -> None:
        """Starts the clock and the counts anew."""
        self.hits, self._matches, self._added = 0, 0, monotonic()

    def applies(self, request: str) -> bool:
        """Counts a request; whether the fault hits it."""
        if self.seconds is not None and monotonic() > self._added + self.seconds:
            return False
        if self.count is not None and self.hits >= self.count:
            return False
        if not re.search(self.match, request):
            return False
        self._matches += 1
        hit = self._matches > self.after
        self.hits += hit
        return hit


class Faults(collections.abc.MutableSequence):
    """A list of faults; each one starts when it is added."""

    def __init__(self, faults=()):
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self.extend(faults)

    def first(self, request: str) -> Fault:
        """The first fault that hits a request, or one without any effect."""
        with self._lock:
            return next((f for f in self._faults if f.applies(request)), Fault())

    def insert(self, index: int, fault: Fault) -> None:
        fault.start()
        self._faults.insert(index, fault)

    def __setitem__(self, index, value) -> None:
        value.start()
        self._faults[index] = value

    def __getitem__(self, index):
        return self._faults[index]

    def __delitem__(self, index) -> None:
        del self._faults[index]

    def __len__(self) -> int:
        return len(self._faults)


class Controls:
    """Attributes of the emulator that tests set.

    Attributes:
      latency: seconds before every response.
      page: the most items and prefixes in a page of a list.
      seconds_between_writes: the status is 429 for an object that is written sooner
        after its last write. Cloud Storage allows one write a second.
      permissions: the IAM permissions that all callers have.
      check_tokens: the status is 401 without a token that was given out and not
        revoked.
      token_seconds: how long the metadata server says that a token is valid.
      token_status: the metadata server's status for tokens, if not 200.
    """

    def __init__(self):
        self.set_defaults()

    def set_defaults(self) -> None:
        self.latency = 0.0
        self.page = PAGE
        self.seconds_between_writes = 0.0
        self.permissions = set(PERMISSIONS)
        self.check_tokens = False
        self.token_seconds = 3600
        self.token_status = 200
        self._tokens = {TEST_TOKEN}
        self._faults = Faults()

    @property
    def faults(self) -> Faults:
        """The faults in force; an assigned list replaces all of them."""
        return self._faults

    @faults.setter
    def faults(self, faults) -> None:
        self._faults = Faults(faults)

    def new_token(self) -> str:
        """Gives out a token, as the metadata server does."""
        token = f"emulated.{secrets.token_hex(12)}"
        self._tokens.add(token)
        return token

    def revoke_tokens(self) -> None:
        """Makes all tokens that were given out invalid."""
        self._tokens = set()

    def accepts(self, token: str) -> bool:
        return not self.check_tokens or token in self._tokens
