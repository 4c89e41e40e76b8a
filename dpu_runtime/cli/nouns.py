"""`dpu NOUN add|del|show`: commands of what functions have, made from their cli.json.

In:   the data of functions (functions.py).
Not:  the noun `port`, which has more to it (main.py, commands.py).
"""

from dpu_runtime.cli import commands, options


def add(verbs, add_command, json_option, declared):
    """Have `verbs` take the nouns of the functions; `add_command` as main.py has it."""
    for function in declared:
        for noun in function["nouns"]:
            if noun["name"] not in verbs.choices:
                verbs.add_parser(
                    noun["name"],
                    help=f"add, delete and show {noun['many']}",
                    fill=lambda parser, noun=noun: _verbs(parser, noun, add_command, json_option),
                )


def summaries(declared):
    """Lines that say what each function does."""
    width = max((len(function["name"]) for function in declared), default=0)
    lines = [f"  {function['name'].ljust(width)}  {function['summary']}".rstrip() for function in declared]
    return "\n".join(["functions:", *lines]) if lines else None


def name_option(parser):
    """The word that says which one is meant."""
    parser.add_argument("name", metavar="NAME")


def filter_option(parser, noun="port"):
    """The word that may say which one is meant."""
    parser.add_argument("name", metavar="NAME", nargs="?", help=f"one {noun}; default: all")


def _verbs(parser, noun, add_command, json_option):
    def add_options(add):
        options.add(add, noun["options"])
        return noun

    def show_options(show):
        filter_option(show, noun["name"])
        if noun["stats"]:
            show.add_argument(
                "--stats", action="store_true", help=f"with {' and '.join(noun['stats'])} of each"
            )
        return noun

    def del_option(delete):
        name_option(delete)
        return noun

    verbs = parser.add_subparsers(metavar="VERB", required=True)
    one = f"{'an' if noun['name'][0] in 'aeiou' else 'a'} {noun['name']}"
    about = noun["about"].rstrip(".")
    own_socket = any(option.get("flag") == "--socket" for option in noun["options"])
    add_command(
        verbs,
        "add",
        f"add {one}: {about}" if about else f"add {one}",
        commands.item_add,
        add_options,
        **({"parent": json_option} if own_socket else {}),
    )
    add_command(verbs, "del", f"delete {one}", commands.item_del, del_option)
    add_command(verbs, "show", f"show {noun['many']}", commands.item_show, show_options)
