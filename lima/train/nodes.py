"""What the nodes of a run tell each other: that they live, what they run, and why one of them stops.

A node that dies leaves the others waiting in a collective, for half an hour by default. Here the launchers, which have
nothing else to do, write a beat into the store that torchrun keeps on node 0, and each reads the others'.
"""

import json
import socket
import threading
import time
from datetime import timedelta

BEAT = 2.0  # seconds between two beats
SILENCE = 30.0  # seconds without one after which a node counts as dead
FAILED = "lima/failed"


class Watch:
    """Beats for `node` of `nodes` and calls `stop(cause)` once, when another has failed, is silent or runs something else.

    `address`, `port`: torchrun's store; `record`: `{topic: value}` that must be the same on all nodes, such as versions.
    """

    def __init__(self, node, nodes, address, port, record, stop):
        self.node, self.nodes, self.address, self.port = node, nodes, address, port
        self.record, self.stop = {"host": socket.gethostname(), "runs": record}, stop
        self.heard, self.said, self.cause, self.over = {}, {}, None, False
        for work in (self._beat, self._judge):
            threading.Thread(target=work, daemon=True).start()

    def fail(self, cause):
        """Tells the others why this node stops, unless one of them failed before. Returns the first cause."""
        teller = threading.Thread(target=self._tell, args=(cause,), daemon=True)
        teller.start()
        teller.join(2 * BEAT)
        return self.cause or cause

    def first_cause(self, seconds):
        """What another node said of its failure, waiting for it at most `seconds`; None if none did."""
        until = time.monotonic() + seconds
        while self.cause is None and time.monotonic() < until:
            time.sleep(0.1)
        return self.cause

    def close(self):
        """To be called when this node's part is done. Node 0 leaves last: it keeps the store that the others read."""
        self.over = True
        if self.node == 0:
            time.sleep(2 * BEAT)

    def missing(self):
        """Nodes that have not been heard of."""
        return [node for node in range(self.nodes) if node not in self.said]

    def _store(self):
        from torch.distributed import TCPStore

        timeout = timedelta(seconds=SILENCE)
        return TCPStore(self.address, self.port, is_master=False, wait_for_workers=False, timeout=timeout)

    def _tell(self, cause):
        self.cause = self._store().compare_set(FAILED, "", cause).decode()

    def _beat(self):
        number = 0
        while not self.over:
            try:
                store = self._store()
                while not self.over:
                    number += 1
                    self._exchange(store, number)
                    time.sleep(BEAT)
            except Exception:  # whatever the store says of a lost connection; `_judge` decides what it means
                time.sleep(BEAT)

    def _exchange(self, store, number):
        store.set(_key(self.node), json.dumps({"beat": number, **self.record}))
        for node in range(self.nodes):
            if store.check([_key(node)]):
                said = json.loads(store.get(_key(node)))
                if said != self.said.get(node):
                    self.said[node], self.heard[node] = said, time.monotonic()
        if self.cause is None and store.check([FAILED]):
            self.cause = store.get(FAILED).decode()

    def _judge(self):
        """In a thread of its own: a read from a store that has become unreachable does not return."""
        while not self.over and not (self.cause or self._silent() or self._different()):
            time.sleep(0.5)
        if not self.over:
            self.cause = self.cause or self._silent() or self._different()
            self.stop(self.cause)

    def _silent(self):
        now = time.monotonic()
        for node, heard in self.heard.items():
            if now - heard > SILENCE and node != self.node:
                host = self.said[node]["host"]
                return f"node {node} ({host}) has been silent for {SILENCE:.0f} s: it is down, or cut off from this one"
        return None

    def _different(self):
        ours = self.record
        for node, theirs in sorted(self.said.items()):
            for topic, value in ours["runs"].items():
                other = theirs["runs"].get(topic)
                if other != value:
                    return (
                        f"nodes differ: {topic} is {value} on node {self.node} ({ours['host']}), {other} on node {node} "
                        f"({theirs['host']}); bring all to the same"
                    )
        return None


def _key(node):
    return f"lima/node/{node}"
