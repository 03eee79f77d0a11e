"""A coordinator's log routes over a made fleet: enough for mirrors and admins to read and append over real sockets."""

import hashlib
from collections.abc import Callable

import msgspec
from tests.factories import Fleet
from tests.httpd import Answer, Asked, refusal

from nixfleet.model.wire import AppendRequest, AppendResponse, Entries, Entry
from nixfleet.trust.leaf import Leaf
from nixfleet.trust.replay import Valid, Void, Waiting


class FakeLog:
    """Answers log requests from `fleet`; `before_append` runs before each append, as another admin would act."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.per_answer = 1_000
        self.wanted: Callable[[int], bool] = lambda _: True
        """Which entries come with their payload."""
        self.before_append: Callable[[], object] = lambda: None
        self.appended: list[AppendRequest] = []

    def __call__(self, asked: Asked) -> Answer:
        """Answer one request."""
        if asked.path == "/v1/checkpoint":
            return Answer(self.fleet.checkpoint, kind="text/plain")
        if asked.path == "/v1/log/entries":
            query = dict(pair.split("=") for pair in asked.query.split("&"))
            return self._entries(int(query["start"]), int(query["limit"]))
        if asked.path.startswith("/v1/log/payloads/"):
            return self._payload(asked.path.rpartition("/")[2])
        if (asked.method, asked.path) == ("POST", "/v1/log"):
            return self._append(msgspec.json.decode(asked.body, type=AppendRequest))
        return refusal("unknown", f"no such route {asked.path}", status=404)

    def _entries(self, start: int, limit: int) -> Answer:
        end = min(start + limit, start + self.per_answer, self.fleet.size)
        entries = tuple(
            Entry(leaf=leaf, payload=payload if self.wanted(index) else None)
            for index, (leaf, payload) in enumerate(self.fleet.entries[start:end], start=start)
        )
        return Answer(msgspec.json.encode(Entries(start=start, entries=entries)))

    def _payload(self, digest: str) -> Answer:
        found = [payload for _, payload in self.fleet.entries if hashlib.sha256(payload).hexdigest() == digest]
        return Answer(found[0], kind="application/octet-stream") if found else refusal("unknown", "none", status=404)

    def _append(self, request: AppendRequest) -> Answer:
        """Judge as a coordinator does: all or none, and nothing void; the log's clock moves on by a second."""
        self.before_append()
        if request.size not in {None, self.fleet.size}:
            return refusal("conflict", f"the log has {self.fleet.size} entries", status=409)
        state, first = self.fleet.state.copy(), self.fleet.size
        kept = len(self.fleet.entries), len(self.fleet.verdicts), self.fleet.tree
        self.fleet.now += 1
        for one in request.statements:
            leaf = Leaf(self.fleet.now, hashlib.sha512(one.payload).digest(), one.signature).pack()
            self.fleet.append_leaf(leaf, one.payload)
            verdict = self.fleet.verdicts[-1]
            if isinstance(verdict, Void):
                assert kept[0] == self.fleet.size - 1, "only single refused statements are undone here"
                self.fleet.entries.pop()
                self.fleet.verdicts.pop()
                self.fleet.state = state
                self.fleet.tree = type(self.fleet.tree)()
                for old, _ in self.fleet.entries:
                    self.fleet.tree.append(old)
                return refusal("refused", verdict.reason, status=403)
            assert isinstance(verdict, Valid | Waiting)
        self.appended.append(request)
        indexes = tuple(range(first, self.fleet.size))
        return Answer(msgspec.json.encode(AppendResponse(indexes=indexes, checkpoint=self.fleet.checkpoint)))
