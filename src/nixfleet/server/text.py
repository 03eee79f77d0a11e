"""Device-supplied text is data: facts are cleaned where they come in."""

import msgspec

from nixfleet.model.device import Facts
from nixfleet.model.text import clean


def clean_facts(facts: Facts | None) -> Facts | None:
    """Give facts with every text cleaned."""
    if facts is None:
        return None
    texts = {
        name: clean(value)
        for name in facts.__struct_fields__
        if isinstance(value := getattr(facts, name), str) and value
    }
    return msgspec.structs.replace(facts, **texts, addresses=tuple(map(clean, facts.addresses)))
