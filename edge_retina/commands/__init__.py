"""Commands of `edge-retina`, one file each."""
