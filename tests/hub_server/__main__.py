"""Start the local Hub by hand: python -m tests.hub_server [--port 5555] [--root DIR]"""

import argparse
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

from .server import HubServer


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.hub_server", description="A Hugging Face Hub on this machine."
    )
    parser.add_argument("--port", type=int, default=5555, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--root", type=Path, help="folder of the repositories (default: a temporary one)")
    args = parser.parse_args()
    with TemporaryDirectory(prefix="hub-") as folder:
        root = args.root or Path(folder)
        with HubServer(root, args.port) as hub:
            print(f"A local Hub at {hub.endpoint}, repositories in {root}. In another terminal:\n")
            for name, value in hub.settings(root / "client-cache", hub.token).items():
                print(f"export {name}={value}")
            print(f"\nYou are {hub.user}: push to {hub.user}/NAME. {hub.read_token} can only read. Ctrl+C ends.")
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                print("\nThe local Hub has stopped.")


if __name__ == "__main__":
    main()
