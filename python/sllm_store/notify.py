"""What systemd is told (sd_notify(3)), without its library."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress


def notify(state: str, environment: Mapping[str, str] = os.environ) -> None:
    """Send lines such as READY=1 to whoever started us and asked for them; nobody may have, or listen any more."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return
    # "@" stands for the zero byte of an abstract name.
    address = f"\0{address[1:]}" if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as ours, suppress(OSError):
        ours.sendto(state.encode(), address)
