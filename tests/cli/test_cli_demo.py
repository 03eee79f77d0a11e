"""The demo's options: what is out of bounds is refused before a fleet is begun."""

import pytest
from tests.cli.commandline import Commands


@pytest.mark.parametrize("speed", ["0.5", "61", "nan", "inf", "fast"])
def test_a_speed_is_a_number_from_1_to_60(nixfleet: Commands, speed: str) -> None:
    """Anything else is a slip in the words, said in a line that names the option, and nothing is started for it."""
    refused = nixfleet("demo", "--headless", "--speed", speed, code=2)
    assert "--speed" in refused.complaint
