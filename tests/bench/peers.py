"""The peers that stagebridge is compared with. What each is set to stands in its class and is printed into the page; tests/services/ starts them."""
from debezium import Debezium, LeanDebezium, TunedDebezium
from pgstream import Pgstream
from pipelines import Stagebridge

PEERS = (Debezium, TunedDebezium, LeanDebezium, Pgstream)


def each(m, measure):
    """Runs measure(part, pipeline) on us, then on each peer of this run. A peer that fails is noted as failed; the others go on."""
    for kind in (Stagebridge, *(peer for peer in PEERS if peer.name in m.options.peers)):
        with m.of(kind.name) as part, kind() as pipeline:
            measure(part, pipeline)
