"""Keys of a section that what one of its keys chooses does not read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fedsmu_ray.config.plain_data import format_value


def unread_keys(
    section: str,
    values: object,
    chooser: str,
    read: Mapping[str, Sequence[str]],
    choice: str | None = None,
) -> Iterator[str]:
    """A problem for each key that is not at its default, but not read by the choice.

    section: its dotted name; values: its dataclass. chooser: the key that chooses. read: the keys
    that each choice reads. choice: the one of `read` that was made; default: the chooser's value.
    """
    defaults, chosen = type(values)(), getattr(values, chooser)
    own = read[chosen if choice is None else choice]
    for key in dict.fromkeys(key for keys in read.values() for key in keys):
        value = getattr(values, key)
        if key in own or value == getattr(defaults, key):
            continue
        users = [other for other, keys in read.items() if key in keys]
        shown = str(value).lower() if isinstance(value, bool) else format_value(value)
        yield (
            f"{section}.{key} = {shown}: {section}.{chooser} = {chosen} does not read it (only "
            f"{', '.join(users)}); remove it"
        )
