"""The floor: a process with nothing but the native reader, which fetches a topic from its start to its end and iterates.

`python -m pipeline.bench.floor BROKERS TOPIC PARTITIONS WARM_RECORDS` prints one JSON object (see `Steady.figures`). No
Python object is made per record, so this is what librdkafka alone costs: fetching, decompressing, checking, handing over.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

from pipeline.bench.steady import Steady
from pipeline.config.schema import Kafka
from pipeline.source import open_reader

POLL_RECORDS_MAX = 10_000
SILENCE_S_MAX = 30.0


def main(arguments: Sequence[str]) -> int:
    """Reads every partition to its end; gives 1 when the broker stops answering."""
    brokers, topic, partitions, warm_records = arguments
    reader = open_reader(Kafka(brokers=brokers, group="penstock-floor"))
    count = int(partitions)
    steady = Steady(int(warm_records))
    heard_s = time.monotonic()
    steady.begin()
    reader.assign([(topic, number, 0) for number in range(count)])
    records = nbytes = ends = 0
    while ends < count:
        read, size, ended, _ = reader.drain(POLL_RECORDS_MAX, 1_000)
        records, nbytes, ends = records + read, nbytes + size, ends + ended
        steady.read(records)
        now_s = time.monotonic()
        heard_s = now_s if read or ended else heard_s
        if now_s - heard_s > SILENCE_S_MAX:
            return 1
    print(json.dumps({"records": records, "bytes": nbytes} | steady.figures(records)))
    reader.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
