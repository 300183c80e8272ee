"""Whether an address answers, found out within a fixed time."""

import queue
import threading

import requests


def why_unreachable(url: str, seconds: float) -> str | None:
    """Asks for the first byte of `url`; returns None if it came, else the reason in few words.

    Returns within `seconds` whatever the network does: a name server may hang longer than any
    timeout that can be set for it, so a thread asks and is left behind. The libraries and proxies
    used are those TensorFlow Datasets downloads with.
    """
    answer: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            with requests.get(url, stream=True, timeout=seconds) as response:
                if response.status_code != requests.codes.ok:
                    answer.put(f"HTTP status {response.status_code}")
                    return
                # A stalled server may still send its headers.
                next(response.iter_content(1), b"")
            answer.put(None)
        except Exception as error:  # whatever it is, the answer is "unreachable"
            answer.put(type(error).__name__)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.get(timeout=seconds)
    except queue.Empty:
        return f"no answer within {seconds:g} s"
