#!/usr/bin/env python3
"""A stand-in for systemctl that keeps its state in files: what it was told, and how the service is.

$FAKE_SYSTEMD: a folder. log: each call, a line. state: ActiveState, MainPID. $FAKE_STATE: /var/lib/NAME.
A release is as good as its run.toml says: "#fails" does not get ready, "#falls" falls over later, "#unfit" does not
prepare, "#slow" takes 30 s to get ready. "#killer" kills the one who called, at once, when it is restarted.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

folder, state = Path(os.environ["FAKE_SYSTEMD"]), Path(os.environ["FAKE_STATE"])
words = sys.argv[1:]
with (folder / "log").open("a") as log:
    log.write(" ".join(words) + "\n")


def read() -> dict:
    try:
        return json.loads((folder / "state").read_text())
    except FileNotFoundError:
        return {"ActiveState": "inactive", "MainPID": 0, "shows": 0}


def write(**changes: object) -> None:
    (folder / "state").write_text(json.dumps({**read(), **changes}))


def config(release: Path) -> str:
    return (release / "run.toml").read_text()


if words[0] == "restart" and "-prepare@" in words[1]:
    instance = words[1].split("@")[1].removesuffix(".service").replace("-", "/")
    if "#unfit" in config(state / instance):
        sys.exit("Job failed. See journalctl -xe.")
elif words[0] == "restart":
    text = config(state / "current")
    if "#killer" in text:
        os.kill(os.getppid(), signal.SIGKILL)
        sys.exit(1)
    if "#slow" in text:
        time.sleep(30)
    if "#fails" in text:
        write(ActiveState="failed", MainPID=0)
        sys.exit("Job for edge-retina.service failed.")
    write(ActiveState="active", MainPID=read()["MainPID"] + 1, shows=0)
elif words[0] == "show":
    now = read()
    write(shows=now["shows"] + 1)
    if now["ActiveState"] == "active" and now["shows"] >= 1 and "#falls" in config(state / "current"):
        write(MainPID=now["MainPID"] + 1)  # systemd has started it again
        now = read()
    for name in words[2].removeprefix("--property=").split(","):
        known = {"SubState": "running", "StatusText": "front live; 12 frames", "NRestarts": "0", "Result": "success"}
        print(f"{name}={now.get(name, known.get(name, ''))}")
elif words[:2] == ["disable", "--now"]:
    write(ActiveState="inactive", MainPID=0)
