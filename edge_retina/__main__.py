"""python -m edge_retina: the same as the edge-retina command."""

from edge_retina.cli import main

main()
