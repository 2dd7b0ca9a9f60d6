"""The floor: a process with nothing but the native reader, which fetches a topic from its start to its end and iterates.

`python -m pipeline.bench.floor BROKERS TOPIC PARTITIONS` prints one JSON object. No Python object is made per record, so
this is what librdkafka alone costs: fetching, decompressing, checking, handing over.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence

from pipeline.config.schema import Kafka
from pipeline.source import open_reader

POLL_RECORDS_MAX = 10_000
SILENCE_S_MAX = 30.0


def main(arguments: Sequence[str]) -> int:
    """Reads every partition to its end; gives 1 when the broker stops answering."""
    brokers, topic, partitions = arguments
    reader = open_reader(Kafka(brokers=brokers, group="penstock-floor"))
    count = int(partitions)
    started = resource.getrusage(resource.RUSAGE_SELF)
    started_s = heard_s = time.monotonic()
    reader.assign([(topic, number, 0) for number in range(count)])
    records = nbytes = ends = 0
    while ends < count:
        read, size, ended, _ = reader.drain(POLL_RECORDS_MAX, 1_000)
        records, nbytes, ends = records + read, nbytes + size, ends + ended
        now_s = time.monotonic()
        heard_s = now_s if read or ended else heard_s
        if now_s - heard_s > SILENCE_S_MAX:
            return 1
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = used.ru_utime + used.ru_stime - started.ru_utime - started.ru_stime
    print(json.dumps({"records": records, "bytes": nbytes, "cpu_s": cpu_s, "wall_s": time.monotonic() - started_s}))
    reader.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
