"""``nixfleet agent`` as the command line lists it; `nixfleet.__main__` starts it without any of this being imported."""

import click


@click.command(
    add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[run|status|check|pause|resume|apply|join|rekey]")
def agent(words: tuple[str, ...]) -> int:
    """Run the agent on a device, or ask it where the device stands."""
    from nixfleet.agent.main import main

    return main(words)
