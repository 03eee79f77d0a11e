"""The entry point: hands ``nixfleet agent`` to the agent before anything heavy is imported, the rest to the CLI."""

import sys


def main() -> int:
    """Run the program named by the arguments and give its exit code."""
    if sys.argv[1:2] == ["agent"]:
        from nixfleet.agent.main import main as agent

        return agent(sys.argv[2:])
    from nixfleet.cli.main import main as cli

    return cli(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
