"""An installation that survives a reboot: a systemd service, and releases of it that are switched at once and back.

settings: the table [service] of its configuration. units: the files that systemd and udev read. releases: versions side
by side and the link that says which one runs. systemd: talking to the manager. upgrade: from one release to another,
and back where the new one does not work. install: everything onto a machine or into an image, and off it again.
"""
