"""How the parts run: the Procfile, the one-machine launcher and the `burnish` command."""
