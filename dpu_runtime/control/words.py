"""Names and numbers of what a configuration has, as a log line says them."""


def by_section(names):
    """[(section, name)] as words, a section each."""
    found = {}
    for section, name in names:
        found.setdefault(section, []).append(name)
    return [f"{section} {', '.join(own)}" for section, own in found.items()]


def enumeration(words):
    """The words as one says them: a, b and c."""
    *front, last = words
    return f"{', '.join(front)} and {last}" if front else last


def how_many(parts):
    """{list of a configuration: how many are in it}."""
    return {key: len(part) for key, part in parts.items() if key != "runtime"}


def in_numbers(numbers, sections):
    """What `how_many` says, in words: ports, and of the functions' sections what there is."""
    words = {section.key: section.words for section in sections}
    items = [f"{number} {words[key]}" for key, number in numbers.items() if number and key in words]
    return enumeration([f"{numbers['port']} ports", *items])
