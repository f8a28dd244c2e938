"""The subcommands of `lepton`: one file each, with `add(subparsers)` and `run(args) -> exit status`."""
