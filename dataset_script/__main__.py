"""``python -m dataset_script build | mix | convert | audit | preview | push``: each has its own ``--help``."""

import logging
import sys

from .arguments import Parser
from .auditing import audit
from .building import build, convert, mixture
from .publishing import preview, push
from .publishing.card import write_card

COMMANDS = {
    "build": (build, "make a dataset of sentences and images"),
    "mix": (mixture, "bring several sources together, partly labelled ones too"),
    "convert": (convert, "write a dataset in any format as JSONL"),
    "audit": (audit, "look for leaks within a dataset, or between two"),
    "preview": (preview, "write a page of sampled rows to look at"),
    "push": (push, "push a finished dataset to the Hub"),
}


def main(argv: list[str] | None = None, prog: str = "python -m dataset_script") -> int:
    """Run a command. Returns its exit status: 2 where its input was at fault."""
    parser = Parser(prog=prog, description="Make and judge MMNER datasets.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (module, purpose) in COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=purpose, description=module.__doc__))
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it tells of each request to the Hub
    command = ""
    try:
        arguments = parser.parse_args(argv)
        command = f" {arguments.command}"
        if arguments.command == "build":
            return build.run(arguments, write_card)
        return COMMANDS[arguments.command][0].run(arguments)
    except (OSError, ValueError) as error:
        if "--debug" in sys.argv:  # which `mmner` takes for all of its commands
            raise
        # Both say what came, what was expected and what to do; a stack trace would bury it.
        print(f"{prog}{command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
