"""One reader of big answers, in a process of its own, so that it is not the driver whom they hold up.

A script: large_answer_reader.py URL. It asks again and again, and writes a line for each answer.
"""

import http.client
import os
import sys
from urllib.parse import urlsplit

NICENESS = 10
PIECE = 1 << 18  # bytes read at once


def main() -> None:
    parts = urlsplit(sys.argv[1])
    os.nice(NICENESS)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    while True:
        connection.request("GET", f"{parts.path}?{parts.query}")
        answer = connection.getresponse()
        while answer.read(PIECE):
            pass
        print(answer.status, flush=True)


if __name__ == "__main__":
    main()
