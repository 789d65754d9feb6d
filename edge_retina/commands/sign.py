"""`edge-retina sign`: say with a key who made a bundle or a plan."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["sign_command"]


@click.command("sign")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--key", metavar="KEY.pem", type=click.Path(path_type=Path), required=True, help="ed25519 private key; keep it."
)
@click.option("--new-key", is_flag=True, help="Make that key first, with its public half beside it: KEY.pub.")
def sign_command(file: Path, key: Path, new_key: bool) -> None:
    """Sign FILE, a bundle or a plan with its .json beside it: FILE.sig.

    A bundle or a plan is executable content. Give KEY.pub to the machines that are to trust it, on another road than
    FILE; whoever has KEY.pem can sign in your name.
    """
    from edge_retina.plans import read_bare
    from edge_retina.signing import make_key, public_path, sign, statement

    if statement(file).kind == "plan":
        read_bare(file)  # nobody signs a plan that is not whole
    if new_key:
        click.echo(f"made {key}, keep it to yourself, and {make_key(key)}, for those who are to trust it", err=True)
    click.echo(str(sign(file, key)))
    click.echo(f"whoever has {public_path(key)} can check it", err=True)
